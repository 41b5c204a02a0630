"""No process more, by a pids limit of the engine or of the container: what is asked for fails and says why, what runs
goes on, and a second attempt succeeds when there is room."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import below
from support.engine import Engine, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not os.path.isdir("/sys/fs/cgroup/pids"), reason="needs cgroup v1"),
]

MOST = 40  # starts that are tried for one that is refused


@contextlib.contextmanager
def crowded(engine: Engine, room: int) -> Iterator[None]:
    """The engine and what is below it may have `room` more processes and threads."""
    group = Path(f"/sys/fs/cgroup/pids/{engine.home.name}")
    group.mkdir()
    assert engine.process
    pids = [engine.process.pid, *below.processes(engine), *below.processes(engine, "worker")]
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text(str(int((group / "pids.current").read_text()) + room))
        yield
    finally:
        (group / "pids.max").write_text("max")

        def emptied() -> bool:
            for pid in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (group.parent / "cgroup.procs").write_text(pid)
            return not (group / "cgroup.procs").read_text()

        wait_for(emptied, "the group is empty")
        group.rmdir()


def attempt(engine: Engine, name: str, **host_config: object) -> tuple[int, str]:
    """Create and start: the status of the start, and what it said."""
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host_config}
    made = engine.api("POST", f"/containers/create?name={name}", body)
    if made.status != 201:
        return made.status, made.message
    answer = engine.api("POST", f"/containers/{name}/start")
    return answer.status, answer.message if answer.status >= 400 else ""


def reason(text: str) -> bool:
    return "resource temporarily unavailable" in text.lower() or "limit of processes" in text


@pytest.mark.parametrize("room", range(6))
def test_no_process_more_for_the_engine(own: Engine, room: int) -> None:
    own.ok("run", "-d", "--name", "witness", "busybox", "sleep", "1000")
    pid = own.inspect("witness")["State"]["Pid"]
    found: list[tuple[int, str]] = []
    with crowded(own, room):
        # The first ones take what waits for them already.
        while len(found) < MOST and all(status == 204 for status, _ in found):
            found.append(attempt(own, f"crowd{len(found)}"))
    assert found[-1][0] != 204 and reason(found[-1][1]), found
    assert own.inspect("witness")["State"]["Pid"] == pid and own.ok("exec", "witness", "echo", "on") == "on"
    for n, (status, _) in enumerate(found):
        if status != 204:
            own.docker("rm", f"crowd{n}")
            assert attempt(own, f"crowd{n}") == (204, "")
        own.ok("exec", f"crowd{n}", "true")
        own.ok("rm", "-f", f"crowd{n}")
    own.ok("rm", "-f", "witness")
    wait_for(lambda: not below.groups(own), "no cgroup is left")


def test_no_process_more_for_an_exec(own: Engine) -> None:
    """The container's own limit: its program is there already."""
    own.ok("run", "-d", "--name", "full", "--pids-limit", "1", "busybox", "sleep", "1000")
    ran = own.docker("exec", "full", "true")
    assert ran.code != 0 and reason(ran.out + ran.err) and "--pids-limit" in ran.out + ran.err, ran
    assert own.inspect("full")["State"]["Running"]
    own.ok("update", "--pids-limit", "10", "full")
    assert own.ok("exec", "full", "echo", "in") == "in"
    own.ok("rm", "-f", "full")


def test_a_limit_of_processes_below_what_a_start_needs(own: Engine) -> None:
    """--init forks the program: with a limit of one it cannot, and says so."""
    status, text = attempt(own, "narrow", PidsLimit=1, Init=True)
    assert status == 500 and reason(text) and "--pids-limit" in text, (status, text)
    state = own.inspect("narrow")["State"]
    assert state["ExitCode"] == 128 and state["Error"] == text
    own.ok("update", "--pids-limit", "10", "narrow")
    own.ok("start", "narrow")
    own.ok("rm", "-f", "narrow")
