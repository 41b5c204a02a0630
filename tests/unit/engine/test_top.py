import os

import pytest

from boxwright.engine.top import TITLES, filtered, processes
from boxwright.errdefs import InvalidParameter

PS = """\
    PID TTY      STAT   TIME COMMAND
      1 ?        Ss     0:01 /sbin/init splash
    200 pts/0    S+     0:00 sleep 1000 and more
    201 pts/0    S+     0:00 other
"""


def test_rows_of_the_container_only() -> None:
    assert filtered(PS, {200}) == {
        "Titles": ["PID", "TTY", "STAT", "TIME", "COMMAND"],
        "Processes": [["200", "pts/0", "S+", "0:00", "sleep 1000 and more"]],
    }


def test_threads_stay_with_their_process() -> None:
    output = "PID LWP CMD\n1 - init\n- 1 -\n200 - sleep\n- 200 -\n- 203 -\n"
    assert filtered(output, {200})["Processes"] == [["200", "-", "sleep"], ["-", "200", "-"], ["-", "203", "-"]]


@pytest.mark.parametrize("output", ["", "COMMAND\nsleep\n"])
def test_without_a_pid_column(output: str) -> None:
    with pytest.raises(InvalidParameter, match="Couldn't find PID field in ps output"):
        filtered(output, {1})


def test_own_process_as_ps_shows_it() -> None:
    (row,) = processes([os.getpid(), 2**22 + 1])
    assert len(row) == len(TITLES)
    assert row[1:3] == [str(os.getpid()), str(os.getppid())]
    assert "python" in row[7] or "pytest" in row[7]
