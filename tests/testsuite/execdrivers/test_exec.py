"""What every exec driver has to do for further programs in a container."""

import asyncio
from pathlib import Path

import pytest

from boxwright.errdefs import Conflict, StepError
from boxwright.execdriver import Driver, Hooks

from .conftest import Bench, Client, Recorder, ended, log_of, process, run, until

pytestmark = pytest.mark.root


def test_exec_has_streams_and_an_exit_code_of_its_own(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        running = await driver.start(request, hooks)
        client = Client(mux=True)
        pid = await running.exec("e1", process("sh", "-c", "echo out; echo err >&2; exit 5"), attach=client.request)
        assert pid > 0
        data = await client.all()
        # The code is known before the stream ends.
        assert hooks.events == [("exec_exit", {"exec_id": "e1", "exit_code": 5})]
        assert running.execs["e1"] == {"pid": pid, "running": False, "exit_code": 5}
        assert b"\1\0\0\0\0\0\0\4out\n" in data
        assert b"\2\0\0\0\0\0\0\4err\n" in data
        await running.signal(9)
        await ended(running)

    run(bench, body)
    assert log_of(request) == []
    bench.assert_nothing_of(request)


def test_exec_reads_stdin_to_its_end(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        client = Client()
        await running.exec("e", process("wc", "-c"), attach=client.request, open_stdin=True)
        await client.send(b"x" * 300_000)
        client.half_close()
        assert (await client.all()).strip() == b"300000"
        await running.signal(9)
        await ended(running)

    run(bench, body)


def test_exec_on_a_terminal(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        client = Client(mux=True)
        wanted = process("sh", "-c", "test -t 0 && read x && stty size", consoleSize={"height": 10, "width": 20})
        await running.exec("e", wanted, tty=True, attach=client.request, open_stdin=True)
        await running.exec_resize("e", 44, 99)
        await client.send(b"go\n")
        assert await client.all() == b"go\r\n44 99\r\n"
        await running.signal(9)
        await ended(running)

    run(bench, body)


@pytest.mark.parametrize(("program", "code"), [("missing", 127), ("/bin/plain", 126), ("/bin", 126)])
def test_exec_of_what_cannot_be_executed(bench: Bench, program: str, code: int) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        client = Client()
        with pytest.raises(StepError) as caught:
            await running.exec("e", process(program), attach=client.request)
        assert caught.value.exit_code == code
        assert await client.all() == b""
        # The name is free again, and the container unharmed.
        await running.exec("e", process("true"))
        await running.signal(9)
        await ended(running)

    run(bench, body)


def test_exec_ends_with_its_process_whoever_holds_its_streams(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        running = await driver.start(request, hooks)
        client = Client()
        await running.exec("e", process("sh", "-c", "sleep 900 & echo said"), attach=client.request)
        assert await client.all() == b"said\n"
        assert hooks.events == [("exec_exit", {"exec_id": "e", "exit_code": 0})]
        await running.signal(9)
        await ended(running)

    run(bench, body)
    bench.assert_nothing_of(request)


def test_many_execs_at_once(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        running = await driver.start(request, hooks)

        async def one(n: int) -> None:
            client = Client()
            await running.exec(f"e{n}", process("sh", "-c", f"echo {n}; exit {n}"), attach=client.request)
            assert await client.all() == b"%d\n" % n

        await asyncio.gather(*(one(n) for n in range(20)))
        assert sorted(data["exit_code"] for _, data in hooks.events) == list(range(20))
        await running.signal(9)
        await ended(running)

    run(bench, body)


def test_exec_signal_and_the_end_of_the_container(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        running = await driver.start(request, hooks)
        await running.exec("a", process("sleep", "900"), detach=True)
        await running.exec("b", process("sleep", "900"), detach=True)
        await running.exec_signal("a", 15)
        assert await hooks.wait("exec_exit") == {"exec_id": "a", "exit_code": 143}
        with pytest.raises(Conflict):
            await running.exec_signal("a", 15)
        await running.signal(9)
        await ended(running)
        assert ("exec_exit", {"exec_id": "b", "exit_code": 137}) in hooks.events
        with pytest.raises(Conflict):
            await running.exec("c", process("true"))

    run(bench, body)
    bench.assert_nothing_of(request)


TREE = """
sh -c 'sleep 901 & wait' &
setsid sh -c 'sleep 902 & sleep 903 & exit 0' &
trap '' TERM INT; sleep 0.05; echo up
while :; do sleep 1000; done
"""


def commands(pids: list[int]) -> list[str]:
    """The command lines of processes that have one, sorted."""
    found = []
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            continue
        found.append(b" ".join(words).decode())
    return sorted(filter(None, found))


@pytest.mark.parametrize("way", ["limit", "kill"])
def test_an_exec_ends_with_its_descendants(bench: Bench, way: str) -> None:
    request, client, hooks = bench.request("sleep", "1000"), Client(), Recorder()

    async def body(driver: Driver) -> None:
        running = await driver.start(request, hooks)
        limit_ns = 400_000_000 if way == "limit" else 3600 * 10**9
        await running.exec("e", process("sh", "-c", TREE), attach=client.request, limit_ns=limit_ns)
        await running.exec("other", process("sleep", "904"))
        if way == "kill":
            await client.until(b"up")
            assert len(await running.pids()) >= 7
            await running.exec_signal("e", 15)  # its program does not care, and nobody else gets it
            await running.exec_signal("e", 9)
        ended_so = {"exec_id": "e", "exit_code": 137} | ({"timed_out": True} if way == "limit" else {})
        assert await hooks.wait("exec_exit") == ended_so
        assert running.execs["e"].get("timed_out", False) is (way == "limit")
        await until(lambda: commands(bench.group(request).pids()) == ["sleep 1000", "sleep 904"])
        await running.signal(9)
        await ended(running)

    run(bench, body)
    bench.assert_nothing_of(request)


def test_an_exec_that_ends_in_time_is_not_timed_out(bench: Bench) -> None:
    request, hooks = bench.request("sleep", "1000"), Recorder()

    async def body(driver: Driver) -> None:
        running = await driver.start(request, hooks)
        await running.exec("e", process("true"), limit_ns=30 * 10**9)
        assert await hooks.wait("exec_exit") == {"exec_id": "e", "exit_code": 0}
        await running.signal(9)
        await ended(running)

    run(bench, body)
