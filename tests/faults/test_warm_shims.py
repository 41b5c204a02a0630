"""Shims that start a second container, and a third: in a burst, and with nothing of the first one in them."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import below
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network]

CLIENTS = 8


def create(engine: Engine, name: str, command: list[str], **host_config: object) -> str:
    body = {"Image": "busybox", "Cmd": command, "HostConfig": host_config}
    made = engine.api("POST", f"/containers/create?name={name}", body)
    assert made.status == 201, made.raw
    return str(made.json["Id"])


def start(engine: Engine, name: str) -> int:
    """Start it; the pid of its shim."""
    answer = engine.api("POST", f"/containers/{name}/start")
    assert answer.status == 204, answer.raw
    return parent(engine.inspect(name)["State"]["Pid"])


def end(engine: Engine, name: str) -> None:
    assert engine.api("POST", f"/containers/{name}/kill").status == 204
    assert engine.api("POST", f"/containers/{name}/wait").status == 200
    assert engine.api("DELETE", f"/containers/{name}").status == 204


def burst(engine: Engine, rounds: int, **host_config: object) -> list[int]:
    """As many clients at once; the pids of the shims."""

    def client(number: int) -> list[int]:
        found = []
        for turn in range(rounds):
            name = f"burst-{number}-{turn}"
            create(engine, name, ["sleep", "1000"], **host_config)
            found.append(start(engine, name))
            end(engine, name)
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [pid for pids in pool.map(client, range(CLIENTS)) for pid in pids]


def test_a_burst_needs_fewer_shims_than_containers(own: Engine) -> None:
    shims = burst(own, 6)
    assert len(set(shims)) < len(shims)
    wait_for(lambda: not below.named(own, below.SHIM), "the warm ones are sent away")
    assert not below.groups(own)


def test_who_could_look_into_a_shim_gets_a_fresh_one(own: Engine) -> None:
    shims = burst(own, 4, CapAdd=["SYS_PTRACE"])
    assert len(set(shims)) == len(shims)


def test_a_warm_shim_holds_nothing_of_the_first_container(own: Engine) -> None:
    """The second one's shim has the same descriptors as any first one's, and its log has its own lines only."""
    create(own, "fresh", ["sleep", "1000"])
    usual = sorted(descriptors(start(own, "fresh")))
    end(own, "fresh")
    seen: set[int] = set()
    for turn in range(20):
        names = [f"hold-{turn}-{n}" for n in range(4)]
        for name in names:
            create(own, name, ["sh", "-c", f"echo {name}; exec sleep 1000"])
        with ThreadPoolExecutor(len(names)) as pool:
            shims = list(pool.map(lambda name: start(own, name), names))
        for name, shim in zip(names, shims, strict=True):
            wait_for(lambda name=name: logged(own, name) == name, f"{name} has spoken")  # type: ignore[misc]
            assert sorted(descriptors(shim)) == usual, shim in seen
        again = seen.intersection(shims)
        seen.update(shims)
        for name in names:
            end(own, name)
        if again:
            return
    raise AssertionError("no shim was taken again")


def test_one_that_dies_while_it_is_warm_costs_no_start(own: Engine) -> None:
    for _ in range(3):
        burst(own, 2)
        for pid in below.named(own, below.SHIM):
            os.kill(pid, signal.SIGKILL)
        burst(own, 1)
    wait_for(lambda: not below.named(own, below.SHIM), "none is left")
    assert not below.groups(own)


def test_the_engine_dies_beside_warm_shims(own: Engine) -> None:
    burst(own, 2)
    own.kill()
    wait_for(lambda: not below.named(own, below.SHIM, below.WAITING_SHIM), "they have gone with it")
    own.start()
    burst(own, 1)


def logged(engine: Engine, name: str) -> str:
    return engine.ok("logs", name).strip()


def descriptors(pid: int) -> Iterator[str]:
    """What a process has open, less the numbers of pipes and sockets."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        yield target.partition("[")[0].partition("/containers/")[0].partition("/snapshots/")[0]


def parent(pid: int) -> int:
    """The pid of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
