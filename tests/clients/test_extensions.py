"""What goes past Docker: limits in time, kill of an exec, owners and leases; also over the death of the engine."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.engine import Engine, UnixConnection, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(120)]
COMMAND = [sys.executable, "-m", "boxwright.cli.main"]
DEAF = "trap '' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def own(nothing_left_behind: None) -> Iterator[Engine]:
    """An engine that may be killed."""
    made = Engine().start().load()
    yield made
    made.close()


def boxwright(engine: Engine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "-H", engine.host, *arguments], capture_output=True, text=True, timeout=60)


def gone(engine: Engine, name: str) -> bool:
    return engine.api("GET", f"/containers/{name}/json").status == 404


def attributes(engine: Engine, name: str, action: str) -> dict[str, Any]:
    until = f"{time.time():.6f}"
    out = engine.ok("events", "--since", "0", "--until", until, "--filter", f"container={name}", "--filter",
                    f"event={action}", "--format", "{{json .Actor.Attributes}}")  # fmt: skip
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


class Lease:
    """An open lease."""

    def __init__(self, engine: Engine, id: str = "") -> None:
        self.connection = UnixConnection(engine.socket)
        self.connection.request("POST", f"{engine.version}/boxwright/leases" + (f"?id={id}" if id else ""))
        self.answer: http.client.HTTPResponse = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        self.id: str = json.loads(self.answer.readline())["Id"]

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.mark.parametrize("way", ["label", "boxwright"])
def test_a_run_with_a_limit(own: Engine, way: str) -> None:
    options = ("--name", "limited", "--restart", "always")
    if way == "label":
        own.ok(
            "run", "-d", "--label", "boxwright.timeout=1", "--stop-timeout", "1", *options, "busybox", "sh", "-c", DEAF
        )
    else:
        assert boxwright(own, "run", "-d", "--timeout", "1", *options, "busybox", "sleep", "1000").returncode == 0
    found = own.inspect("limited")
    assert (found["HostConfig"]["Timeout"], found["Boxwright"]["Timeout"]) == (1, 1)
    if way == "label":
        own.restart()  # the engine that comes back hears of it, or finds it ended
    wait_for(lambda: own.inspect("limited")["State"]["Status"] == "exited", "its time is over")
    found = own.inspect("limited")
    # The first process of a pid namespace does not hear of a SIGTERM that it does not handle.
    assert found["State"]["ExitCode"] == 137 and found["Boxwright"]["TimedOut"] and found["RestartCount"] == 0
    assert attributes(own, "limited", "die")["timedOut"] == "true"
    own.ok("rm", "limited")


def test_an_exec_with_a_limit(own: Engine) -> None:
    own.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    ran = boxwright(own, "exec", "--timeout", "1", "box", "sh", "-c", "echo begun; sleep 1234 & sleep 1234")
    assert (ran.returncode, ran.stdout) == (137, "begun\n")
    assert attributes(own, "box", "exec_die")["timedOut"] == "true"
    assert "sleep 1234" not in own.ok("top", "box")
    body = {"Cmd": ["sleep", "2345"], "Timeout": 1}
    id = own.api("POST", "/containers/box/exec", body).json["Id"]
    assert own.api("POST", f"/exec/{id}/start", {"Detach": True}).status == 200
    own.kill()
    pid_gone = lambda: subprocess.run(["pgrep", "-f", "^sleep 2345$"], capture_output=True).returncode == 1  # noqa: E731
    wait_for(pid_gone, "the limit holds without an engine")
    own.start()
    found = own.api("GET", f"/exec/{id}/json").json
    assert (found["Running"], found["ExitCode"], found["Boxwright"]["TimedOut"]) == (False, 137, True)
    own.ok("rm", "-f", "box")


def test_kill_of_an_exec(own: Engine) -> None:
    own.ok("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    id = own.api("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", "sleep 1234 & trap '' INT; wait"]}).json["Id"]
    assert own.api("POST", f"/exec/{id}/kill").status == 409
    assert own.api("POST", f"/exec/{id}/start", {"Detach": True}).status == 200
    wait_for(lambda: "sleep 1234" in own.ok("top", "box"), "it runs")
    assert own.api("POST", f"/exec/{id}/kill?signal=WHAT").status == 400
    assert own.api("POST", f"/exec/{id}/kill?signal=INT").status == 204
    assert own.api("POST", f"/exec/{id}/kill").status == 204
    wait_for(lambda: not own.api("GET", f"/exec/{id}/json").json["Running"], "it ends")
    assert own.api("GET", f"/exec/{id}/json").json["ExitCode"] == 137
    wait_for(lambda: "sleep 1234" not in own.ok("top", "box"), "its children end")
    assert own.api("POST", f"/exec/{id}/kill").status == 409
    assert own.api("POST", "/exec/nope/kill").status == 404
    assert own.api("POST", "/containers/box/exec", {"Cmd": ["true"], "Timeout": -1}).status == 400
    own.ok("rm", "-f", "box")


def test_a_container_dies_with_the_process_that_owns_it(own: Engine) -> None:
    owner = subprocess.Popen(["sleep", "1000"])
    own.ok("run", "-d", "--name", "owned", "--label", f"boxwright.owner={owner.pid}", "busybox", "sleep", "1000")
    own.ok("run", "-d", "--name", "free", "busybox", "sleep", "1000")
    assert own.inspect("owned")["HostConfig"]["Owner"].startswith(f"{owner.pid}:")
    own.restart()
    assert own.inspect("owned")["State"]["Running"]
    owner.kill()
    owner.wait()
    wait_for(lambda: gone(own, "owned"), "it goes with its owner")
    assert own.inspect("free")["State"]["Running"]
    refused = own.docker("create", "--label", f"boxwright.owner={owner.pid}", "busybox")
    assert refused.code == 1 and "the owner is not running" in refused.err
    own.ok("rm", "-f", "free")


def test_an_owner_that_ends_while_no_engine_is_there(own: Engine) -> None:
    owner = subprocess.Popen(["sleep", "1000"])
    own.ok("run", "-d", "--name", "owned", "--label", f"boxwright.owner={owner.pid}", "busybox", "sleep", "1000")
    own.kill()
    owner.kill()
    owner.wait()
    own.start()
    wait_for(lambda: gone(own, "owned"), "the next engine removes it")


def test_boxwright_run_owns(own: Engine) -> None:
    client = subprocess.Popen([*COMMAND, "-H", own.host, "run", "--own", "--name", "mine", "busybox", "sleep", "1000"])
    wait_for(lambda: not gone(own, "mine") and own.inspect("mine")["State"]["Running"], "it runs")
    client.kill()
    client.wait()
    wait_for(lambda: gone(own, "mine"), "it goes with the command")


def test_a_lease(own: Engine) -> None:
    lease = Lease(own)
    own.ok("run", "-d", "--name", "leased", "--label", f"boxwright.lease={lease.id}", "busybox", "sleep", "1000")
    own.restart()
    lease.close()
    again = Lease(own, lease.id)
    assert own.inspect("leased")["State"]["Running"]
    again.close()
    wait_for(lambda: gone(own, "leased"), "it goes with the connection")
    refused = own.docker("create", "--label", f"boxwright.lease={lease.id}", "busybox")
    assert refused.code == 1 and "no such lease" in refused.err
    assert own.api("POST", f"/boxwright/leases?id={lease.id}").status == 404


def test_a_lease_that_nobody_takes_up_again(own: Engine) -> None:
    lease = Lease(own)
    own.ok("run", "-d", "--name", "leased", "--label", f"boxwright.lease={lease.id}", "busybox", "sleep", "1000")
    own.restart()
    lease.close()
    wait_for(lambda: gone(own, "leased"), "its grace is over", 40)


def test_health_goes_on_with_a_new_engine(own: Engine) -> None:
    check = ("--health-cmd", "test ! -e /sick", "--health-interval", "100ms", "--health-retries", "1")
    own.ok("run", "-d", "--name", "well", *check, "busybox", "sleep", "1000")

    def status() -> str:
        return str(own.inspect("well")["State"]["Health"]["Status"])

    wait_for(lambda: status() == "healthy", "healthy")
    own.restart()
    assert status() == "healthy"
    own.ok("exec", "well", "touch", "/sick")
    wait_for(lambda: status() == "unhealthy", "unhealthy")
    own.ok("rm", "-f", "well")


def test_waits_for_a_removal_over_the_death_of_the_engine(own: Engine) -> None:
    own.ok("run", "-d", "--rm", "--name", "brief", "busybox", "sleep", "1000")
    own.restart()
    connection = UnixConnection(own.socket, 60)
    connection.request("POST", f"{own.version}/containers/brief/wait?condition=removed")
    answer = connection.getresponse()
    own.ok("stop", "-t", "0", "brief")
    assert json.loads(answer.read())["StatusCode"] == 137
    assert gone(own, "brief")
    connection.close()


def test_a_removal_that_an_engine_missed_answers_who_waits(own: Engine) -> None:
    own.ok("run", "-d", "--rm", "--name", "brief", "busybox", "sleep", "1000")
    pid = own.inspect("brief")["State"]["Pid"]
    own.kill()
    os.kill(pid, signal.SIGKILL)
    own.start()
    # Either it is gone already, or the wait hears of its end.
    answer = own.api("POST", "/containers/brief/wait?condition=removed")
    assert answer.status == 404 or answer.json["StatusCode"] == 137
    wait_for(lambda: gone(own, "brief"), "it is removed")
