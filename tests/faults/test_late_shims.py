"""A shim that is late (it was stopped, its engine died meanwhile) and wakes up beside the container's next life."""

import contextlib
import http.client
import os
import signal
import threading
from pathlib import Path

import pytest
from support import below
from support.engine import Engine, wait_for

from boxwright.libcontainer.cgroups import hierarchy

V1 = hierarchy.detect() == "fs"

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(180)]


def waiting(engine: Engine) -> int:
    """The shim that waits, when its first process has prepared itself."""

    def ready() -> list[int]:
        processes = below.named(engine, below.WAITING_PROCESS)
        return below.named(engine, below.WAITING_SHIM) if processes and all(map(below.asleep, processes)) else []

    found: list[int] = wait_for(ready, "a shim waits")
    return found[0]


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def ask_to_start(engine: Engine, name: str) -> threading.Thread:
    def request() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            engine.api("POST", f"/containers/{name}/start")

    thread = threading.Thread(target=request)
    thread.start()
    wait_for(lambda: engine.inspect(name)["Boxwright"]["Operation"] == "starting", "it is being started")
    return thread


@pytest.mark.parametrize("network", ["bridge", "none"])
def test_a_start_that_nobody_waits_for_any_more_leaves_the_next_alone(own: Engine, network: str) -> None:
    """It has its request, and has not read it, when its engine is killed."""
    late = waiting(own)
    os.kill(late, signal.SIGSTOP)
    try:
        wait_for(lambda: stopped(late), "it is stopped")
        own.ok("create", "--name", "twice", "--network", network, "busybox", "sleep", "1000")
        thread = ask_to_start(own, "twice")
        own.kill()
        thread.join(60)
        own.start()
        state = own.inspect("twice")["State"]
        assert (state["Status"], state["ExitCode"]) == ("created", 128) and "engine ended" in state["Error"]
        own.ok("start", "twice")
        pid = own.inspect("twice")["State"]["Pid"]
        socket = own.exec_root / "shims" / f"{own.inspect('twice')['Id']}.sock"
        listens = socket.stat().st_ino
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(late, signal.SIGCONT)
    wait_for(lambda: below.dead(late), "it goes")
    assert own.ok("exec", "twice", "echo", "on") == "on"
    assert socket.stat().st_ino == listens
    own.restart()
    state = own.inspect("twice")["State"]
    assert (state["Running"], state["Pid"]) == (True, pid)
    own.ok("rm", "-f", "twice")
    wait_for(lambda: not below.groups(own), "no cgroup is left")


def test_what_a_first_process_made_alone_goes_with_the_next_engine(own: Engine) -> None:
    """The engine has told the first process and not (as far as it ever hears) the shim: its cgroup is there."""
    late = waiting(own)
    os.kill(late, signal.SIGSTOP)
    wait_for(lambda: stopped(late), "it is stopped")
    name = own.ok("create", "--name", "alone", "--network", "none", "busybox", "true")
    thread = ask_to_start(own, "alone")
    if V1:  # the only one on which the first process is told by the engine
        wait_for(lambda: name in below.groups(own), "the first process has made the cgroup")
    own.kill()
    thread.join(60)
    first = below.named(own, below.WAITING_PROCESS)
    os.kill(late, signal.SIGKILL)
    wait_for(lambda: below.dead(late) and all(map(below.dead, first)), "they have ended")
    if V1:
        assert name in below.groups(own)  # nobody was left to remove it
    own.start()
    assert name not in below.groups(own)
    assert below.groups(own) <= {"spare"}
    state = own.inspect("alone")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 128) and "engine ended" in state["Error"]
    own.ok("start", "-a", "alone")
    own.ok("rm", "alone")
    wait_for(lambda: not below.groups(own), "no cgroup is left")


def test_a_start_whose_engine_died_is_not_begun(own: Engine) -> None:
    """It wakes up before the next engine is there, and finds its request and the end of who sent it."""
    late = waiting(own)
    os.kill(late, signal.SIGSTOP)
    wait_for(lambda: stopped(late), "it is stopped")
    own.ok("create", "--name", "never", "--network", "none", "-v", "/tmp:/host", "busybox", "touch", f"/host/{late}")
    thread = ask_to_start(own, "never")
    own.kill()
    thread.join(60)
    os.kill(late, signal.SIGCONT)
    wait_for(lambda: below.dead(late), "it goes")
    own.start()
    state = own.inspect("never")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 128) and "engine ended" in state["Error"]
    assert not Path(f"/tmp/{late}").exists()
    own.ok("rm", "never")
