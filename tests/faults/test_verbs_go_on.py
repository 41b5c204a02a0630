"""What a verb had begun when the engine was killed is finished, or undone, by the next one."""

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(120)]
DEAF = "trap '' TERM; echo up; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def own(nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine().start().load()
    yield made
    made.close()


def cut_off(engine: Engine, method: str, path: str, operation: str, name: str) -> None:
    """Send a request and kill the engine once the container is in `operation`; the client hears nothing."""
    broken = threading.Event()

    def request() -> None:
        try:
            engine.api(method, path, timeout=60)
        except (OSError, http.client.HTTPException):
            broken.set()

    thread = threading.Thread(target=request)
    thread.start()
    wait_for(lambda: engine.inspect(name)["Boxwright"]["Operation"] == operation, f"{name} is {operation}")
    engine.kill()
    thread.join(60)
    assert broken.is_set()
    engine.start()


def test_a_stop_is_finished(own: Engine) -> None:
    own.ok("run", "-d", "--name", "deaf", "--stop-timeout", "600", "busybox", "sh", "-c", DEAF)
    wait_for(lambda: own.ok("logs", "deaf") == "up", "it is deaf")
    cut_off(own, "POST", "/containers/deaf/stop?t=1", "stopping", "deaf")
    wait_for(lambda: own.inspect("deaf")["State"]["Status"] == "exited", "the stop goes on")
    assert own.inspect("deaf")["State"]["ExitCode"] == 137
    own.ok("rm", "deaf")


def test_a_restart_is_finished(own: Engine) -> None:
    own.ok("run", "-d", "--name", "again", "--stop-timeout", "600", "busybox", "sh", "-c", DEAF)
    wait_for(lambda: own.ok("logs", "again") == "up", "it is deaf")
    first = own.inspect("again")["State"]["Pid"]
    cut_off(own, "POST", "/containers/again/restart?t=1", "restarting", "again")
    wait_for(lambda: own.inspect("again")["State"]["Pid"] not in (0, first), "the restart goes on")
    assert own.ok("logs", "again").split() == ["up", "up"]
    own.ok("rm", "-f", "again")


def test_what_ends_meanwhile_is_removed_or_started_by_its_policy(own: Engine) -> None:
    own.ok("run", "-d", "--rm", "--name", "goes", "busybox", "sleep", "0.5")
    own.ok("run", "-d", "--restart", "always", "--name", "comes", "busybox", "sh", "-c", "sleep 0.5; exit 3")
    own.ok("run", "-d", "--restart", "on-failure:1", "--name", "tries", "busybox", "sh", "-c", "sleep 0.5; exit 4")
    own.ok("run", "-d", "--name", "stays", "busybox", "sh", "-c", "sleep 0.5; exit 5")
    first = own.inspect("comes")["State"]["Pid"]
    own.kill()
    wait_for(lambda: not _alive(first), "its first life ends")
    own.start()
    wait_for(lambda: own.inspect("comes")["RestartCount"] >= 1, "the policy goes on")
    wait_for(lambda: own.api("GET", "/containers/goes/json").status == 404, "it is removed")
    wait_for(lambda: own.inspect("tries")["State"]["Status"] == "exited", "the policy gives up")
    assert own.inspect("tries")["RestartCount"] == 1 and own.inspect("tries")["State"]["ExitCode"] == 4
    assert own.inspect("stays")["State"]["ExitCode"] == 5
    own.ok("rm", "-f", "comes", "tries", "stays")


def test_a_paused_container_stays_paused(own: Engine) -> None:
    own.ok("run", "-d", "--name", "frozen", "busybox", "sleep", "1000")
    own.ok("pause", "frozen")
    own.restart()
    assert own.inspect("frozen")["State"]["Status"] == "paused"
    own.ok("unpause", "frozen")
    assert own.ok("exec", "frozen", "echo", "hi") == "hi"
    own.ok("rm", "-f", "frozen")


def test_a_dead_shim_is_its_containers_death(own: Engine) -> None:
    """Also when it dies while no engine is there: the container is ended by its cgroup, and the policy goes on."""
    for engine_is_there in (True, False):
        own.ok("run", "-d", "--restart", "on-failure:1", "--name", "orphan", "busybox", "sleep", "1000")
        first = own.inspect("orphan")["State"]["Pid"]
        shim = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
        if not engine_is_there:
            own.kill()
        os.kill(shim, signal.SIGKILL)
        if not engine_is_there:
            own.start()
        wait_for(lambda: own.inspect("orphan")["RestartCount"] == 1, "the policy answers the death")
        wait_for(lambda first=first: not _alive(first), "nothing of the first life is left")
        wait_for(lambda: own.inspect("orphan")["State"]["Running"], "it runs again")
        own.ok("rm", "-f", "orphan")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
