"""An engine whose driver, network and snapshots are fakes: the life of containers without a kernel under it.

The store, the database, the events and every verb are the real ones.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from boxwright import config
from boxwright.db import schema
from boxwright.db.connection import Database
from boxwright.engine import clock, store
from boxwright.engine.engine import Engine
from boxwright.engine.graphdb import SCRIPTS as GRAPH_SCRIPTS
from boxwright.engine.graphdb import Graph
from boxwright.engine.owners import Owners
from boxwright.engine.state import State
from boxwright.engine.store import Container, Record, Store
from boxwright.errdefs import Conflict, StepError
from boxwright.events.bus import Bus
from boxwright.execdriver import AttachRequest, ExitStatus, Hooks, StartRequest
from boxwright.network.endpoint import Endpoint, EndpointRequest
from boxwright.types import ContainerConfig, HostConfig, LogConfig, RestartPolicy

DEADLINE = 10.0


class FakeRunning:
    """A process that ends when told to: by `end`, or by a signal in `dies_of`."""

    def __init__(self, request: StartRequest, hooks: Hooks) -> None:
        self.id, self.generation, self.request, self.hooks = request.id, request.generation, request, hooks
        self.pid, self.started_at, self.paused = 4242, clock.now(), False
        self.timeline: list[list[Any]] = [["execve", 1, 2, ""]]
        self.exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self.execs: dict[str, dict[str, Any]] = {}
        self.problem = ""
        self.dies_of = {9, 15}
        self.signals: list[int] = []
        self.released = self.indestructible = False
        self.exec_error: StepError | None = None
        self.update_error: Exception | None = None
        self.updates: list[dict[str, Any]] = []

    def end(self, code: int, *, oom: bool = False) -> None:
        self.exit.set_result(ExitStatus(code, 0, oom, clock.now()))

    async def signal(self, sig: int, all: bool = False) -> None:
        if self.exit.done():
            raise Conflict("gone")
        self.signals.append(sig)
        if sig in self.dies_of:
            self.end(128 + sig)

    async def pause(self) -> None:
        self.paused = True

    async def unpause(self) -> None:
        self.paused = False

    async def resize(self, h: int, w: int) -> None: ...

    async def attach(self, request: AttachRequest) -> None:
        os.close(request.fd)

    async def exec(self, exec_id: str, process: dict[str, Any], **options: Any) -> int:
        if (request := options["attach"]) is not None:
            os.close(request.fd)
        if self.exec_error:
            raise self.exec_error
        return 4343

    async def exec_resize(self, exec_id: str, h: int, w: int) -> None: ...

    async def update(self, resources: dict[str, Any]) -> None:
        if self.update_error:
            raise self.update_error
        self.updates.append(resources)

    def stats(self) -> dict[str, Any]:
        if self.exit.done():
            raise Conflict("gone")
        cpu = {"usage_ns": 7, "user_ns": 5, "system_ns": 2, "percpu_ns": [7]}
        memory = {"usage": 1, "max_usage": 3, "limit": -1, "failures": 0, "oom_kills": 0, "stat": {"cache": 1}}
        return {"cpu": cpu, "memory": memory, "pids": {"current": 1, "limit": -1}, "blkio": {}, "networks": {}}

    async def pids(self) -> list[int]:
        return [os.getpid()]

    async def destroy(self) -> None:
        if self.indestructible:
            raise StepError("processes 4242 survive SIGKILL", step="cgroup")
        self.end(137)

    async def release(self) -> None:
        self.released = True


class FakeDriver:
    """Starts what it is asked for, unless `error` is set; remembers every life."""

    name = "native"

    def __init__(self) -> None:
        self.lives: list[FakeRunning] = []
        self.error: Exception | None = None
        self.found: dict[str, FakeRunning] = {}
        self.records: dict[tuple[str, int], ExitStatus] = {}
        self.cleaned: list[str] = []
        self.gate: Callable[[], Awaitable[None]] | None = None

    async def start(self, request: StartRequest, hooks: Hooks) -> FakeRunning:
        for attach in request.attach:
            os.close(attach.fd)
        if self.gate is not None:
            await self.gate()
        if request.configure_network:
            await hooks.network(4242, -1, -1)
        if self.error is not None:
            raise self.error
        life = FakeRunning(request, hooks)
        self.lives.append(life)
        return life

    async def adopt(
        self, container_id: str, generation: int, hooks: Hooks, container_dir: str = ""
    ) -> FakeRunning | None:
        life = self.found.get(container_id)
        return life if life is not None and life.generation == generation else None

    def recorded(self, container_dir: str, generation: int) -> ExitStatus | None:
        return self.records.get((os.path.basename(container_dir), generation))

    async def cleanup(self, container_id: str, container_dir: str, cgroup: dict[str, str]) -> None:
        self.cleaned.append(container_id)


class FakeNetwork:
    """Plans one endpoint for each container; `held` are those not released."""

    def __init__(self) -> None:
        self.held: dict[str, Endpoint] = {}
        self.connected: list[str] = []

    def plan(self, request: EndpointRequest) -> Endpoint:
        endpoint = Endpoint(
            id=os.urandom(4).hex(), network_id="net1", network=request.network, driver="bridge",
            container_id=request.container_id, container_name=request.container_name, generation=request.generation,
            address="172.17.0.2",
        )  # fmt: skip
        self.held[endpoint.id] = endpoint
        return endpoint

    async def connect(self, endpoint: Endpoint, netns_fd: int, netlink_fd: int) -> None:
        self.connected.append(endpoint.id)

    async def release(self, endpoint: Endpoint) -> None:
        self.held.pop(endpoint.id, None)

    def endpoints(self, container_id: str) -> list[Endpoint]:
        return [endpoint for endpoint in self.held.values() if endpoint.container_id == container_id]

    def gateway_address(self) -> str:
        return "172.17.0.1"


class FakeSnapshotter:
    """A root file system for whoever asks."""

    def mount(self, key: str, volatile: bool = False) -> dict[str, Any]:
        return {"type": "bind", "source": "/", "readonly": True, "lock": None}

    def remove(self, key: str) -> None: ...


class Unconfined:
    """No filter for anyone."""

    async def compile(self, profile: str, capabilities: list[str]) -> None:
        return None


class Life:
    """The engine, its fakes, and what happened in it."""

    def __init__(self, root: Path) -> None:
        settings = config.Settings(data_root=str(root), exec_root=str(root), seccomp_profile="unconfined")
        self.eng = Engine(settings, "00000000", "id")
        self.eng.owners = Owners(self.eng)
        self.eng.db = Database(str(root / "test.db"))
        self.eng.db.migrate("db", schema.SCRIPTS)
        self.eng.db.migrate("graph", GRAPH_SCRIPTS)
        self.eng.db.migrate("containers", store.SCRIPTS)
        self.eng.bus = Bus()
        self.eng.store = Store(self.eng.db, Graph(self.eng.db))
        self.driver, self.network = FakeDriver(), FakeNetwork()
        self.eng.drivers = {"boxwright": self.driver}  # type: ignore[dict-item]
        self.eng.network = self.network  # type: ignore[assignment]
        self.eng.seccomp = Unconfined()  # type: ignore[assignment]
        self.eng.snapshotter = FakeSnapshotter()  # type: ignore[assignment]

    def create(self, name: str = "c", *, restart: str = "no", retries: int = 0, **options: Any) -> Container:
        """A created container; `options` go to HostConfig (snake_case), `config` to its configuration."""
        container_config = options.pop("config", None) or ContainerConfig(image="busybox", cmd=["true"], hostname=name)
        id = os.urandom(32).hex()
        os.makedirs(self.eng.container_dir(id))
        host_config = HostConfig(
            restart_policy=RestartPolicy(name=restart, maximum_retry_count=retries),
            log_config=LogConfig(type="json-file"), runtime="boxwright", network_mode="bridge", **options,
        )  # fmt: skip
        record = Record(
            id=id, name=name, created=clock.now(), image="sha256:" + "0" * 64, path="true", args=[],
            config=container_config, host_config=host_config,
        )  # fmt: skip
        with self.eng.db.transaction():
            return self.eng.store.add(record, State())

    @property
    def events(self) -> list[str]:
        return [event["Action"] for event in self.eng.bus.recent()]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Let the loop run until `condition` holds."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.001)


def lived(root: Path, work: Callable[[Life], Awaitable[None]]) -> None:
    """Run `work` with a fresh engine."""

    async def run() -> None:
        life = Life(root)
        try:
            async with asyncio.timeout(3 * DEADLINE):
                await work(life)
                await life.eng.settle()
        finally:
            life.eng.db.close()

    asyncio.run(run())
