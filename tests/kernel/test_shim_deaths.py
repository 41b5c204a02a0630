"""What happens when a process of ours dies at a bad moment, and what a shim leaks to nobody."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testsuite.execdrivers.conftest import DEADLINE, Bench, Client, Recorder, disconnect, ended, gone, process, run

from boxwright.errdefs import StepError
from boxwright.execdriver import Driver, Hooks, StartRequest, native, running
from boxwright.launcher import exitrecord, packets
from boxwright.libcontainer import cgroups

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bench(nothing_left_behind: None) -> Iterator[Bench]:
    made = Bench("native")
    yield made
    for _ in range(300):
        if not made.shims():
            break
        subprocess.run(["sleep", "0.05"], check=True)
    made.close()


def named(bench: Bench, name: str) -> list[int]:
    """Pids below this driver with the short name `name`."""
    return [p for p in bench.shims() if Path(f"/proc/{p}/comm").read_text().strip() == name]


def test_the_death_of_a_shim_is_the_death_of_its_container(bench: Bench) -> None:
    request = bench.request("sh", "-c", "sleep 1000 & sleep 1000")

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        (shim,) = named(bench, "boxwright-shim")
        os.kill(shim, signal.SIGKILL)
        status = await asyncio.wait_for(asyncio.shield(life.exit), DEADLINE)
        assert (status.exit_code, status.signal) == (137, 9)
        assert "shim died" in status.error
        assert bench.group(request).pids() == []
        await driver.cleanup(request.id, request.container_dir, request.cgroup)

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_launcher_killed_while_it_rehearses_leaves_nothing_to_the_next(bench: Bench) -> None:
    stale = bench.exec_root / ".rehearsal-999999999"
    stale.mkdir()
    (stale / "exit.json").write_text("")

    async def body(driver: Driver) -> None:
        for launcher in named(bench, "bw-launch-shim"):
            os.kill(launcher, signal.SIGKILL)
        await ended(await driver.start(bench.request("true"), Hooks()))

    run(bench, body)
    assert not [name for name in os.listdir(bench.exec_root) if name.startswith(".rehearsal")]


def test_the_death_of_the_launcher_is_nobodys(bench: Bench) -> None:
    requests = [bench.request("sh", "-c", "read x; exit 4", open_stdin=True) for _ in range(3)]

    async def body(driver: Driver) -> None:
        lives = [await driver.start(request, Hooks()) for request in requests[:2]]
        for launcher in named(bench, "bw-launch-shim"):
            os.kill(launcher, signal.SIGKILL)
        lives.append(await driver.start(requests[2], Hooks()))
        for life in lives:
            client = Client()
            await life.attach(client.request)
            await client.send(b"\n")
            assert (await ended(life)).exit_code == 4
            client.close()

    run(bench, body)
    for request in requests:
        bench.assert_nothing_of(request)


ENGINE = """
import asyncio, json, os, sys
from boxwright.execdriver import Hooks, StartRequest
from boxwright.execdriver.native import NativeDriver

async def main():
    wanted = json.load(sys.stdin)
    fields = {k: wanted.pop(k) for k in ("id", "generation", "spec", "rootfs", "container_dir")}
    class Stop(Hooks):
        async def network(self, pid, netns_fd, netlink_fd):
            print("network", pid, flush=True)
            await asyncio.Event().wait()
    driver = NativeDriver(sys.argv[1])
    running = await driver.start(StartRequest(*fields.values(), **wanted), Stop())
    print("running", running.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def as_json(request: StartRequest) -> str:
    return json.dumps({name: getattr(request, name) for name in StartRequest.__slots__})


def another_engine(bench: Bench, request: StartRequest) -> subprocess.Popen[str]:
    """An engine in a process of its own, which can be killed."""
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(bench.exec_root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert engine.stdin
    engine.stdin.write(as_json(request))
    engine.stdin.close()
    return engine


@pytest.mark.parametrize("pid", ["new", "host"])
def test_a_first_process_without_memory_says_so(bench: Bench, pid: str) -> None:
    """Killed by the kernel in its group, before the program."""
    request = bench.request("true", pid=pid, resources={"memory": {"limit": 65536, "swap": 65536}})

    async def body(driver: Driver) -> None:
        with pytest.raises(StepError, match="container init was OOM-killed") as raised:
            await driver.start(request, Hooks())
        assert (raised.value.step, raised.value.exit_code) == ("memory", 128)

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_program_that_may_have_run_is_not_started_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim dies before the engine has heard of the program; there was no network to be asked for."""
    request = bench.request("sleep", "1000")
    received, asked = native.NativeRunning._received, []
    message = native._start_message

    def unheard(life: native.NativeRunning, told: dict[str, Any], fds: list[int]) -> None:
        if told["type"] != "started":
            received(life, told, fds)
            return
        for pid in named(bench, "boxwright-shim"):
            os.kill(pid, signal.SIGKILL)

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return message(*arguments)

    monkeypatch.setattr(native.NativeRunning, "_received", unheard)
    monkeypatch.setattr(native, "_start_message", counted)

    async def body(driver: Driver) -> None:
        with pytest.raises(StepError, match="shim died"):
            await driver.start(request, Hooks())

    run(bench, body)
    assert len(asked) == 1
    bench.assert_nothing_of(request)


def test_an_engine_killed_before_its_go_leaves_nothing(bench: Bench) -> None:
    request = bench.request("sleep", "1000", configure_network=True)
    engine = another_engine(bench, request)
    assert engine.stdout
    word, pid = engine.stdout.readline().split()
    assert word == "network"
    engine.kill()
    engine.wait(DEADLINE)
    asyncio.run(gone(bench, request))
    assert not os.path.exists(f"/proc/{pid}")
    # The snapshot is free again.
    lock = os.open(request.rootfs["lock"], os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_an_engine_killed_later_is_missed_by_nobody(bench: Bench) -> None:
    request = bench.request("sh", "-c", "while read x; do echo got $x; done; exit 6", open_stdin=True)
    engine = another_engine(bench, request)
    assert engine.stdout
    assert engine.stdout.readline().startswith("running")
    engine.kill()
    engine.wait(DEADLINE)

    async def body(driver: Driver) -> None:
        life = await driver.adopt(request.id, 1, Hooks())
        assert life is not None
        client = Client()
        await life.attach(client.request)
        await client.send(b"it\n")
        await client.until(b"got it\n")
        await life.signal(9)
        assert (await ended(life)).exit_code == 137
        client.close()

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_full_disk_stops_neither_the_program_nor_its_exit_record(bench: Bench, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        request = bench.request("sh", "-c", "seq 1 20000; exit 5", generation=3)
        request.container_dir = str(small)

        async def body(driver: Driver) -> None:
            hooks = Recorder()
            life = await driver.start(request, hooks)
            assert (await ended(life)).exit_code == 5
            dropped = await hooks.wait("log_dropped")
            assert 0 < dropped["lines"] < 20000
            assert "No space" in dropped["error"]
            status = driver.recorded(str(small), 3)
            assert status is not None
            assert status.exit_code == 5
            records = [json.loads(line) for line in (small / f"{request.id}-json.log").read_bytes().splitlines()]
            assert len(records) + dropped["lines"] == 20000

        run(bench, body)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_start_without_room_for_its_exit_record_fails(bench: Bench, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(small)], check=True)
    try:
        (small / "filler").write_bytes(b"x" * 4096)
        request = bench.request("true")
        request.container_dir = str(small)

        async def body(driver: Driver) -> None:
            with pytest.raises(Exception, match="No space"):
                await driver.start(request, Hooks())

        run(bench, body)
        bench.assert_nothing_of(request)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_ours_run_from_a_sealed_file_and_cannot_be_traced(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        for pid in bench.shims():
            exe = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
            seals = fcntl.fcntl(exe, fcntl.F_GET_SEALS)
            os.close(exe)
            assert seals & fcntl.F_SEAL_WRITE
            assert seals & fcntl.F_SEAL_SEAL
            with pytest.raises(OSError):
                os.open(f"/proc/{pid}/exe", os.O_RDWR)
            # Not dumpable: its files in /proc belong to the real root, whatever user namespace asks.
            assert "boxwright" in os.readlink(f"/proc/{pid}/exe")
        await life.signal(9)
        await ended(life)

    run(bench, body)


def test_a_shim_holds_no_descriptor_of_a_sibling_or_of_the_engine(bench: Bench) -> None:
    requests = [bench.request("sleep", "1000") for _ in range(4)]

    async def body(driver: Driver) -> None:
        async def start(request: StartRequest) -> Any:
            client = Client()
            request.attach.append(client.request)
            return await driver.start(request, Hooks()), client

        lives = await asyncio.gather(*map(start, requests))
        owners: dict[str, set[int]] = {}
        for shim in named(bench, "boxwright-shim"):
            for fd in os.listdir(f"/proc/{shim}/fd"):
                try:
                    target = os.readlink(f"/proc/{shim}/fd/{fd}")
                except FileNotFoundError:  # the end of its connection to a starter that has just gone
                    continue
                if target.startswith(("pipe:", "socket:")):
                    owners.setdefault(target, set()).add(shim)
        assert owners
        assert all(len(shims) == 1 for shims in owners.values())
        assert len(named(bench, "boxwright-shim")) == 4
        for life, client in lives:
            await life.signal(9)
            await ended(life)
            client.close()

    run(bench, body)


def test_the_program_inherits_nothing(bench: Bench) -> None:
    client = Client(stdin=False)
    request = bench.request("ls", "-l", "/proc/self/fd", attach=[client.request])

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        data = (await client.all()).decode()
        found = sorted(line.split(" -> ")[0].split()[-1] for line in data.splitlines() if " -> " in line)
        assert set(found) - {"3"} == {"0", "1", "2"}  # 3 is the directory that ls reads
        await ended(life)

    run(bench, body)


def test_a_stopped_shim_does_not_stop_the_engine(bench: Bench) -> None:
    requests = [bench.request("sleep", "1000"), bench.request("sh", "-c", "exit 3")]

    async def body(driver: Driver) -> None:
        life = await driver.start(requests[0], Hooks())
        (shim,) = named(bench, "boxwright-shim")
        os.kill(shim, signal.SIGSTOP)
        asked = asyncio.ensure_future(life.pids())
        assert (await ended(await driver.start(requests[1], Hooks()))).exit_code == 3
        assert not asked.done()
        os.kill(shim, signal.SIGCONT)
        assert life.pid in await asyncio.wait_for(asked, DEADLINE)
        await life.signal(9)
        await ended(life)

    run(bench, body)


def test_a_container_is_ended_past_its_stopped_shim(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SEEN_SECONDS", 0.1)
    request = bench.request("sh", "-c", "sleep 1000 & sleep 1000")

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        (shim,) = named(bench, "boxwright-shim")
        os.kill(shim, signal.SIGSTOP)
        await life.destroy()
        status = await asyncio.wait_for(asyncio.shield(life.exit), DEADLINE)
        assert (status.exit_code, status.signal) == (137, 9)
        assert bench.group(request).pids() == []

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_working_shim_tells_of_an_end_from_outside(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        await life.destroy()
        assert (await ended(life)).error == ""

    run(bench, body)
    bench.assert_nothing_of(request)


def test_a_stopped_shim_is_not_adopted_and_does_not_wake_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    request = bench.request("sleep", "1000", network="host")
    engine = another_engine(bench, request)
    assert engine.stdout
    assert engine.stdout.readline().startswith("running")
    (shim,) = named(bench, "boxwright-shim")
    os.kill(shim, signal.SIGSTOP)
    engine.kill()
    engine.wait(DEADLINE)
    engine.stdout.close()
    monkeypatch.setattr(running, "ANSWER_SECONDS", 0.1)

    async def body(driver: Driver) -> None:
        assert await driver.adopt(request.id, 1, Hooks()) is None
        async with asyncio.timeout(DEADLINE):
            while shim in bench.shims():
                await asyncio.sleep(0.02)
        await driver.cleanup(request.id, request.container_dir, request.cgroup)

    run(bench, body)
    bench.assert_nothing_of(request)


def test_an_upper_serves_one_mount_at_a_time(bench: Bench) -> None:
    first = bench.request("sleep", "1000")
    second = bench.request("sh", "-c", "exit 0")
    second.rootfs = {**first.rootfs, "options": []}
    first.rootfs = second.rootfs

    async def body(driver: Driver) -> None:
        life = await driver.start(first, Hooks())
        start = asyncio.ensure_future(driver.start(second, Hooks()))
        # It waits for the lock; nothing tells when a process has begun to wait, so look for the flock itself.
        inode = os.stat(first.rootfs["lock"]).st_ino
        async with asyncio.timeout(DEADLINE):
            while not any(
                "->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines()
            ):
                await asyncio.sleep(0.01)
        assert not start.done()
        await life.signal(9)
        await ended(life)
        await ended(await asyncio.wait_for(start, DEADLINE))

    run(bench, body)


def test_exec_after_the_engine_is_gone_ends_its_streams(bench: Bench) -> None:
    request = bench.request("sleep", "1000")

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        client = Client()
        await life.exec("e", process("sh", "-c", "read x; exit 3"), attach=client.request, open_stdin=True)
        disconnect(life)
        await client.send(b"\n")
        assert await client.all() == b""
        again = await driver.adopt(request.id, 1, Hooks())
        assert again is not None
        assert again.execs["e"]["exit_code"] == 3
        await again.signal(9)
        await ended(again)

    run(bench, body)


def test_the_record_of_a_running_container_names_its_process(bench: Bench) -> None:
    request = bench.request("sleep", "1000", generation=8)

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        async with asyncio.timeout(DEADLINE):
            while (record := exitrecord.read(request.container_dir)) is None:
                await asyncio.sleep(0.01)
        assert record["generation"] == 8
        assert record["pid"] == life.pid
        assert "exit_code" not in record
        await life.signal(9)
        status = await ended(life)
        record = exitrecord.read(request.container_dir)
        assert record is not None and record["exit_code"] == 137
        assert status.lived == record["lived_ns"] / 1e9 and 0.0 < status.lived < DEADLINE

    run(bench, body)


def test_an_older_launcher_retires(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from boxwright.launcher import client

    requests = [bench.request("sh", "-c", "read x", open_stdin=True), bench.request("true")]

    async def body(driver: Driver) -> None:
        old = await driver.start(requests[0], Hooks())
        (before,) = named(bench, "bw-launch-shim")
        monkeypatch.setattr(client, "version", lambda kind: "another")
        newer = bench.driver()
        await ended(await newer.start(requests[1], Hooks()))
        assert len(named(bench, "bw-launch-shim")) == 2
        await old.signal(9)
        await ended(old)
        await driver.close()
        async with asyncio.timeout(DEADLINE):
            while before in bench.shims():
                await asyncio.sleep(0.02)
        await newer.close()

    run(bench, body)


def test_a_message_that_is_too_long_for_a_packet(bench: Bench) -> None:
    variables = [f"V{n}={'x' * 1000}" for n in range(400)]
    client = Client(stdin=False)
    request = bench.request("sh", "-c", "env | wc -l", attach=[client.request])
    request.spec["process"]["env"] += variables

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        assert int(await client.all()) >= 400
        await ended(life)

    run(bench, body)


def test_bytes_that_are_no_text_reach_the_program(bench: Bench) -> None:
    client = Client(stdin=False)
    request = bench.request("printf", "%s", os.fsdecode(b"caf\xe9"), attach=[client.request])

    async def body(driver: Driver) -> None:
        life = await driver.start(request, Hooks())
        assert await client.all() == b"caf\xe9"
        await ended(life)

    run(bench, body)


def test_packets_carry_values_and_descriptors() -> None:
    ours, theirs = packets.pair()
    value: dict[str, Any] = {"a": [1, -2.5, None, True, "ü\ud800\n"], "b": {"c": []}}
    with open(os.devnull) as null:
        packets.send(ours, value, [null.fileno()], b"a body\nof two lines")
        packets.send(ours, {"big": "x" * 300_000}, [null.fileno()])
    message, fds = packets.receive(theirs) or ({}, [])
    assert message == {**value, "body": b"a body\nof two lines"}
    assert len(fds) == 1
    packets.close_all(fds)
    message, fds = packets.receive(theirs) or ({}, [])
    assert len(message["big"]) == 300_000
    assert len(fds) == 1
    packets.close_all(fds)
    ours.send(b"{broken")
    with pytest.raises(ValueError):
        packets.receive(theirs)
    ours.close()
    assert packets.receive(theirs) is None
    theirs.close()


@pytest.mark.parametrize("directory", ["is there", "is gone"])
def test_the_group_of_a_container_without_a_shim_can_be_removed(bench: Bench, directory: str) -> None:
    request = bench.request("true")
    if directory == "is gone":
        shutil.rmtree(request.container_dir)
    group = bench.group(request)
    group.create()
    assert group.exists()

    async def body(driver: Driver) -> None:
        await driver.cleanup(request.id, request.container_dir, request.cgroup)

    run(bench, body)
    assert not cgroups.manager(bench.cgroup_driver, bench.parent, request.id).exists()
