"""Engine and shim hang up on each other, and both are there: on an engine that does not read, on a shim that is stopped."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kernel.test_shim_deaths import named
from testsuite.execdrivers.conftest import DEADLINE, Bench, Client, Recorder, ended, prepared, process, run

from boxwright.errdefs import StepError
from boxwright.execdriver import Driver, Hooks, lives, running
from boxwright.execdriver.native import NativeDriver

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bench(nothing_left_behind: None) -> Iterator[Bench]:
    made = Bench("native")
    yield made
    made.close()


def hang_up(life: Any) -> None:
    """End the connection between engine and shim; both are there."""
    life._channel._sock.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_ends_is_not_the_end_of_a_shim(bench: Bench) -> None:
    request = bench.request("sh", "-c", "read x; exit 4", open_stdin=True)

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        life = await driver.start(request, hooks)
        client = Client()
        await life.attach(client.request)
        await life.exec(
            "ends", process("sh", "-c", "read x; exit 5"), open_stdin=True, attach=(late := Client()).request
        )
        for _ in range(running.RETURNS):
            again = watched(life)
            hang_up(life)
            assert await asyncio.wait_for(again, DEADLINE)
        await late.send(b"\n")
        assert (await hooks.wait("exec_exit"))["exit_code"] == 5
        assert life.pid in await life.pids()
        await client.send(b"\n")
        assert (await ended(life)).exit_code == 4
        client.close()
        late.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def watched(life: Any) -> "asyncio.Future[bool]":
    """Done with its answer when `life` has tried to return to its shim."""
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    returned = type(life)._return

    async def spied() -> bool:
        del life._return
        done.set_result(answer := await returned(life))
        return answer

    life._return = spied
    return done


def test_an_exec_that_ends_between_two_connections_is_told(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        life = await driver.start(request, hooks)
        pid = await life.exec(
            "e", process("sh", "-c", "read x; exit 5"), open_stdin=True, attach=(late := Client()).request
        )
        returned = type(life)._return

        async def later() -> bool:
            async with asyncio.timeout(DEADLINE):
                await late.send(b"\n")
                while os.path.exists(f"/proc/{pid}"):
                    await asyncio.sleep(0.001)
            return bool(await returned(life))  # type: ignore[arg-type]

        life._return = later  # type: ignore[attr-defined]
        hang_up(life)
        assert (await hooks.wait("exec_exit"))["exit_code"] == 5
        assert not life.exit.done()
        await life.signal(9)
        await ended(life)
        late.close()

    run(bench, body)


def test_an_end_between_two_connections_is_read_from_its_record(bench: Bench) -> None:
    request = bench.request("sh", "-c", "read x; exit 6", open_stdin=True)

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        client = Client()
        await life.attach(client.request)
        returned = type(life)._return

        async def later() -> bool:
            async with asyncio.timeout(DEADLINE):
                await client.send(b"\n")
                while os.listdir(bench.exec_root / "shims"):
                    await asyncio.sleep(0.001)
            return bool(await returned(life))  # type: ignore[arg-type]

        life._return = later  # type: ignore[attr-defined]
        hang_up(life)
        status = await asyncio.wait_for(asyncio.shield(life.exit), DEADLINE)
        assert (status.exit_code, status.error) == (6, "")
        client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


async def the_one(bench: Bench, name: str) -> int:
    """The process of this name, as soon as there is one and no other."""
    async with asyncio.timeout(DEADLINE):
        while len(found := named(bench, name)) != 1:
            await asyncio.sleep(0.001)
    return found[0]


def test_a_waiting_shim_that_is_stopped_costs_no_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request goes to another one, and it does not wake up to it."""
    monkeypatch.setattr(running, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(lives, "LEAVE_SECONDS", 0.5)
    request = bench.request("sh", "-c", "exit 3")

    async def body(driver: Driver) -> None:
        assert isinstance(driver, NativeDriver)
        await prepared(driver)
        async with asyncio.timeout(DEADLINE):
            while driver._waiting._line is None:  # its first process will begin, and is in the way of the second's
                await asyncio.sleep(0.001)
        waits = await the_one(bench, "boxwright-spare")
        os.kill(waits, signal.SIGSTOP)
        assert (await ended(await driver.start(request, Hooks()))).exit_code == 3
        async with asyncio.timeout(DEADLINE):
            while waits in bench.shims():
                await asyncio.sleep(0.001)

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_start_says_that_an_earlier_one_is_in_its_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher is stopped with the request in its queue; when it goes on, nothing is begun for who has given up."""
    monkeypatch.setattr(running, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(lives, "LEAVE_SECONDS", 0.2)
    request = bench.request("sh", "-c", "exit 3")

    async def body(driver: Driver) -> None:
        assert isinstance(driver, NativeDriver)
        await prepared(driver)
        waits = await the_one(bench, "boxwright-spare")
        launcher = await the_one(bench, "bw-launch-shim")
        os.kill(launcher, signal.SIGSTOP)
        try:
            os.kill(waits, signal.SIGKILL)
            async with asyncio.timeout(DEADLINE):
                while driver.prepared:
                    await asyncio.sleep(0.001)
            with pytest.raises(StepError, match="an earlier life of the container has not ended"):
                await driver.start(request, Hooks())
        finally:
            os.kill(launcher, signal.SIGCONT)
        monkeypatch.undo()
        assert (await ended(await driver.start(request, Hooks()))).exit_code == 3

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_start_that_says_a_word_and_then_hangs_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shim is stopped after it has told of the first process: it is ended, and the next start begins."""
    monkeypatch.setattr(running, "ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(running, "HANG_SECONDS", 0.5)
    monkeypatch.setattr(lives, "LEAVE_SECONDS", 0.5)
    request = bench.request("sh", "-c", "exit 3", configure_network=True)
    hung: list[int] = []

    async def network(pid: int, netns_fd: int, netlink_fd: int) -> None:
        hung.append(await the_one(bench, "boxwright-shim"))
        os.kill(hung[0], signal.SIGSTOP)

    async def body(driver: Driver) -> None:
        with pytest.raises(StepError, match="said nothing for 0 s in the middle of the start") as failure:
            await driver.start(request, Recorder(network))
        assert "does not answer" in failure.value.hint
        async with asyncio.timeout(DEADLINE):
            while hung[0] in bench.shims():
                await asyncio.sleep(0.001)
        bench.assert_nothing_of(request)
        monkeypatch.undo()
        request.generation += 1
        assert (await ended(await driver.start(request, Recorder()))).exit_code == 3

    run(bench, body)
    bench.assert_nothing_of(request)


def test_the_engines_own_part_of_a_start_may_take_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(running, "HANG_SECONDS", 0.05)
    request = bench.request("sh", "-c", "exit 3", configure_network=True)
    patience: list[float] = []
    looked = running.NativeRunning._await_word

    def counted(life: running.NativeRunning, seconds: float) -> None:
        patience.append(seconds)
        looked(life, seconds)

    monkeypatch.setattr(running.NativeRunning, "_await_word", counted)

    async def network(pid: int, netns_fd: int, netlink_fd: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(patience) < 4:  # it has been looked at three times
                await asyncio.sleep(0.001)
        monkeypatch.setattr(running, "HANG_SECONDS", DEADLINE)

    async def body(driver: Driver) -> None:
        assert (await ended(await driver.start(request, Recorder(network)))).exit_code == 3

    run(bench, body)
    bench.assert_nothing_of(request)
