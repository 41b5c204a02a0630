"""The engine: one value that holds the parts, wired by `wiring.open_engine`.  The verbs are functions of the modules
beside this one; they take an `Engine` first.
"""

import asyncio
import logging
from collections.abc import Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from boxwright.errdefs import InvalidParameter

if TYPE_CHECKING:
    from boxwright.config import Settings
    from boxwright.db.connection import Database
    from boxwright.engine.owners import Owners
    from boxwright.engine.seccomp import Seccomp
    from boxwright.engine.stats import Collector
    from boxwright.engine.store import Container, Store
    from boxwright.engine.telemetry import Telemetry
    from boxwright.events.bus import Bus
    from boxwright.execdriver import Driver
    from boxwright.images.distribution.distribution import Distribution
    from boxwright.images.store import ImageStore
    from boxwright.launcher.client import Launcher
    from boxwright.launcher.jobs import Jobs
    from boxwright.network.controller import Controller
    from boxwright.storage.snapshotter import Snapshotter
    from boxwright.trees.trash import Trash
    from boxwright.volumes.store import VolumeStore

T = TypeVar("T")

log = logging.getLogger(__name__)


class Engine:
    """The parts of a running engine.

    instance: 8 hex digits, part of every kernel object's name.  id: the engine's UUID of /info.
    drivers: execution drivers by runtime name; "boxwright" is the native one.
    sessions: exec sessions by id, kept by `exec.py`.
    stats: serves the streams of `stats.py`, once there was one.  started_ns: engine start, nanoseconds since the epoch.
    telemetry: sends the timelines of starts, where the environment asks for it.
    claimed_volumes: volumes of containers that are being created, by the container's id.
    warnings: what /info says of how the API is served.
    worker: the launcher of confined jobs.  lock_fds: hold the locks of data root and run directory.
    pruning: held by a prune of containers.
    """

    def __init__(self, config: "Settings", instance: str, id: str) -> None:
        self.config = config
        self.instance = instance
        self.id = id
        self.db: Database
        self.bus: Bus
        self.store: Store
        self.worker: Launcher
        self.jobs: Jobs
        self.snapshotter: Snapshotter
        self.trash: Trash
        self.images: ImageStore
        self.volumes: VolumeStore
        self.network: Controller
        self.seccomp: Seccomp
        self.drivers: dict[str, Driver] = {}
        self.sessions: dict[str, Any] = {}
        self.owners: Owners
        self.stats: Collector | None = None
        self.telemetry: Telemetry | None = None
        self.claimed_volumes: dict[str, list[str]] = {}
        self.warnings: list[str] = []
        self.started_ns = 0
        self.lock_fds: list[int] = []
        self.pruning = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    @cached_property
    def distribution(self) -> "Distribution":
        """Pull and push; what they need is imported with the first of them (1 MiB, 30 ms)."""
        from boxwright.images.distribution.distribution import Distribution

        return Distribution(self.images, self.config)

    @property
    def cgroup_parent(self) -> str:
        """The cgroup under which containers that name no parent are made."""
        return self.config.cgroup_parent or f"/boxwright-{self.instance}"

    def driver_of(self, container: "Container") -> "Driver":
        """The execution driver of the container's runtime."""
        name = container.host_config.runtime or self.config.default_runtime
        if name not in self.drivers:
            raise InvalidParameter(f"unknown or invalid runtime name: {name}")
        return self.drivers[name]

    def container_dir(self, id: str) -> str:
        """The container's directory: log, hosts, resolv.conf, exit record."""
        return self.config.path("containers", id)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run `work` as a task of the engine that nobody waits for: it is kept until it ends, its failure is logged."""
        task = self._keep(work)
        task.add_done_callback(_log_failure)
        return task

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a mutation to its end, even when the client that asked for it hangs up meanwhile."""
        return await asyncio.shield(self._keep(work))

    async def settle(self, timeout: float | None = None) -> None:
        """Wait until every task has ended; those that have not after `timeout` seconds are cancelled."""
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while self._tasks:
            left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait(self._tasks, timeout=left)
            if not done:
                for task in self._tasks:
                    task.cancel()
                deadline = None

    def _keep(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def tasks(self) -> int:
        """How many mutations are under way."""
        return len(self._tasks)

    def image_users(self, image: str) -> list[tuple[str, bool]]:
        """(container id, runs) of the containers made from the image with this id; what `rmi` asks."""
        return [(c.id, c.state.running) for c in self.store if c.record.image == image]

    def announce(self, container: "Container", action: str, **extra: str) -> None:
        """Publish an event of a container: its labels, image and name are the attributes, and `extra`."""
        attributes = dict(container.config.labels or {})
        attributes |= {"image": container.config.image, "name": container.name, **extra}
        self.bus.publish("container", action, container.id, attributes)


def _log_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a task of the engine failed", exc_info=error)
