"""The verbs of a container's life over the native driver: real shims, real namespaces, a fake network."""

import asyncio
import os
import select
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.life import DEADLINE, Life

from boxwright.engine import attach, exec, logs, pause, restore, start, stop, top, wait
from boxwright.engine.state import Status
from boxwright.engine.store import Container
from boxwright.errdefs import Conflict, InvalidParameter
from boxwright.execdriver.native import NativeDriver
from boxwright.libcontainer import cgroups
from boxwright.types import ContainerConfig, ExecConfig

pytestmark = pytest.mark.root

APPLETS = ("sh", "true", "cat", "echo", "sleep", "stty", "kill", "printf", "usleep", "id")


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root"):
        (root / name).mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    yield root
    shutil.rmtree(root)


class Snapshots:
    """The same read-only root for every container, with a lock of its own."""

    def __init__(self, rootfs: Path, home: Path) -> None:
        self.rootfs, self.home = rootfs, home

    def mount(self, key: str, volatile: bool = False) -> dict[str, Any]:
        base = self.home / f"snapshot-{key}"
        for name in ("upper", "work"):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "lock").touch()
        upper, work, lock = (str(base / name) for name in ("upper", "work", "lock"))
        return {
            "type": "overlay", "lower": [str(self.rootfs)], "upper": upper, "work": work, "options": [], "lock": lock,
        }  # fmt: skip

    def remove(self, key: str) -> None: ...


class Client:
    """A hijacked connection: `type` what it says (b"" half-closes), `seen` what it got."""

    def __init__(self) -> None:
        self._typed: asyncio.Queue[bytes] = asyncio.Queue()
        self.seen = b""
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()

    def type(self, data: bytes) -> None:
        self._typed.put_nowait(data)

    async def open(self, multiplexed: bool) -> None:
        self.opened.set()

    async def read(self, n: int) -> bytes:
        return await self._typed.get()

    def write(self, data: bytes) -> None:
        self.seen += data

    async def drain(self) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
def lived(tmp_path: Path, rootfs: Path) -> Callable[[Callable[[Life], Awaitable[None]]], None]:
    def run(work: Callable[[Life], Awaitable[None]]) -> None:
        async def whole() -> None:
            life = Life(tmp_path)
            life.eng.snapshotter = Snapshots(rootfs, tmp_path)  # type: ignore[assignment]
            driver = NativeDriver(str(tmp_path / "run"))
            life.eng.drivers = {"boxwright": driver}  # type: ignore[dict-item]
            try:
                async with asyncio.timeout(6 * DEADLINE):
                    await work(life)
            finally:
                for container in life.eng.store:
                    if container.running is not None:
                        await stop.end(life.eng, container)
                await life.eng.settle()
                await driver.close()
                life.eng.db.close()
                cgroups.remove_parent("", life.eng.cgroup_parent)

        asyncio.run(whole())

    return run


Lived = Callable[[Callable[[Life], Awaitable[None]]], None]


def program(life: Life, *command: str, name: str = "c", **options: Any) -> Container:
    fields = {k: options.pop(k) for k in ("tty", "open_stdin", "stdin_once", "user", "stop_signal") if k in options}
    config = ContainerConfig(image="busybox", cmd=list(command), hostname=name, **fields)
    c = life.create(name, config=config, **options)
    c.record.host_config.network_mode = "none"
    c.record.host_config.cgroupns_mode = "host"
    return c


async def read_log(life: Life, **options: Any) -> bytes:
    wanted = logs.LogOptions(stdout=True, stderr=True, **options)
    return b"".join([piece async for piece in logs.logs(life.eng, "c", wanted)])


def unframed(data: bytes) -> dict[int, bytes]:
    streams: dict[int, bytes] = {1: b"", 2: b""}
    while data:
        length = int.from_bytes(data[4:8], "big")
        streams[data[0]] += data[8 : 8 + length]
        data = data[8 + length :]
    return streams


def test_exit_code_and_log(lived: Lived) -> None:
    async def work(life: Life) -> None:
        program(life, "sh", "-c", "echo out; echo err >&2; exit 7")
        following = wait.wait(life.eng, "c", "next-exit")
        await start.start(life.eng, "c")
        assert (await following.result())["StatusCode"] == 7
        assert unframed(await read_log(life)) == {1: b"out\n", 2: b"err\n"}
        steps = [step[0] for step in life.eng.store.timeline(life.eng.store.get("c"))]
        for name in ("lookup", "verify", "address", "spec", "clone", "mounts", "pivot_root", "execve"):
            assert name in steps

    lived(work)


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
        ("/no/such", 127, 'exec: "/no/such": stat /no/such: no such file or directory'),
    ],
)
def test_programs_that_cannot_be_executed(lived: Lived, command: str, code: int, text: str) -> None:
    async def work(life: Life) -> None:
        c = program(life, command)
        with pytest.raises(InvalidParameter) as raised:
            await start.start(life.eng, "c")
        assert text in str(raised.value)
        assert (c.state.status, c.state.exit_code) == (Status.CREATED, code)
        assert c.state.start_error is not None and c.state.start_error["step"] == "execve"

    lived(work)


def test_attach_before_start_gets_every_byte(lived: Lived) -> None:
    async def work(life: Life) -> None:
        program(life, "sh", "-c", "cat; echo end >&2", open_stdin=True, stdin_once=True)
        client = Client()
        client.type(b"early ")
        options = attach.AttachOptions(stdin=True, stdout=True, stderr=True, stream=True)
        attached = asyncio.ensure_future(attach.attach(life.eng, "c", options, client))
        await client.opened.wait()
        await start.start(life.eng, "c")
        client.type(b"late")
        client.type(b"")
        await attached
        assert unframed(client.seen) == {1: b"early late", 2: b"end\n"}

    lived(work)


def test_a_terminal_can_be_detached_from_and_attached_to_again(lived: Lived) -> None:
    async def work(life: Life) -> None:
        c = program(life, "sh", "-c", "stty -echo; echo ready; read x; echo got $x; read y", tty=True, open_stdin=True)
        await start.start(life.eng, "c")
        options = attach.AttachOptions(stdin=True, stdout=True, stream=True, logs=True, detach_keys="ctrl-x,x")
        first = Client()
        attached = asyncio.ensure_future(attach.attach(life.eng, "c", options, first))
        await life.until(lambda: b"ready\r\n" in first.seen)
        first.type(b"\x18x")
        await attached
        assert life.events[-1] == "detach" and c.running is not None
        second = Client()
        attached = asyncio.ensure_future(attach.attach(life.eng, "c", options, second))
        second.type(b"me\n")
        await life.until(lambda: b"got me\r\n" in second.seen)
        second.type(b"\n")
        await attached

    lived(work)


def test_stop_kill_pause_top(lived: Lived) -> None:
    async def work(life: Life) -> None:
        c = program(life, "sleep", "1000", stop_signal="USR1")
        await start.start(life.eng, "c")
        await pause.pause(life.eng, "c")
        rows = (await top.top(life.eng, "c", ""))["Processes"]
        assert [row[7] for row in rows] == ["sleep 1000"]
        assert (await top.top(life.eng, "c", "-o pid,comm"))["Processes"] == [[str(c.state.pid), "sleep"]]
        await pause.unpause(life.eng, "c")
        with pytest.raises(Conflict, match="is not paused"):
            await pause.unpause(life.eng, "c")
        await stop.stop(life.eng, "c", None, 0)  # PID 1 ignores what it does not handle: SIGKILL ends it
        assert c.state.exit_code == 137
        await start.start(life.eng, "c")
        await pause.pause(life.eng, "c")
        await stop.kill(life.eng, "c", None)
        assert (c.state.status, c.state.exit_code) == (Status.EXITED, 137)

    lived(work)


def test_exec_output_comes_before_its_end_and_the_code_before_the_stream_closes(lived: Lived) -> None:
    async def work(life: Life) -> None:
        program(life, "sleep", "1000")
        await start.start(life.eng, "c")
        for n in range(20):
            config = ExecConfig(
                cmd=["sh", "-c", f"cat; echo {n}; id -u >&2; exit {n}"], attach_stdin=True, attach_stdout=True,
                attach_stderr=True, user="user",
            )  # fmt: skip
            made = await exec.create(life.eng, "c", config)
            client = Client()
            client.type(b"in ")
            client.type(b"")
            await exec.start(life.eng, made["Id"], False, False, None, client)
            assert exec.inspect(life.eng, made["Id"])["ExitCode"] == n
            assert unframed(client.seen) == {1: b"in %d\n" % n, 2: b"1000\n"}

    lived(work)


def test_exec_of_what_is_not_there(lived: Lived) -> None:
    async def work(life: Life) -> None:
        program(life, "sleep", "1000")
        await start.start(life.eng, "c")
        made = await exec.create(life.eng, "c", ExecConfig(cmd=["nosuch"], attach_stdout=True))
        client = Client()
        await exec.start(life.eng, made["Id"], False, False, None, client)
        assert b'exec: "nosuch": executable file not found in $PATH' in unframed(client.seen)[1]
        assert exec.inspect(life.eng, made["Id"])["ExitCode"] == 127
        made = await exec.create(life.eng, "c", ExecConfig(cmd=["/etc"]))
        with pytest.raises(InvalidParameter):
            await exec.start(life.eng, made["Id"], True, False, None, None)
        assert exec.inspect(life.eng, made["Id"])["ExitCode"] == 126

    lived(work)


def test_logs_follow_until_the_end(lived: Lived) -> None:
    async def work(life: Life) -> None:
        program(life, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; usleep 20000; done", tty=True)
        await start.start(life.eng, "c")
        assert await read_log(life, follow=True) == b"1\r\n2\r\n3\r\n4\r\n5\r\n"
        assert await read_log(life, tail=2) == b"4\r\n5\r\n"
        stamped = await read_log(life, tail=1, timestamps=True)
        assert stamped.endswith(b"Z 5\r\n") and len(stamped.split()[0]) == 30

    lived(work)


def test_restart_policy_over_real_lives(lived: Lived) -> None:
    async def work(life: Life) -> None:
        c = program(life, "sh", "-c", "echo try; exit 9", restart="on-failure", retries=2)
        await start.start(life.eng, "c")
        await life.until(lambda: c.state.status is Status.EXITED)
        assert (c.state.restart_count, c.state.exit_code) == (2, 9)
        assert unframed(await read_log(life))[1] == b"try\n" * 3

    lived(work)


def in_an_engine_that_dies(tmp_path: Path, rootfs: Path, work: Callable[[Life], Awaitable[None]]) -> None:
    """Run `work` in a process that ends without a word, as SIGKILL ends it."""
    pid = os.fork()
    if pid == 0:

        async def whole() -> None:
            life = Life(tmp_path)
            life.eng.snapshotter = Snapshots(rootfs, tmp_path)  # type: ignore[assignment]
            life.eng.drivers = {"boxwright": NativeDriver(str(tmp_path / "run"))}  # type: ignore[dict-item]
            async with asyncio.timeout(3 * DEADLINE):
                await work(life)
            os._exit(0)

        try:
            asyncio.run(whole())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_another_engine_takes_over(lived: Lived, tmp_path: Path, rootfs: Path) -> None:
    async def before(life: Life) -> None:
        program(life, "sh", "-c", "echo before; read x; echo after; exit 5", name="c", open_stdin=True)
        program(life, "sleep", "1000", name="freezes")
        program(life, "sh", "-c", "read x; exit 6", name="ends", open_stdin=True)
        for name in ("c", "freezes", "ends"):
            await start.start(life.eng, name)
        await pause.pause(life.eng, "freezes")
        made = await exec.create(life.eng, "c", ExecConfig(cmd=["sleep", "1000"]))
        await exec.start(life.eng, made["Id"], True, False, None, None)

    in_an_engine_that_dies(tmp_path, rootfs, before)

    async def after(life: Life) -> None:
        life.eng.store.load()
        pids = {c.name: c.state.pid for c in life.eng.store}
        await restore.restore(life.eng)
        c, freezes = life.eng.store.get("c"), life.eng.store.get("freezes")
        assert {c.name: c.state.pid for c in life.eng.store} == pids
        assert (c.state.status, freezes.state.status) == (Status.RUNNING, Status.PAUSED)
        (session,) = life.eng.sessions
        assert exec.inspect(life.eng, session)["Running"] is True
        client = Client()
        client.type(b"\n")
        options = attach.AttachOptions(stdin=True, stdout=True, stream=True)
        await attach.attach(life.eng, "c", options, client)
        await life.until(lambda: c.state.status is Status.EXITED)
        assert c.state.exit_code == 5
        assert exec.inspect(life.eng, session)["ExitCode"] == 137
        assert unframed(await read_log(life))[1] == b"before\nafter\n"

    lived(after)


def test_what_ended_without_an_engine_has_its_exit_code(lived: Lived, tmp_path: Path, rootfs: Path) -> None:
    async def before(life: Life) -> None:
        c = program(life, "sh", "-c", "usleep 100000; exit 6")
        await start.start(life.eng, "c")
        (tmp_path / "pid").write_text(str(c.state.pid))

    in_an_engine_that_dies(tmp_path, rootfs, before)
    ended = os.pidfd_open(int((tmp_path / "pid").read_text()))
    assert select.select([ended], [], [], DEADLINE)[0]
    os.close(ended)

    async def after(life: Life) -> None:
        life.eng.store.load()
        await restore.restore(life.eng)
        c = life.eng.store.get("c")
        await life.until(lambda: c.state.status is Status.EXITED)
        assert c.state.exit_code == 6

    lived(after)


def test_nothing_stays_of_a_failed_start(lived: Lived, tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = program(life, "nosuch")
        for _ in range(3):
            with pytest.raises(InvalidParameter):
                await start.start(life.eng, "c")
        assert os.listdir(tmp_path / "run/shims") == []
        hierarchies = os.listdir("/sys/fs/cgroup")
        assert not any(os.path.exists(f"/sys/fs/cgroup/{h}/boxwright-00000000/{c.id}") for h in hierarchies)

    lived(work)


def test_attach_with_its_past_tells_every_line_once(lived: Lived) -> None:
    async def work(life: Life) -> None:
        program(
            life, "sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; read x", open_stdin=True
        )
        await start.start(life.eng, "c")
        clients = [Client() for _ in range(8)]
        options = attach.AttachOptions(stdin=True, stdout=True, stderr=True, stream=True, logs=True)
        attached = [asyncio.ensure_future(attach.attach(life.eng, "c", options, client)) for client in clients]
        await life.until(lambda: all(b"line 1999\n" in client.seen for client in clients))
        clients[0].type(b"\n")
        await asyncio.gather(*attached)
        for client in clients:
            assert unframed(client.seen)[1] == b"".join(b"line %d\n" % n for n in range(2000))

    lived(work)
