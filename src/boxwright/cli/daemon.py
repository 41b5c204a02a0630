"""The engine as a process: opens the parts, serves the API, and ends on a signal; containers run on.

An ephemeral engine (embedded ones, tests, demos) instead removes all that it made before it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxwright.api import server, tls
from boxwright.api.app import App
from boxwright.api.authorization import Authorization
from boxwright.api.engine_backend import EngineBackend
from boxwright.api.routes.system import METRICS
from boxwright.cli import configuration, logformat, reloading, systemd
from boxwright.engine import remove, stop, wiring
from boxwright.errdefs import Error

if TYPE_CHECKING:
    from boxwright.config import Settings
    from boxwright.engine.engine import Engine

IDLE_CHECK = 1.0  # seconds between looks at whether anyone needs the engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Life:
    """How long the engine lives and what it leaves.

    ephemeral: at the end, remove everything that it made; with keep_data, all but images and named volumes.
    idle_timeout: end when nobody has needed the engine for so many seconds.
    ready_fd: gets the line `ready` once the API answers, and is closed.
    owner_fd: a pidfd (or the read end of a pipe): when it becomes readable the owner is gone, and the engine ends.
    """

    ephemeral: bool = False
    keep_data: bool = False
    idle_timeout: float | None = None
    ready_fd: int | None = None
    owner_fd: int | None = None


def run(
    settings: Settings,
    life: Life,
    reread: Callable[[], Settings],
    activated: dict[str, list[socket.socket]],
) -> None:
    """Serve until SIGTERM or SIGINT, or as `life` says.  Raises Error and OSError when the engine cannot start.

    reread: the settings as they are now in the file, for SIGHUP.  activated: systemd's sockets, for `fd://`.
    """
    logformat.configure(configuration.LEVELS[settings.log_level], settings.log_format)
    with _pidfile(settings.pidfile), asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        runner.run(_serve(settings, life, reread, activated))


@contextlib.contextmanager
def _pidfile(path: str) -> Iterator[None]:
    """Write our pid to `path` ("" for none) and remove the file at the end."""
    if not path:
        yield
        return
    with open(path, "w") as file:
        file.write(f"{os.getpid()}\n")
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


async def _serve(
    settings: Settings,
    life: Life,
    reread: Callable[[], Settings],
    activated: dict[str, list[socket.socket]],
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if life.owner_fd is not None:
        _watch_owner(life.owner_fd, ended)
    authorization = Authorization(settings.authorization_plugins)
    async with _opened(settings, life) as eng, contextlib.aclosing(authorization):

        def reload() -> None:
            reloading.reload(eng, reread)
            authorization.replace(eng.config.authorization_plugins)

        loop.add_signal_handler(signal.SIGHUP, reload)
        backend = EngineBackend(eng)
        api = await _listen(App(backend, authorization), eng, activated)
        metrics: server.Serving | None = None
        try:
            metrics = await _serve_metrics(eng, backend)
            # A full collection then looks at what containers bring, not at every imported function.
            gc.freeze()
            gc.enable()
            _tell_ready(life.ready_fd)
            log.info("the API is served at %s", ", ".join(api.addresses))
            await _until(ended, eng, api, life.idle_timeout)
        finally:
            systemd.notify("STOPPING=1")
            eng.owners.leave()
            await api.close()
            if metrics is not None:
                await metrics.close(0.0)


def _watch_owner(fd: int, ended: asyncio.Event) -> None:
    """Set `ended` when the owner is gone.  The descriptor must not be inherited: a pipe's end would tell lies."""
    loop = asyncio.get_running_loop()
    os.set_inheritable(fd, False)

    def gone() -> None:
        loop.remove_reader(fd)
        log.info("the owner of this engine is gone")
        ended.set()

    loop.add_reader(fd, gone)


async def _listen(app: App, eng: Engine, activated: dict[str, list[socket.socket]]) -> server.Serving:
    settings = eng.config
    hosts = settings.hosts or [f"unix://{settings.run_path('boxwright.sock')}"]
    group = None if settings.group == server.DEFAULT_GROUP else settings.group
    context = None
    if settings.tls:
        context = tls.context(settings.tlscacert, settings.tlscert, settings.tlskey, bool(settings.tlsverify))
    remote = server.Remote(context, forced=settings.tls is False or settings.tlsverify is False)
    api = await server.serve(app, hosts, group, remote, activated)
    eng.warnings += api.warnings
    return api


async def _serve_metrics(eng: Engine, backend: EngineBackend) -> server.Serving | None:
    """`--metrics-addr`: that one endpoint, plain, on loopback only."""
    address = eng.config.metrics_addr
    if not address:
        return None
    serving = await server.serve(App(backend, routes=METRICS), [f"tcp://{address}"])
    log.info("metrics are served at %s", ", ".join(serving.addresses))
    return serving


def _tell_ready(ready_fd: int | None) -> None:
    if ready_fd is not None:
        with contextlib.suppress(BrokenPipeError):  # who waited is gone; clearing up is still to be done
            os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
    systemd.notify("READY=1")


@contextlib.asynccontextmanager
async def _opened(settings: Settings, life: Life) -> AsyncIterator[Engine]:
    eng = await wiring.open_engine(settings)
    try:
        yield eng
        if life.ephemeral:
            await clear(eng)
    finally:
        await wiring.close_engine(eng, remove=life.ephemeral, keep_data=life.keep_data)


async def _until(ended: asyncio.Event, eng: Engine, api: server.Serving, idle_timeout: float | None) -> None:
    """Wait for a signal, or for `idle_timeout` seconds in which nothing ran and no client was there."""
    idle_since = asyncio.get_running_loop().time()
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), None if idle_timeout is None else IDLE_CHECK)
        except TimeoutError:
            now = asyncio.get_running_loop().time()
            if api.connections or any(container.state.running for container in eng.store):
                idle_since = now
            elif idle_timeout is not None and now - idle_since >= idle_timeout:
                return


async def clear(eng: Engine) -> None:
    """Remove every container, with its volumes: for an engine that is to leave nothing behind."""

    async def end(id: str) -> None:
        try:
            container = eng.store.get(id)
            if container.state.running:
                await stop.end(eng, container)
            await remove.remove(eng, id, force=True, volumes=True, link=False)
        except Error as error:
            log.warning("container %s: %s", id, error)

    await asyncio.gather(*(end(container.id) for container in eng.store))
    await eng.settle()
