"""Opens the parts of an engine in order, lowest first, and closes them in reverse.

What runs goes on when the engine is closed; with `remove`, what is left of it in the kernel and on disk goes too.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import shutil
import time
import uuid
from contextlib import AsyncExitStack

import boxwright
from boxwright.config import Settings
from boxwright.db import schema as db_schema
from boxwright.db.connection import Database
from boxwright.engine import (
    commit,
    create,
    graphdb,
    health,
    hostinfo,
    monitor,
    mounts,
    owners,
    remove,
    restore,
    seccomp,
    security,
    spec,
    startbody,
    store,
    telemetry,
)
from boxwright.engine.engine import Engine
from boxwright.errdefs import Error, InvalidParameter, NotImplemented_, System, host_failure
from boxwright.events.bus import Bus
from boxwright.execdriver.native import NativeDriver
from boxwright.images import schema as images_schema
from boxwright.images.distribution.origins import Origins
from boxwright.images.store import ImageStore
from boxwright.launcher.client import Launcher
from boxwright.launcher.jobs import Jobs
from boxwright.libcontainer import cgroups
from boxwright.network import schema as network_schema
from boxwright.network.controller import Controller
from boxwright.storage import schema as storage_schema
from boxwright.storage.content import ContentStore
from boxwright.storage.snapshotter import open_snapshotter
from boxwright.trees.placement import spread
from boxwright.trees.trash import Trash
from boxwright.volumes import schema as volumes_schema
from boxwright.volumes.store import VolumeStore

log = logging.getLogger(__name__)

PROFILE_BYTES = 1 << 20  # of the daemon's own seccomp profile
WORKER_SECONDS = 20.0  # without a confined job: 11 MiB that are not needed, and 0.2 s to have them again


async def open_engine(config: Settings) -> Engine:
    """A running engine over `config`'s data root: containers found again, interrupted operations finished or undone.

    Raises System when another engine has the data root or a part cannot be opened, InvalidParameter for settings.
    """
    async with AsyncExitStack() as undo:
        try:
            _make_directories(config)
            locks = _locks(config, undo)
        except OSError as error:
            raise _unusable(config, error) from error
        instance, id = _identity(config)
        eng = Engine(config, instance, id)
        eng.lock_fds = locks
        eng.started_ns = time.time_ns()
        eng.bus = Bus()
        eng.owners = owners.Owners(eng)
        eng.db = _open_database(config)
        undo.callback(eng.db.close)
        _open_stores(eng, undo)
        drivers = _drivers(config, eng.cgroup_parent)
        eng.drivers = dict(drivers)
        eng.seccomp = seccomp.Seccomp(config.data_root, eng.jobs, _default_profile(config))
        known = {container.id for container in eng.store}
        for driver in drivers.values():
            driver.sweep(known)
        await asyncio.gather(eng.network.start(), *(driver.ready() for driver in drivers.values()))
        undo.push_async_callback(eng.network.close)
        if telemetry.wanted(os.environ):
            eng.telemetry = await asyncio.to_thread(telemetry.open_telemetry, eng)
        if eng.telemetry is not None:
            undo.callback(eng.telemetry.close)
        await _recover(eng)
        undo.pop_all()
    _warm_up(eng)
    return eng


def _warm_up(eng: Engine) -> None:
    """What the first start would otherwise wait for: the host's abilities, and the default filter (12 ms)."""
    hostinfo.host()
    eng.spawn(eng.seccomp.compile("", security.DEFAULT_CAPABILITIES))


async def close_engine(eng: Engine, remove: bool = False, keep_data: bool = False) -> None:
    """Close every part; containers run on.

    remove: take everything away that the engine has made; its containers have to be gone.
    keep_data: but leave the data root: images and named volumes are there for the next engine.
    """
    eng.owners.leave()
    for container in eng.store:
        monitor.cancel(container)
        health.dismiss(container)
    await eng.settle(eng.config.shutdown_timeout)
    if eng.telemetry is not None:
        await asyncio.to_thread(eng.telemetry.close)
    await eng.network.close(remove=remove)
    for driver in eng.drivers.values():
        await driver.close()
    if "distribution" in vars(eng):
        await eng.distribution.close()
    await eng.worker.close()
    for part in (eng.volumes, eng.images, eng.snapshotter, eng.trash):
        part.close()
    eng.db.close()
    if remove:
        cgroups.remove_parent("", eng.cgroup_parent)
        roots = [eng.config.exec_root] if keep_data else [eng.config.exec_root, eng.config.data_root]
        for root in roots:
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
    for lock in eng.lock_fds:
        os.close(lock)


def _make_directories(config: Settings) -> None:
    for directory in ("", "containers", "volumes", "tmp"):
        os.makedirs(config.path(directory), 0o710, exist_ok=True)
    spread(config.path("containers"))
    os.makedirs(config.exec_root, 0o710, exist_ok=True)
    # makedirs obeys the umask and leaves an existing directory alone: nobody else may look in (CVE-2021-41091).
    for directory in (config.data_root, config.exec_root):
        if os.stat(directory).st_mode & 0o027:
            os.chmod(directory, 0o710)


def _locks(config: Settings, undo: AsyncExitStack) -> list[int]:
    """Be the only engine of this data root and run directory; a lock ends with the process, however it ends.

    Raises System, by the directory's name, when another has one of them.
    """
    held = []
    for directory, path in ((config.data_root, config.path("lock")), (config.exec_root, config.run_path("lock"))):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise System(f"another engine is using {directory}") from None
        held.append(fd)
    return held


def _unusable(config: Settings, error: OSError) -> Error:
    """Why nothing can be made in the engine's directories."""
    if error.errno == errno.EROFS:
        return System(
            f"{error.filename}: the file system is read-only: the engine's data root ({config.data_root}) and run "
            f"directory ({config.exec_root}) have to be writable; containers that run go on meanwhile"
        )
    return System(host_failure(error) or f"{error.filename}: {(error.strerror or str(error)).lower()}")


def _identity(config: Settings) -> tuple[str, str]:
    """(instance, engine id): made once for a data root, kept in its file `instance`."""
    path = config.path("instance")
    try:
        with open(path, encoding="ascii") as file:
            instance, id = file.read(256).split()
    except (FileNotFoundError, ValueError):
        instance, id = secrets.token_hex(4), str(uuid.uuid4())
        temporary = f"{path}.new"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(f"{instance} {id}\n")
        os.rename(temporary, path)
    return instance, id


def _open_database(config: Settings) -> Database:
    db = Database(config.path("boxwright.db"))
    try:
        for component, scripts in (
            ("db", db_schema.SCRIPTS),
            ("graph", graphdb.SCRIPTS),
            ("store", store.SCRIPTS),
            ("storage", storage_schema.SCRIPTS),
            ("images", images_schema.SCRIPTS),
            ("volumes", volumes_schema.SCRIPTS),
            ("network", network_schema.SCRIPTS),
        ):
            db.migrate(component, scripts)
    except BaseException:
        db.close()
        raise
    return db


def _open_stores(eng: Engine, undo: AsyncExitStack) -> None:
    config = eng.config
    eng.store = store.Store(eng.db, graphdb.Graph(eng.db))
    eng.store.load()
    eng.worker = Launcher(config.exec_root, "worker", WORKER_SECONDS)
    eng.jobs = Jobs(eng.worker)
    eng.trash = Trash(config.path("tmp"))
    undo.callback(eng.trash.close)
    eng.snapshotter = open_snapshotter(config.data_root, eng.db, eng.jobs, config.storage_driver or None, eng.trash)
    undo.callback(eng.snapshotter.close)
    content = ContentStore(config.data_root, eng.db, eng.trash)
    eng.images = ImageStore(
        eng.db,
        content,
        eng.snapshotter,
        eng.jobs,
        config.data_root,
        eng.bus.publish,
        hostfs=config.hostfs,
        private=[config.exec_root],
    )
    undo.callback(eng.images.close)
    eng.volumes = VolumeStore(
        eng.db,
        config.data_root,
        eng.jobs,
        lambda name: mounts.users_of(eng, name),
        eng.bus.publish,
    )
    undo.callback(eng.volumes.close)
    eng.network = Controller(eng.db, eng.instance, config)
    eng.network.container_name = lambda id: found.name if (found := eng.store.by_id(id)) else id


def _drivers(config: Settings, cgroup_parent: str) -> dict[str, NativeDriver]:
    if config.runtimes:
        raise NotImplemented_(f"external runtimes ({', '.join(config.runtimes)}) are not supported by this engine yet")
    if config.default_runtime not in ("boxwright", "runc"):
        raise InvalidParameter(f"specified default runtime '{config.default_runtime}' does not exist")
    native = NativeDriver(config.exec_root, cgroup_parent, spec.usual(config))
    return {config.default_runtime: native}


def _default_profile(config: Settings) -> str:
    """The daemon's seccomp profile: "", a known word, or the text of the file that is named."""
    profile = config.seccomp_profile
    if profile in ("", "builtin", "unconfined"):
        return profile
    try:
        with open(profile, encoding="utf-8") as file:
            return file.read(PROFILE_BYTES)
    except OSError as error:
        raise InvalidParameter(f"opening seccomp profile ({profile}) failed: {error.strerror}") from error


async def _recover(eng: Engine) -> None:
    """Undo and finish what the last engine left, then find the containers again."""
    await create.recover(eng)
    await startbody.recover(eng)
    await remove.recover(eng)
    # Snapshots keep layers, and images are reconciled with what is left of them.
    eng.snapshotter.reconcile({container.id for container in eng.store})
    eng.images.reconcile()
    Origins(eng.db).sweep()
    await restore.restore(eng)
    await commit.recover(eng)
    eng.owners.resume()
    eng.volumes.reconcile({container.id for container in eng.store if container.state.running})
    eng.spawn(eng.volumes.recover())
    log.info("boxwright %s: instance %s, %d containers", boxwright.__version__, eng.instance, len(eng.store))
