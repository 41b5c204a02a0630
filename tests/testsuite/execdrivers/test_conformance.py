"""What every exec driver has to do.  No test knows how it does it."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from boxwright.errdefs import Conflict, StepError
from boxwright.execdriver import Driver, Hooks, StartRequest
from boxwright.libcontainer import cgroups

from .conftest import DEADLINE, Bench, Client, Recorder, disconnect, ended, gone, log_of, process, run, until

pytestmark = pytest.mark.root


def test_a_program_runs_and_its_end_is_told(bench: Bench) -> None:
    request = bench.request("sh", "-c", "echo out; echo err >&2; exit 7")

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        assert running.pid > 0
        assert (running.id, running.generation) == (request.id, 1)
        status = await ended(running)
        assert (status.exit_code, status.signal, status.oom_killed, status.error) == (7, 0, False, "")
        assert status.finished_at > running.started_at
        names = [step[0] for step in running.timeline]
        assert names.index("decode") < names.index("cgroup") < names.index("mounts") < names.index("execve")
        assert all(step[1] <= step[2] for step in running.timeline)

    run(bench, body)
    assert sorted(log_of(request)) == [("stderr", "err\n"), ("stdout", "out\n")]
    bench.assert_nothing_of(request)


@pytest.mark.parametrize(
    ("program", "code", "step"),
    [
        ("/bin/missing", 127, "execve"),
        ("missing", 127, "execve"),
        ("/bin/plain", 126, "execve"),
        ("/bin", 126, "execve"),
    ],
)
def test_what_cannot_be_executed_is_told_and_undone(bench: Bench, program: str, code: int, step: str) -> None:
    request = bench.request(program)

    async def body(driver: Driver) -> None:
        with pytest.raises(StepError) as caught:
            await driver.start(request, Hooks())
        assert caught.value.exit_code == code
        assert caught.value.step == step
        assert caught.value.errno
        assert "decode" in [s[0] for s in caught.value.steps]  # type: ignore[attr-defined]

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_root_that_cannot_be_mounted_is_told_and_undone(bench: Bench) -> None:
    request = bench.request("true")
    request.rootfs["lower"] = ["/nonexistent/layer"]

    async def body(driver: Driver) -> None:
        with pytest.raises(StepError, match="nonexistent") as caught:
            await driver.start(request, Hooks())
        assert caught.value.step == "rootfs"

    run(bench, body)
    bench.assert_nothing_of(request)


@pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 143), (10, 138)])
def test_a_signal_ends_it(bench: Bench, number: int, code: int) -> None:
    request = bench.request("sh", "-c", "kill -STOP 1; exec sleep 1000")
    request.spec["process"]["args"] = [
        "sh",
        "-c",
        "trap 'exit 143' TERM; trap 'exit 138' USR1; echo up; while :; do sleep 0.1; done",
    ]

    async def body(driver: Driver) -> None:
        client = Client()
        request.attach.append(client.request)
        running = await driver.start(request, Hooks())
        await client.until(b"up")
        await running.signal(number)
        status = await ended(running)
        assert status.exit_code == code
        assert status.signal == (9 if number == 9 else 0)
        with pytest.raises(Conflict):
            await running.signal(9)
        client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_streams_attached_before_the_start_miss_nothing(bench: Bench) -> None:
    clients = [Client(stdin=False, mux=True) for _ in range(3)]
    request = bench.request("sh", "-c", "echo first; echo second >&2", attach=[c.request for c in clients])

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        for client in clients:
            data = await client.all()
            assert b"\1\0\0\0\0\0\0\6first\n" in data
            assert b"\2\0\0\0\0\0\0\7second\n" in data
        await ended(running)

    run(bench, body)


def test_stdin_is_the_clients_until_its_half_close(bench: Bench) -> None:
    client = Client()
    request = bench.request("sh", "-c", "cat; echo over", open_stdin=True, stdin_once=True, attach=[client.request])

    async def body(driver: Driver) -> None:
        await client.send(b"early\n")
        running = await driver.start(request, Hooks())
        await client.until(b"early\n")
        big = b"x" * 1_000_000
        sending = asyncio.ensure_future(client.send(big))
        while len(client.data) < 6 + len(big):
            await client.read()
        await sending
        client.half_close()
        assert await client.all() == b"early\n" + big + b"over\n"
        assert (await ended(running)).exit_code == 0

    run(bench, body)


def test_without_stdin_the_program_reads_nothing(bench: Bench) -> None:
    request = bench.request("sh", "-c", "cat; echo over")

    async def body(driver: Driver) -> None:
        assert (await ended(await driver.start(request, Hooks()))).exit_code == 0

    run(bench, body)
    assert log_of(request) == [("stdout", "over\n")]


def test_open_stdin_outlives_its_clients(bench: Bench) -> None:
    request = bench.request("sh", "-c", "while read line; do echo got $line; done; echo over", open_stdin=True)

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        for word in (b"one", b"two"):
            client = Client()
            await running.attach(client.request)
            await client.send(word + b"\n")
            await client.until(b"got " + word)
            client.close()
        await running.signal(9)
        await ended(running)

    run(bench, body)
    assert log_of(request) == [("stdout", "got one\n"), ("stdout", "got two\n")]


def test_a_terminal_has_a_size_and_one_stream(bench: Bench) -> None:
    client = Client(mux=True)
    script = "stty size; echo err >&2; read x; stty size; echo answer $x"
    request = bench.request(
        "sh", "-c", script, tty=True, open_stdin=True, stdin_once=True, size=(20, 70), attach=[client.request]
    )

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        assert await client.until(b"err\r\n") == b"20 70\r\nerr\r\n"
        await running.resize(33, 101)
        await client.send(b"typed\n")
        assert (await client.all()).endswith(b"typed\r\n33 101\r\nanswer typed\r\n")
        assert (await ended(running)).exit_code == 0

    run(bench, body)
    assert {stream for stream, _ in log_of(request)} == {"stdout"}


def test_a_client_that_does_not_read_stops_neither_program_nor_others(bench: Bench) -> None:
    stuck, reading = Client(), Client(stdin=False)
    whole = {"type": "json-file", "config": {"max-size": "-1"}}
    request = bench.request("sh", "-c", "seq 1 800000", attach=[stuck.request, reading.request], log=whole)

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        data = await reading.all()
        assert data.split() == [b"%d" % n for n in range(1, 800001)]
        status = await asyncio.wait_for(asyncio.shield(running.exit), DEADLINE)
        assert status.exit_code == 0
        stuck.close()
        await running.release()

    run(bench, body)
    assert len(log_of(request)) == 800000


def test_pause_and_unpause(bench: Bench) -> None:
    client = Client()
    request = bench.request("sh", "-c", "while :; do echo tick; sleep 0.01; done", attach=[client.request])

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        running = await driver.start(request, hooks)
        await client.until(b"tick")
        await running.pause()
        assert running.paused
        assert bench.group(request).frozen()
        with pytest.raises(Conflict, match="paused"):
            await running.exec("e", process("true"))
        await running.unpause()
        assert not running.paused
        client.data = b""
        await client.until(b"tick")
        await running.pause()
        await running.signal(9)
        assert (await ended(running)).exit_code == 137
        assert [kind for kind, _ in hooks.events][:3] == ["paused", "unpaused", "paused"]
        client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_memory_limit(bench: Bench) -> None:
    limit = {"memory": {"limit": 16 << 20}}
    request = bench.request("sh", "-c", "x=$(dd if=/dev/zero bs=1M count=64 | tr '\\0' x)", resources=limit)

    async def body(driver: Driver) -> None:
        hooks = Recorder()
        status = await ended(await driver.start(request, hooks))
        assert status.oom_killed
        await hooks.wait("oom")

    run(bench, body)
    bench.assert_nothing_of(request)


def test_pids_stats_and_update(bench: Bench) -> None:
    request = bench.request("sh", "-c", "sleep 1000 & sleep 1000")

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        pids = await running.pids()
        assert running.pid in pids
        await running.update({"memory": {"limit": 64 << 20}})
        stats = await asyncio.to_thread(running.stats)
        assert stats["memory"]["limit"] == 64 << 20
        assert stats["networks"] == {}
        await running.signal(9, all=True)
        await ended(running)

    run(bench, body)


def test_the_network_is_configured_before_the_program_runs(bench: Bench) -> None:
    client = Client(stdin=False)
    request = bench.request("sh", "-c", "echo running", configure_network=True, attach=[client.request])

    async def body(driver: Driver) -> None:
        seen: list[Any] = []

        async def network(pid: int, netns_fd: int, netlink_fd: int) -> None:
            seen.append(os.fstat(netns_fd).st_ino == os.stat(f"/proc/{pid}/ns/net").st_ino)
            seen.append(os.fstat(netns_fd).st_ino != os.stat("/proc/self/ns/net").st_ino)
            os.fstat(netlink_fd)
            with pytest.raises(BlockingIOError):
                client.sock.recv(1)

        running = await driver.start(request, Recorder(network))
        assert seen == [True, True]
        assert await client.all() == b"running\n"
        assert "network" in [s[0] for s in running.timeline]
        await ended(running)

    run(bench, body)


def test_a_network_that_fails_aborts_the_start(bench: Bench) -> None:
    client = Client(stdin=False)
    request = bench.request("sh", "-c", "echo running", configure_network=True, attach=[client.request])

    async def body(driver: Driver) -> None:
        async def network(pid: int, netns_fd: int, netlink_fd: int) -> None:
            raise Conflict("port is already allocated")

        with pytest.raises(Conflict, match="already allocated"):
            await driver.start(request, Recorder(network))
        assert await client.all() == b""

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_failure_after_the_network_namespace_is_told(bench: Bench) -> None:
    requests = [bench.request("true", configure_network=True) for _ in range(10)]

    async def body(driver: Driver) -> None:
        for request in requests:
            bind = {"destination": "/bin", "type": "bind", "source": "/etc/passwd", "options": ["rbind"]}
            request.spec["mounts"].append(bind)
            with pytest.raises(StepError, match="a directory") as caught:
                await driver.start(request, Recorder())
            assert caught.value.step == "mounts"

    run(bench, body)
    for request in requests:
        bench.assert_nothing_of(request)


def test_a_start_that_is_cancelled_is_undone(bench: Bench) -> None:
    request = bench.request("sleep", "1000", configure_network=True)

    async def body(driver: Driver) -> None:
        inside = asyncio.Event()

        async def network(pid: int, netns_fd: int, netlink_fd: int) -> None:
            inside.set()
            await asyncio.Event().wait()

        start = asyncio.ensure_future(driver.start(request, Recorder(network)))
        await asyncio.wait_for(inside.wait(), DEADLINE)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await gone(bench, request)

    run(bench, body)


def test_another_engine_takes_over(bench: Bench) -> None:
    request = bench.request("sh", "-c", "while read x; do echo $x; done", open_stdin=True, generation=4)

    async def body(driver: Driver) -> None:
        first = await driver.start(request, Hooks())
        await first.exec("e", process("sleep", "900"))
        await first.pause()
        await driver.close()

        assert await bench.driver().adopt(request.id, 3, Hooks()) is None
        assert await bench.driver().adopt("0" * 64, 4, Hooks()) is None
        second_driver, hooks = bench.driver(), Recorder()
        second = await second_driver.adopt(request.id, 4, hooks)
        assert second is not None
        assert (second.pid, second.started_at, second.paused) == (first.pid, first.started_at, True)
        assert second.execs["e"]["running"]
        assert [s[0] for s in second.timeline] == [s[0] for s in first.timeline if s[0] != "network"]
        await second.unpause()
        client = Client()
        await second.attach(client.request)
        await client.send(b"still here\n")
        await client.until(b"still here\n")
        await second.exec_signal("e", 9)
        assert await hooks.wait("exec_exit") == {"exec_id": "e", "exit_code": 137}
        await second.signal(9)
        assert (await ended(second)).exit_code == 137
        client.close()
        await second_driver.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_an_end_that_no_engine_saw_is_on_disk(bench: Bench) -> None:
    request = bench.request("sh", "-c", "read x; echo last words; exit 9", open_stdin=True, generation=2)

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        exec_client, client = Client(), Client()
        await running.attach(client.request)
        await running.exec("e", process("sleep", "900"), attach=exec_client.request)
        assert driver.recorded(request.container_dir, 2) is None
        disconnect(running)
        await client.send(b"end\n")
        await client.all()
        await gone(bench, request)
        status = bench.driver().recorded(request.container_dir, 2)
        assert status is not None
        assert (status.exit_code, status.signal, status.oom_killed) == (9, 0, False)
        assert bench.driver().recorded(request.container_dir, 1) is None
        assert await bench.driver().adopt(request.id, 2, Hooks()) is None
        exec_client.close()

    run(bench, body)
    assert log_of(request) == [("stdout", "last words\n")]


def test_without_a_pid_namespace_all_ends_with_the_first_process(bench: Bench) -> None:
    request = bench.request("sh", "-c", "sh -c 'sleep 1001 & sleep 1002 &' ; sh -c 'true &'; exit 3", pid="host")

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        assert (await ended(running)).exit_code == 3

    run(bench, body)
    bench.assert_nothing_of(request)


def test_init_reaps_and_forwards(bench: Bench) -> None:
    client = Client()
    request = bench.request("sh", "-c", "trap 'exit 21' TERM; echo up; while :; do sleep 0.1; done", init=True)
    request.attach.append(client.request)

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        await client.until(b"up")
        await running.signal(15)
        assert (await ended(running)).exit_code == 21
        client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_the_same_container_again_and_again(bench: Bench) -> None:
    request = bench.request("sh", "-c", "echo life")
    request.rootfs["options"] = []  # a volatile upper is for one life

    async def body(driver: Driver) -> None:
        for generation in range(1, 6):
            request.generation = generation
            await ended(await driver.start(request, Hooks()))

    run(bench, body)
    assert log_of(request) == [("stdout", "life\n")] * 5


def test_many_at_once(bench: Bench) -> None:
    requests = [bench.request("sh", "-c", f"echo {n}; exit {n}") for n in range(40)]

    async def body(driver: Driver) -> None:
        async def one(request: StartRequest) -> int:
            return (await ended(await driver.start(request, Hooks()))).exit_code

        assert await asyncio.gather(*map(one, requests)) == list(range(40))

    run(bench, body)
    for n, request in enumerate(requests):
        assert log_of(request) == [("stdout", f"{n}\n")]
        bench.assert_nothing_of(request)


def test_cleanup_ends_what_is_left(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        await driver.cleanup(request.id, request.container_dir, request.cgroup)
        assert (await ended(running)).exit_code == 137
        await driver.cleanup(request.id, request.container_dir, request.cgroup)
        await gone(bench, request)

    run(bench, body)


@pytest.mark.parametrize(("trap", "grace", "code"), [("trap 'exit 143' TERM", 30, 143), ("trap '' TERM", 1, 137)])
def test_a_life_with_a_limit(bench: Bench, trap: str, grace: int, code: int) -> None:
    """Stop signal, then SIGKILL, also while nobody is connected and the container is paused."""
    limit = {"seconds": 1, "signal": 15, "grace": grace}
    client = Client(stdin=False)
    script = f"{trap}; echo set; while :; do sleep 0.1; done"
    request = bench.request("sh", "-c", script, limit=limit, attach=[client.request])

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        await client.until(b"set\n")  # before that PID 1 ignores the signal
        await running.pause()
        disconnect(running)
        await until(lambda: driver.recorded(request.container_dir, 1) is not None)
        record = driver.recorded(request.container_dir, 1)
        assert record is not None and (record.exit_code, record.timed_out) == (code, True)
        await gone(bench, request)

    run(bench, body)


def test_a_waiting_shim_that_is_killed_costs_no_start(bench: Bench) -> None:
    if bench.kind != "native-prepared":
        pytest.skip("this driver has no shim waiting")
    request = bench.request("true")

    async def body(driver: Driver) -> None:
        for pid in bench.shims():
            if Path(f"/proc/{pid}/comm").read_text() == "boxwright-spare\n":
                os.kill(pid, signal.SIGKILL)
        running = await driver.start(request, Hooks())
        assert (await ended(running)).exit_code == 0

    run(bench, body)
    bench.assert_nothing_of(request)
    parents = [d for d in cgroups.manager(bench.cgroup_driver, bench.parent, "").directories() if os.path.isdir(d)]
    assert not [name for parent in parents for name in os.listdir(parent) if name.startswith("spare-")]


def test_a_container_under_another_parent_leaves_the_prepared_group(bench: Bench) -> None:
    request = bench.request("cat", "/proc/self/cgroup")
    request.cgroup["parent"] = f"{bench.parent}/below"
    client = Client(stdin=False)
    request.attach.append(client.request)

    async def body(driver: Driver) -> None:
        running = await driver.start(request, Hooks())
        assert b"spare-" not in await client.all()
        await ended(running)

    run(bench, body)
    bench.assert_nothing_of(request)
    cgroups.remove_parent(bench.cgroup_driver, f"{bench.parent}/below")
