"""A shim and a launcher that have no descriptor left: who knocks waits, and neither spins, hangs up or loses anything."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel.test_shim_deaths import named
from kernel.test_shim_door import Guest
from support import injection
from testsuite.execdrivers.conftest import DEADLINE, Bench, Client, Recorder, ended, process, run

from boxwright.errdefs import Error, Unavailable
from boxwright.execdriver import Driver, Hooks
from boxwright.launcher import packets

pytestmark = pytest.mark.root

WATCHED_SECONDS = 1.0
FEW_TICKS = 10  # of 100 a second: one that spins uses them all


@pytest.fixture(scope="module")
def bench(nothing_left_behind: None) -> Iterator[Bench]:
    made = Bench("native")
    yield made
    made.close()


def next_descriptor(pid: int) -> int:
    """The number that the next descriptor of a process will have."""
    taken = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    return next(number for number in range(len(taken) + 1) if number not in taken)


def ticks(pid: int) -> int:
    """Processor time that a process has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def assert_rests(pid: int, guest: Guest) -> None:
    """For a while it does next to nothing; `guest` hears nothing from it."""
    before = ticks(pid)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(guest.hears(), WATCHED_SECONDS)
    assert ticks(pid) - before <= FEW_TICKS


def test_a_shim_lets_its_guests_wait(bench: Bench) -> None:
    request = bench.request("sleep", "1000", generation=7)

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        (shim,) = named(bench, "boxwright-shim")
        with injection.few_descriptors(shim, next_descriptor(shim)):
            guest = Guest(bench, request, b'{"type":"who"}')
            await assert_rests(shim, guest)
            assert life.pid in await life.pids()
        heard = await guest.hears()
        assert heard is not None and heard["pid"] == life.pid
        guest.close()
        await life.signal(9)
        assert (await ended(life)).exit_code == 137

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_shim_refuses_a_stream_and_nothing_else(bench: Bench) -> None:
    request = bench.request("sh", "-c", "read x; exit 4", open_stdin=True)

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        life = await driver.start(request, hooks)
        (shim,) = named(bench, "boxwright-shim")
        with injection.few_descriptors(shim, next_descriptor(shim)):
            client = Client()
            with pytest.raises(Unavailable, match="no descriptor left for another stream"):
                await life.attach(client.request)
            client.close()
            client = Client()
            with pytest.raises(Error):
                await life.exec("e", process("true"), attach=client.request)
            client.close()
            assert life.pid in await life.pids()
        assert not life.exit.done()
        client = Client()
        await life.attach(client.request)
        await life.exec("e", process("sh", "-c", "exit 5"))
        assert (await hooks.wait("exec_exit"))["exit_code"] == 5
        await client.send(b"\n")
        assert (await ended(life)).exit_code == 4
        client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("becomes", [True, False], ids=["forked by us", "by a starter"])
def test_an_exec_works_or_is_refused_whole(bench: Bench, becomes: bool, tty: bool) -> None:
    """Whatever descriptor it is that is missing: no program runs on of which the shim does not know."""
    request = bench.request("sleep", "1000", **({} if becomes else {"pid": "host"}))

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        (shim,) = named(bench, "boxwright-shim")
        worked = 0
        for more in range(20):
            exec_id = f"e{more}"
            with injection.few_descriptors(shim, next_descriptor(shim) + more):
                try:
                    await life.exec(exec_id, process("sh", "-c", "exit 5"), tty=tty)
                except Error as error:
                    assert str(error)
                    continue
                async with asyncio.timeout(DEADLINE):
                    while (code := life.execs[exec_id]["exit_code"]) is None:
                        await asyncio.sleep(0.001)
                assert code == 5
                worked += 1
        assert 0 < worked < 20
        async with asyncio.timeout(DEADLINE):
            while children(shim) != [life.pid]:
                await asyncio.sleep(0.01)
        await life.signal(9)
        assert (await ended(life)).exit_code == 137

    run(bench, body)
    bench.assert_nothing_of(request)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_end_is_recorded_without_a_descriptor(bench: Bench) -> None:
    request = bench.request("sh", "-c", "read x; exit 6", open_stdin=True)

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        client = Client()
        await life.attach(client.request)
        (shim,) = named(bench, "boxwright-shim")
        with injection.few_descriptors(shim, next_descriptor(shim)):
            await client.send(b"\n")
            assert (await ended(life)).exit_code == 6
        client.close()
        assert driver.recorded(request.container_dir, 1).exit_code == 6  # type: ignore[union-attr]
        await driver.cleanup(request.id, request.container_dir, request.cgroup)

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_launcher_lets_engines_wait(bench: Bench) -> None:
    request = bench.request("true")

    async def body(driver: Driver) -> None:
        await ended(await driver.start(request, Hooks()))
        (launcher,) = named(bench, "bw-launch-shim")
        guest = Guest.__new__(Guest)
        with injection.few_descriptors(launcher, next_descriptor(launcher)):
            guest.sock = packets.connect(str(bench.exec_root), "launcher.sock")
            await assert_rests(launcher, guest)
        ours, theirs = packets.pair()
        packets.send_packet(guest.sock, packets.FORK, [theirs.fileno()])
        theirs.close()
        start = {"type": "start", "cut": True, "generation": 3, "id": "x", "cgroup": request.cgroup, "becomes": True}
        packets.send(ours, start, (), b"{}")
        guest.sock.close()
        guest.sock = ours
        heard = await guest.hears()
        assert heard is not None and heard["error"]["message"] == "the shim has no descriptor left"
        guest.close()

    run(bench, body)
