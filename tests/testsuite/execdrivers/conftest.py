"""What the conformance suite of exec drivers stands on: a driver in a directory of its own, and containers of busybox."""

import asyncio
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from boxwright.execdriver import AttachRequest, Driver, ExitStatus, Hooks, Running, StartRequest
from boxwright.execdriver.native import NativeDriver
from boxwright.libcontainer import cgroups

DEADLINE = float(os.environ.get("BOXWRIGHT_TEST_DEADLINE", "30"))
APPLETS = (
    "sh cat echo true false sleep yes head seq id stty kill dd test ps ls mkdir hostname env wc tr touch trap printf od"
)
_numbers = itertools.count(1)

_FS = ["nosuid", "noexec", "nodev"]
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": _FS},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
     "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
]  # fmt: skip
_USUAL = {"mounts": MOUNTS, "linux": {"maskedPaths": [], "readonlyPaths": []}}

DRIVERS: dict[str, Callable[[str, str], Driver]] = {
    "native": NativeDriver,
    # Each start finds a shim waiting, with a first process that is prepared.
    "native-prepared": lambda exec_root, parent: NativeDriver(exec_root, parent, _USUAL),
}


class Recorder(Hooks):
    """Hooks that remember, and that can be told to fail."""

    def __init__(self, network: Callable[[int, int, int], Awaitable[None]] | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._network = network
        self.changed = asyncio.Event()

    async def network(self, pid: int, netns_fd: int, netlink_fd: int) -> None:
        if self._network:
            await self._network(pid, netns_fd, netlink_fd)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        self.events.append((kind, data))
        self.changed.set()

    async def wait(self, kind: str) -> dict[str, Any]:
        """The first event of `kind`, now or later."""
        while True:
            for found, data in self.events:
                if found == kind:
                    return data
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), DEADLINE)


class Client:
    """The engine's end of an attached stream."""

    def __init__(self, *, stdin: bool = True, stdout: bool = True, stderr: bool = True, mux: bool = False) -> None:
        self.sock, other = socket.socketpair()
        self.sock.setblocking(False)
        self.request = AttachRequest(other.detach(), stdin=stdin, stdout=stdout, stderr=stderr, mux=mux)
        self.data = b""

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), DEADLINE)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    async def read(self) -> bytes:
        """One read, kept in `data`; b"" at the end."""
        piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 16), DEADLINE)
        self.data += piece
        return piece

    async def until(self, wanted: bytes) -> bytes:
        """Read until `wanted` has been seen."""
        while wanted not in self.data:
            assert await self.read(), f"ended after {self.data!r}"
        return self.data

    async def all(self) -> bytes:
        """Read to the end."""
        while await self.read():
            pass
        self.sock.close()
        return self.data

    def close(self) -> None:
        self.sock.close()


class Bench:
    """One driver under test with its directories."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.root = Path(tempfile.mkdtemp(prefix="boxwright-driver-"))
        # Deep enough that socket paths do not fit sun_path.
        self.exec_root = self.root / ("run-" + "x" * 100)
        self.exec_root.mkdir()
        self.parent = f"/boxwright-{self.root.name[-8:]}"
        self.lower = self.root / "lower"
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
            (self.lower / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.lower / "bin" / "busybox")
        for applet in APPLETS.split():
            (self.lower / "bin" / applet).symlink_to("busybox")
        (self.lower / "bin" / "plain").write_text("not a program")
        self.cgroup_driver = cgroups.detect()

    def driver(self) -> Driver:
        """A driver as a new engine would make it."""
        return DRIVERS[self.kind](str(self.exec_root), self.parent)

    def request(
        self,
        *args: str,
        resources: dict[str, Any] | None = None,
        pid: str = "new",
        network: str = "new",
        **options: Any,
    ) -> StartRequest:
        """A start of `args` in a fresh root file system."""
        identity = f"{next(_numbers):08x}" + os.urandom(28).hex()
        directory = self.root / "containers" / identity
        (directory / "upper").mkdir(parents=True)
        (directory / "work").mkdir()
        rootfs = {
            "type": "overlay", "lower": [str(self.lower)], "upper": str(directory / "upper"),
            "work": str(directory / "work"), "options": ["volatile"], "lock": str(directory / "lock"),
        }  # fmt: skip
        kinds = ["mount", "uts", "ipc", "cgroup"] + ["pid"] * (pid == "new") + ["network"] * (network == "new")
        return StartRequest(
            identity,
            options.pop("generation", 1),
            spec(list(args), kinds, resources or {}, options.get("tty", False), options.pop("size", None)),
            rootfs,
            str(directory),
            cgroup={"driver": self.cgroup_driver, "parent": self.parent, "name": identity},
            log=options.pop("log", {"type": "json-file", "config": {}}),
            **options,
        )

    def group(self, request: StartRequest) -> cgroups.Manager:
        return cgroups.manager(request.cgroup["driver"], request.cgroup["parent"], request.cgroup["name"])

    def shims(self) -> list[int]:
        """Pids of this driver's launcher and everything forked from it that has not become a program."""
        found = subprocess.run(["pgrep", "-f", str(self.exec_root)], capture_output=True, text=True, timeout=10).stdout
        return [int(pid) for pid in found.split()]

    def assert_nothing_of(self, request: StartRequest) -> None:
        """No cgroup, no socket; that no process is left the cgroup says."""
        group = self.group(request)
        assert not [d for d in group.directories() if os.path.exists(d)]
        assert os.listdir(self.exec_root / "shims") == []

    def close(self) -> None:
        cgroups.remove_parent(self.cgroup_driver, self.parent)
        shutil.rmtree(self.root)


def spec(
    args: list[str], namespaces: list[str], resources: dict[str, Any], tty: bool, size: tuple[int, int] | None
) -> dict[str, Any]:
    process: dict[str, Any] = {
        "terminal": tty,
        "user": {"username": ""},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {k: ["CAP_KILL"] for k in ("bounding", "effective", "permitted")},
    }
    if size:
        process["consoleSize"] = {"height": size[0], "width": size[1]}
    return {
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": "rootfs"},
        "hostname": "conformance",
        "mounts": list(MOUNTS),
        "linux": {"namespaces": [{"type": kind} for kind in namespaces], "resources": resources},
    }


@pytest.fixture(scope="module", params=sorted(DRIVERS))
def bench(request: pytest.FixtureRequest, nothing_left_behind: None) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    # The launcher goes by itself once it is idle.
    for _ in range(300):
        if not made.shims():
            break
        subprocess.run(["sleep", "0.05"], check=True)
    assert made.shims() == []
    made.close()


async def prepared(driver: NativeDriver) -> None:
    """Have a shim wait for the next start."""
    await driver.ready()
    while not driver.prepared:
        await asyncio.sleep(0.001)


Body = Callable[[Driver], Awaitable[None]]


def run(bench: Bench, body: Body) -> None:
    """Run `body` with a driver that is closed afterwards."""

    async def whole() -> None:
        driver = bench.driver()
        try:
            if isinstance(driver, NativeDriver) and bench.kind == "native-prepared":
                await asyncio.wait_for(prepared(driver), DEADLINE)
            await asyncio.wait_for(body(driver), 2 * DEADLINE)
        finally:
            await driver.close()

    asyncio.run(whole())


async def ended(running: Running) -> ExitStatus:
    """Wait for the exit and let the shim go."""
    status = await asyncio.wait_for(asyncio.shield(running.exit), DEADLINE)
    await running.release()
    return status


def log_of(request: StartRequest) -> list[tuple[str, str]]:
    path = Path(request.container_dir) / f"{request.id}-json.log"
    return [(r["stream"], r["log"]) for r in map(json.loads, path.read_bytes().splitlines())]


def process(*args: str, **more: Any) -> dict[str, Any]:
    return {"args": list(args), "env": ["PATH=/bin"], "cwd": "/", "user": {"username": ""}, **more}


async def gone(bench: Bench, request: StartRequest) -> None:
    """Wait until nothing of a start is left."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                bench.assert_nothing_of(request)
                return
            except AssertionError:
                await asyncio.sleep(0.01)


def disconnect(running: Any) -> None:
    """What the death of an engine is to a shim."""
    running.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what sends no event."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)
