"""Who connects to a shim's socket: an engine that adopts, somebody who asks, and guests that say nothing or nonsense."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from kernel.test_shim_deaths import another_engine, named
from testsuite.execdrivers.conftest import DEADLINE, Bench, Client, Recorder, disconnect, ended, process, run

from boxwright.execdriver import Driver, Hooks, StartRequest
from boxwright.launcher import door, packets

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bench(nothing_left_behind: None) -> Iterator[Bench]:
    made = Bench("native")
    yield made
    made.close()


class Guest:
    """A connection to the shim of `request`."""

    def __init__(self, bench: Bench, request: StartRequest, *said: bytes) -> None:
        self.sock = packets.connect(f"{bench.exec_root}/shims", f"{request.id}.sock")
        for packet in said:
            with suppress(BrokenPipeError):  # shown out after the first: what it was told is there to be read
                self.sock.send(packet)

    async def hears(self) -> dict[str, Any] | None:
        """The next message, None at the end."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.sock.fileno(), readable.set)
        try:
            await asyncio.wait_for(readable.wait(), DEADLINE)
        finally:
            loop.remove_reader(self.sock.fileno())
        got = packets.receive(self.sock)
        return got and got[0]

    def close(self) -> None:
        self.sock.close()


def adopt(generation: int) -> bytes:
    return b'{"type":"adopt","generation":%d}' % generation


STRANGERS = {
    "silence": (),
    "the end": None,
    "no JSON": (b"{broken",),
    "no object": (b"[]",),
    "nested": (b"[" * 200,),
    "no word": (b'{"generation":7}',),
    "a word that is none": (b'{"type":["adopt"],"generation":7}',),
    "a word of the engine's": (b'{"type":"release","generation":7}',),
    "a verb": (b'{"type":"call","generation":7,"verb":"signal","seq":1,"signal":9,"all":true}',),
    "a long word": (b'{"type":"adopt","generation":7,"x":"' + b"x" * door.LONGEST_WORD + b'"}',),
    "a memfd": (b"M",),
    "another life": (adopt(6),),
    "no life": (b'{"type":"adopt","generation":"7"}',),
    "who": (b'{"type":"who"}',),
    "who and a verb": (b'{"type":"who"}', b'{"type":"call","generation":7,"verb":"pause","seq":1}'),
}


@pytest.mark.parametrize("said", STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_changes_nothing(bench: Bench, said: tuple[bytes, ...] | None) -> None:
    request = bench.request("sh", "-c", "read x; exit 4", open_stdin=True, generation=7)

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        life = await driver.start(request, hooks)
        client = Client()
        await life.attach(client.request)
        stranger = Guest(bench, request, *(said or ()))
        if said is None:
            stranger.close()
        elif said:
            heard = await stranger.hears()
            if b"who" in said[0]:
                assert heard is not None
                assert (heard["type"], heard["id"], heard["generation"]) == ("facts", request.id, 7)
                assert (heard["pid"], heard["state"], heard["exit"]) == (life.pid, "running", None)
                heard = await stranger.hears()
            assert heard is None
        assert life.pid in await life.pids()
        await life.exec("e", process("sh", "-c", "exit 5"))
        assert (await hooks.wait("exec_exit"))["exit_code"] == 5
        await client.send(b"\n")
        assert (await ended(life)).exit_code == 4
        assert said != () or await stranger.hears() is None  # silent to the end: shown out with the container
        stranger.close()
        client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_descriptor_from_a_stranger_is_closed(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        ours, theirs = socket.socketpair()
        stranger = Guest(bench, request)
        packets.send(stranger.sock, {"type": "adopt", "generation": 1}, [theirs.fileno()])
        theirs.close()
        assert await stranger.hears() is None
        ours.settimeout(DEADLINE)
        assert await asyncio.to_thread(ours.recv, 1) == b""
        assert life.pid in await life.pids()
        for sock in (ours, stranger.sock):
            sock.close()
        await life.signal(9)
        await ended(life)

    run(bench, body)


def test_silent_guests_keep_no_engine_waiting(bench: Bench) -> None:
    request = bench.request("sh", "-c", "read x; exit 4", open_stdin=True, generation=3)

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        (shim,) = named(bench, "boxwright-shim")
        before = len(os.listdir(f"/proc/{shim}/fd"))
        with ExitStack() as stack:
            guests = []
            for _ in range(3 * door.GUESTS):
                guests.append(Guest(bench, request))
                stack.callback(guests[-1].close)
            assert life.pid in await life.pids()
            # The first of them are shown out for those that come later.
            for guest in guests[: 2 * door.GUESTS]:
                assert await guest.hears() is None
            assert len(os.listdir(f"/proc/{shim}/fd")) <= before + door.GUESTS
            disconnect(life)
            again = await driver.adopt(request.id, 3, Hooks())
            assert again is not None and again.pid == life.pid
            client = Client()
            await again.attach(client.request)
            await client.send(b"\n")
            assert (await ended(again)).exit_code == 4
            client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_silent_guest_is_shown_out_in_time(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        first, second = Guest(bench, request), Guest(bench, request)
        assert (await first.hears(), await second.hears()) == (None, None)
        assert life.pid in await life.pids()
        for guest in (first, second):
            guest.close()
        await life.signal(9)
        await ended(life)

    run(bench, body)


def test_the_next_engine_adopts_after_kill_9_beside_guests(bench: Bench) -> None:
    request = bench.request("sh", "-c", "read x; exit 6", open_stdin=True, network="host")
    engine = another_engine(bench, request)
    assert engine.stdout
    assert engine.stdout.readline().startswith("running")
    guests = [Guest(bench, request) for _ in range(door.GUESTS)]
    engine.kill()
    engine.wait(DEADLINE)
    engine.stdout.close()

    async def body(driver: Driver) -> None:
        life = await driver.adopt(request.id, 1, Hooks())
        assert life is not None
        stranger = Guest(bench, request, b'{"type":"who"}')
        heard = await stranger.hears()
        assert heard is not None and heard["pid"] == life.pid
        client = Client()
        await life.attach(client.request)
        await client.send(b"\n")
        assert (await ended(life)).exit_code == 6
        for closes in (client, stranger, *guests):
            closes.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_who_adopts_takes_the_place_of_the_one_before(bench: Bench) -> None:
    request = bench.request("sleep", "1000", generation=2)

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        other = Guest(bench, request, adopt(2))
        assert await other.hears() is not None
        # The driver takes its connection up again, and the other one is the one before.
        async with asyncio.timeout(DEADLINE):
            while await other.hears() is not None:
                continue
        other.close()
        assert life.pid in await life.pids()
        await life.signal(signal.SIGKILL)
        assert (await ended(life)).exit_code == 137

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_start_before_its_gate_is_nobody_elses(bench: Bench) -> None:
    request = bench.request("sh", "-c", "exit 8", configure_network=True)

    async def body(driver: Driver) -> None:
        at_gate, go = asyncio.Event(), asyncio.Event()

        async def network(pid: int, netns_fd: int, netlink_fd: int) -> None:
            at_gate.set()
            await go.wait()

        start = asyncio.ensure_future(driver.start(request, Recorder(network)))
        await asyncio.wait_for(at_gate.wait(), DEADLINE)
        async with asyncio.timeout(DEADLINE):
            while not os.listdir(bench.exec_root / "shims"):
                await asyncio.sleep(0.01)
        asking, adopting = Guest(bench, request, b'{"type":"who"}'), Guest(bench, request, adopt(1))
        heard = await asking.hears()
        assert heard is not None and (heard["state"], heard["pid"]) == ("starting", 0)
        assert await adopting.hears() is None
        go.set()
        assert (await ended(await asyncio.wait_for(start, DEADLINE))).exit_code == 8
        for guest in (asking, adopting):
            guest.close()

    run(bench, body)
    bench.assert_nothing_of(request)
