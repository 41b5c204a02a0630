"""The helper of an exec dies, or cannot tell of the program that it has forked: the container can still be ended.

The first process of a pid namespace ends only when all others in it have been reaped, and such a program is the shim's
child, of which the shim has not heard.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import below, injection
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def own(nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine().start().load()
    yield made
    made.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("error", ["ENOBUFS", "ETOOMANYREFS"])
def test_a_message_of_the_helper_fails(own: Engine, error: str, tmp_path: Path) -> None:
    own.ok("run", "-d", "--name", "host", "--net", "none", "busybox", "sleep", "1000")
    first = own.inspect("host")["State"]["Pid"]
    [shim] = [pid for pid in below.named(own, below.SHIM) if first in children(pid)]
    refused = 0
    for nth in range(1, 5):
        with injection.failing([shim], "sendmsg", error, nth, tmp_path / str(nth)):
            refused += own.docker("exec", "host", "true").code != 0
    assert refused
    # What the shim knew nothing of has been reaped.
    wait_for(lambda: children(shim) == [first], "the shim has one child")
    own.ok("rm", "-f", "host")
    wait_for(lambda: below.dead(first), "the first process is gone")
    assert below.groups(own) == set()
