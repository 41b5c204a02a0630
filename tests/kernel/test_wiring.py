"""The whole engine in this process: real storage, network and shims under the desired side."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.engine import wait_for

from boxwright.config import Settings
from boxwright.db import intents
from boxwright.engine import create, inspect, remove, start, stop, wait, wiring
from boxwright.engine.engine import Engine
from boxwright.engine.state import Status
from boxwright.errdefs import InvalidParameter, NotFound, NotImplemented_, System
from boxwright.types import ContainerConfig, HostConfig
from boxwright.types.lenient import convert

pytestmark = [pytest.mark.root, pytest.mark.network]

DEADLINE = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    name = f"bwk{os.urandom(3).hex()}"
    return Settings(data_root=str(tmp_path / "data"), exec_root=str(tmp_path / "exec"), bridge=name)


async def pieces(path: Path) -> AsyncIterator[bytes]:
    yield path.read_bytes()


@asynccontextmanager
async def opened(settings: Settings, *, remove_all: bool = True) -> AsyncIterator[Engine]:
    eng = await wiring.open_engine(settings)
    try:
        if eng.images.find("busybox") is None:
            await eng.images.load(pieces(images.busybox_archive()), quiet=True, emit=lambda message: None)
        yield eng
    finally:
        if remove_all:
            for container in eng.store:
                await remove.remove(eng, container.id, force=True, volumes=True)
            await eng.settle()
        await wiring.close_engine(eng, remove=remove_all)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await work()

    asyncio.run(bounded())


async def make(eng: Engine, name: str, *command: str, **host_config: Any) -> str:
    fields = {"Image": "busybox", "Cmd": list(command)}
    answer = await create.create(eng, name, convert(fields, ContainerConfig), convert(host_config, HostConfig))
    return str(answer["Id"])


def test_from_create_to_nothing(settings: Settings) -> None:
    async def work() -> None:
        async with opened(settings) as eng:
            id = await make(eng, "web", "sh", "-c", "echo $HOSTNAME; hostname; exit 3", Binds=["data:/d"])
            found = await inspect.inspect(eng, "web", size=True)
            assert found["GraphDriver"]["Name"] == "overlay2" and found["SizeRootFs"] > 0
            await start.start(eng, "web")
            assert (await wait.wait(eng, "web", "not-running").result())["StatusCode"] == 3
            found = await inspect.inspect(eng, "web")
            steps = {step[0] for step in found["Boxwright"]["Timeline"]}
            assert {"verify", "address", "spec", "clone", "mounts", "network", "execve"} <= steps
            assert Path(found["LogPath"]).read_text().count(id[:12]) == 2
            await remove.remove(eng, "web", volumes=True)
            with pytest.raises(NotFound):
                eng.store.get("web")
            assert (await eng.volumes.get("data"))["Name"] == "data"
            await eng.volumes.remove("data")
            assert os.listdir(settings.path("containers")) == []
            assert intents.pending(eng.db) == []
        assert not os.path.exists(settings.data_root) and not os.path.exists(settings.exec_root)

    run(work)


def test_a_data_root_has_one_engine_and_keeps_its_identity(settings: Settings) -> None:
    async def work() -> None:
        async with opened(settings, remove_all=False) as eng:
            instance, id = eng.instance, eng.id
            assert len(instance) == 8 and int(instance, 16) >= 0
            with pytest.raises(System, match="another engine is using"):
                await wiring.open_engine(settings)
        async with opened(settings) as eng:
            assert (eng.instance, eng.id) == (instance, id)

    run(work)


def test_nobody_else_looks_into_the_roots(settings: Settings) -> None:
    """CVE-2021-41091: a data root that users can traverse gives them setuid programs of every image."""
    os.makedirs(settings.data_root, 0o755)
    os.chmod(settings.data_root, 0o755)

    async def work() -> None:
        async with opened(settings):
            for path in (settings.data_root, settings.exec_root):
                assert os.stat(path).st_mode & 0o027 == 0, path

    run(work)


def test_containers_outlive_an_engine_and_are_found_again(settings: Settings) -> None:
    async def work() -> None:
        async with opened(settings, remove_all=False) as eng:
            await make(eng, "db", "sleep", "1000")
            await make(eng, "web", "sleep", "1000", Links=["db:sql"])
            await start.start(eng, "db")
            await start.start(eng, "web")
            pid = eng.store.get("web").state.pid
        assert os.path.exists(f"/proc/{pid}")
        async with opened(settings) as eng:
            web = eng.store.get("web")
            assert web.state.status is Status.RUNNING and web.state.pid == pid
            assert eng.store.get("web/sql") is eng.store.get("db")
            found = inspect.describe(eng, web)
            assert found["NetworkSettings"]["IPAddress"] == web.endpoints["bridge"].address != ""
            await stop.stop(eng, "web", None, 0)
            assert web.state.status is Status.EXITED and web.state.exit_code == 137

    run(work)


@pytest.mark.parametrize("instant", range(4))
def test_a_create_and_a_removal_cut_short_leave_nothing(settings: Settings, instant: int) -> None:
    """SIGKILL at each await of create and remove: the next engine finds whole containers or none."""

    async def work() -> None:
        async with opened(settings, remove_all=False) as eng:
            await make(eng, "keep", "true", Binds=["anon:/a"], Tmpfs={"/t": ""})
        pid = os.fork()
        if pid == 0:
            killed_at(settings, instant)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        async with opened(settings) as eng:
            names = {container.name for container in eng.store}
            assert "keep" in names and names <= {"keep", "new", "gone"}
            assert intents.pending(eng.db) == []
            ids = {container.id for container in eng.store}
            assert set(os.listdir(settings.path("containers"))) == ids
            for container in eng.store:
                assert eng.snapshotter.exists(container.id) and container.state.status is Status.CREATED
            assert {row[0] for row in eng.db.query("SELECT id FROM entities")} == ids | {"0"}
            used = {point.name for container in eng.store for point in container.record.mounts if point.name}
            assert {volume["Name"] for volume in (await eng.volumes.list({}))["Volumes"] or []} <= used | {"anon"}
            eng.trash.drain()
            wait_for(lambda: not os.listdir(settings.path("tmp")), "tmp is swept")

    run(work)


def killed_at(settings: Settings, instant: int) -> None:
    """In a forked child: die by SIGKILL at one of the seams of a create and a removal; never returns."""

    def die(*args: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def work() -> None:
        async with opened(settings, remove_all=False) as eng:
            if instant == 0:
                eng.snapshotter.prepare = die  # type: ignore[method-assign]
            elif instant == 1:
                eng.store.add = die  # type: ignore[method-assign]
            fields = {"Image": "busybox", "Cmd": ["true"], "Volumes": {"/v": {}}}
            await create.create(eng, "new", convert(fields, ContainerConfig), HostConfig())
            await create.create(eng, "gone", convert(fields, ContainerConfig), HostConfig())
            if instant == 2:
                eng.trash.discard = die  # type: ignore[method-assign]
            else:
                eng.store.delete = die  # type: ignore[method-assign]
            await remove.remove(eng, "gone", volumes=True)

    try:
        asyncio.run(work())
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"storage_driver": "zfs"}, InvalidParameter, "graphdriver not supported: zfs"),
        ({"default_runtime": "kata"}, InvalidParameter, "default runtime 'kata' does not exist"),
        ({"seccomp_profile": "/nonexistent.json"}, InvalidParameter, "opening seccomp profile"),
        ({"runtimes": {"crun": {"path": "crun"}}}, NotImplemented_, "crun"),
    ],
)
def test_settings_that_cannot_be_leave_the_root_unlocked(
    settings: Settings, change: dict[str, Any], kind: type[Exception], text: str
) -> None:
    async def work() -> None:
        before = {name: getattr(settings, name) for name in change}
        for name, value in change.items():
            setattr(settings, name, value)
        with pytest.raises(kind) as caught:
            await wiring.open_engine(settings)
        assert text in str(caught.value)
        for name, value in before.items():
            setattr(settings, name, value)
        async with opened(settings):
            pass

    run(work)
