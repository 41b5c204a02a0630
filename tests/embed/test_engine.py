"""`boxwright.embed`: an engine that belongs to a program and leaves with it, however the program ends."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import images
from support.engine import DEADLINE, wait_for
from support.leaks import Snapshot

import boxwright.embed
from boxwright.embed import EmbeddedEngine, EngineError

pytestmark = [pytest.mark.root, pytest.mark.network]


def docker(engine: EmbeddedEngine, *arguments: str) -> str:
    """The real docker CLI in the engine's environment."""
    ran = subprocess.run(["docker", *arguments], env=engine.environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


class Made:
    """The kernel objects and directories of one engine, by its names."""

    def __init__(self, socket: str, data_root: str, pid: int) -> None:
        self.home = os.path.dirname(socket)
        self.instance = Path(data_root, "instance").read_text().split()[0]
        self.pid = pid

    def left(self) -> list[str]:
        """What there still is of it."""
        marks = (self.home, os.path.basename(self.home)[-8:], self.instance, f"bw{self.instance[:4]}")
        found = Snapshot.take().kinds
        names = [f"{kind}: {name}" for kind in found for name in found[kind] if any(mark in name for mark in marks)]
        return names + ([f"engine {self.pid}"] if os.path.exists(f"/proc/{self.pid}") else [])


def busy(engine: EmbeddedEngine) -> Made:
    """Give it one of everything that could be left: a container with a port, a volume, an exec, a restart policy."""
    engine.load(images.busybox_archive())
    flags = ("-v", "vol:/v", "-p", "127.0.0.1:0:80", "--restart", "always")
    docker(engine, "run", "-d", "--name", "web", *flags, "busybox", "httpd", "-f")
    docker(engine, "exec", "-d", "web", "sleep", "600")
    return Made(engine.socket, engine.data_root, engine.pid)


def test_a_block_has_an_engine_and_leaves_nothing() -> None:
    with boxwright.embed.engine() as engine:
        assert engine.load(images.busybox_archive()) == ["busybox:latest", "layers:latest", "configured:1.0"]
        assert engine.client().containers.run("busybox", "echo hello", remove=True) == b"hello\n"
        assert docker(engine, "run", "--rm", "hostfs", "cat", "/etc/hostname")
        made = busy(engine)
        assert made.left()
    assert wait_for(lambda: not made.left(), f"nothing is left: {made.left()}")


def test_two_engines_beside_each_other() -> None:
    with boxwright.embed.engine() as one, boxwright.embed.engine(hostfs=False) as two:
        busy(one)
        assert docker(two, "ps", "-aq") == docker(two, "images", "-q") == ""
        assert docker(two, "info", "-f", "{{.ID}}") != docker(one, "info", "-f", "{{.ID}}")


OWNER = """
import os, subprocess, sys, time
import boxwright.embed
engine = boxwright.embed.engine().start()
engine.load(sys.argv[1])
web = ["docker", "run", "-d", "--restart", "always", "-p", "127.0.0.1:0:80", "-v", "vol:/v", "busybox", "httpd", "-f"]
subprocess.run(web, env=engine.environment, check=True, stdout=subprocess.DEVNULL)
if os.fork() == 0:  # a child of the owner does not keep the engine
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(engine.socket, engine.data_root, engine.pid, flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), 9)", "os._exit(3)", "sys.exit(0)"], ids=["SIGKILL", "_exit", "exit without close"]
)
def test_the_engine_ends_with_its_owner(end: str) -> None:
    waiting = OWNER.format(end=f"sys.stdin.read(); {end}")
    owner = subprocess.Popen(
        [sys.executable, "-c", waiting, str(images.busybox_archive())], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert owner.stdout and owner.stdin
    try:
        socket, data_root, pid = owner.stdout.readline().split()
        made = Made(socket, data_root, int(pid))
        assert made.left()
        owner.stdin.close()
        owner.wait(DEADLINE)
        wait_for(lambda: not made.left(), "everything goes with the owner")
    finally:
        os.killpg(owner.pid, signal.SIGKILL)
        owner.stdout.close()


def test_an_engine_that_was_killed_is_cleared_up() -> None:
    with boxwright.embed.engine() as engine:
        made = busy(engine)
        os.kill(engine.pid, signal.SIGKILL)
    wait_for(lambda: not made.left(), "the owner clears up after it")


def test_a_fork_does_not_end_it() -> None:
    with boxwright.embed.engine() as engine:
        child = os.fork()
        if child == 0:
            try:
                engine.close()
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert docker(engine, "info", "-f", "{{.Containers}}") == "0"
    engine.close()  # again does nothing


def test_a_data_root_can_be_kept(tmp_path: Path) -> None:
    with boxwright.embed.engine(data_root=tmp_path / "kept") as engine:
        busy(engine)
    with boxwright.embed.engine(data_root=tmp_path / "kept") as engine:
        assert docker(engine, "ps", "-aq") == ""
        assert docker(engine, "volume", "ls", "-q") == "vol"
        assert docker(engine, "run", "--rm", "busybox", "echo", "again") == "again"
    assert (tmp_path / "kept" / "boxwright.db").exists()


def test_async_block() -> None:
    async def body() -> str:
        async with boxwright.embed.engine() as engine:
            engine.load(images.busybox_archive())
            return await asyncio.to_thread(docker, engine, "run", "--rm", "busybox", "echo", "from a loop")

    assert asyncio.run(body()) == "from a loop"


def test_cancelled_while_it_starts() -> None:
    engine = boxwright.embed.engine()

    async def body() -> None:
        async with asyncio.timeout(0.01), engine:
            raise AssertionError("no engine starts in 10 ms")

    with pytest.raises(TimeoutError):
        asyncio.run(body())
    assert not os.path.exists(os.path.dirname(engine.socket))


def test_flags_and_directory(tmp_path: Path) -> None:
    flags = ["--label", "of=tests", "--log-level", "debug"]
    with boxwright.embed.engine(directory=tmp_path, flags=flags) as engine:
        assert docker(engine, "info", "-f", "{{.Labels}}") == "[of=tests]"
        assert engine.socket.startswith(str(tmp_path))
        assert "the API is served" in engine.log
    assert list(tmp_path.iterdir()) == []


def test_environment_leads_to_this_engine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    monkeypatch.setenv("KEPT", "yes")
    with boxwright.embed.engine() as engine:
        environment = engine.environment
        assert (environment["DOCKER_HOST"], environment["KEPT"]) == (engine.docker_host, "yes")
        assert not {"DOCKER_TLS_VERIFY", "DOCKER_CONTEXT"} & set(environment)
        assert docker(engine, "ps", "-aq") == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bip", "not-an-address"], "not-an-address"),
        (["--no-such-flag"], "No such option"),
        (["-s", "vfs", "-H", "ftp://x"], "invalid host 'ftp://x'"),
    ],
)
def test_an_engine_that_cannot_start_says_why(flags: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the engine did not start:") as caught:
        boxwright.embed.engine(directory=tmp_path, flags=flags).start()
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_start_twice_and_use_before() -> None:
    engine = boxwright.embed.engine()
    with pytest.raises(EngineError, match="not running"):
        print(engine.pid)
    with engine, pytest.raises(EngineError, match="started already"):
        engine.start()


def test_without_root_the_reason_is_given() -> None:
    program = "import os, boxwright.embed; os.setuid(65534); boxwright.embed.engine().start()"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode == 1
    assert "EngineError: an embedded engine needs root" in ran.stderr


def test_a_bad_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive at all")
    with boxwright.embed.engine() as engine, pytest.raises((EngineError, boxwright.client.ApiError)):
        engine.load(tmp_path / "a.tar")
