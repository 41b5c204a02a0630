"""`docker cp`: stat, archive out, archive in.  The files are touched by confined jobs only (`storage/copying.py`).

A container that runs is read through its mount namespace.  One at rest is put together from its snapshot, binds and
volumes; its snapshot serves one mount at a time, so a start waits for a copy, and a copy for the end of a life.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from boxwright.engine import mounts
from boxwright.engine.state import Status
from boxwright.errdefs import Conflict, InvalidParameter, Unavailable
from boxwright.images import spool
from boxwright.linux import pidfd
from boxwright.storage import compression

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

PathStat = dict[str, Any]
# Bytes read at once: more are mapped, and their pages faulted in, anew each time.  And what a pipe holds.
_CHUNK = 1 << 18
_PIPE = 1 << 20
# The files of a container are "in use" between two lives, and while another copy has them: seconds to wait, and to
# wait between two looks.  (Nothing tells when a lock of another process is released.)
_PATIENCE = 60.0
_LOOK = 0.02


async def stat(eng: Engine, name: str, path: str) -> PathStat:
    """`HEAD /containers/{name}/archive`.  Raises NotFound for the container or the path."""
    container = _reachable(eng, name)
    async with _job(eng, container) as (args, fds):
        result = await _patiently(eng, container, "container.stat", {**args, "path": path, "name": name}, fds)
    return dict(result["stat"])


@asynccontextmanager
async def read(eng: Engine, name: str, path: str) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
    """`GET /containers/{name}/archive`: the stat of `path`, and an archive of it.  Raises NotFound, InvalidParameter.

    Leaving the context ends the job, whatever is left of the stream.
    """
    container = _reachable(eng, name)
    async with AsyncExitStack() as undo:
        args, fds = await undo.enter_async_context(_job(eng, container))
        out, into = _pipe(undo)
        os.set_blocking(out, False)
        known: asyncio.Future[PathStat] = asyncio.get_running_loop().create_future()
        job = asyncio.ensure_future(
            _patiently(
                eng, container, "container.read", {**args, "path": path, "name": name}, [*fds, into.fd],
                lambda message: known.set_result(message["stat"]),
            )
        )  # fmt: skip
        job.add_done_callback(lambda _: into.close())
        undo.push_async_callback(_end, job)
        await asyncio.wait([known, job], return_when=asyncio.FIRST_COMPLETED)
        if not known.done():
            await job  # raises
        eng.announce(container, "archive-path")
        yield known.result(), _pieces(out, job)


async def write(
    eng: Engine, name: str, path: str, stream: AsyncIterator[bytes], keep_types: bool, as_user: bool
) -> None:
    """`PUT /containers/{name}/archive`: unpack an archive, perhaps compressed, below `path`.

    keep_types: refuse to replace a directory by something else and the other way round.  as_user: everything belongs
    to the container's user.  Raises NotFound, InvalidParameter, Forbidden (read-only).
    """
    container = _reachable(eng, name)
    user = container.config.user if as_user and container.config.user else None
    args = {"path": path, "name": name, "keep_types": keep_types, "user": user, "kind": ""}
    pieces = aiter(stream)
    head = await _head(pieces)
    kind = compression.detect(head)
    async with AsyncExitStack() as undo:
        found, fds = await undo.enter_async_context(_job(eng, container))
        args |= found
        if kind:
            # A decoder reads a file: the stream is kept until it is whole.
            archive = undo.enter_context(spool.unnamed(eng.config.path("tmp")))
            await spool.receive(_chain(head, pieces), archive)
            await _patiently(eng, container, "container.write", {**args, "kind": kind}, [*fds, archive])
        else:
            await _write(eng, container, args, fds, _chain(head, pieces), undo)
    eng.announce(container, "extract-to-dir")


async def _write(
    eng: Engine,
    container: Container,
    args: dict[str, Any],
    fds: list[int],
    pieces: AsyncIterator[bytes],
    undo: AsyncExitStack,
) -> None:
    out, into = _pipe(undo)
    os.set_blocking(into.fd, False)
    job = asyncio.ensure_future(_patiently(eng, container, "container.write", args, [*fds, out]))
    undo.push_async_callback(_end, job)
    with contextlib.suppress(BrokenPipeError):  # the job has ended, and says why
        async for piece in pieces:
            if not await _feed(into.fd, memoryview(piece), job):
                break
    into.close()
    await job


def _reachable(eng: Engine, name: str) -> Container:
    container = eng.store.get(name)
    if container.state.status in (Status.REMOVING, Status.DEAD):
        raise Conflict(f"container {container.id} is marked for removal and cannot be copied from or to")
    return container


# -- the job ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _job(eng: Engine, container: Container) -> AsyncIterator[tuple[dict[str, Any], list[int]]]:
    """The arguments that show a job the container's files, and the descriptors before its own."""
    running = container.running
    if running is not None:
        fd = pidfd.open_pid(running.pid)
        try:
            # Its shim has not reaped it as far as we know, and tells before the pid can be another's again; if it has
            # ended nevertheless, the namespace cannot be joined.
            if running.exit.done():
                raise Conflict(f"container {container.id} is not running")
            yield {"view": None}, [fd]
        finally:
            os.close(fd)
        return
    view = eng.snapshotter.mount(container.id)
    if view["type"] == "hostfs":
        raise InvalidParameter("the files of a container of hostfs are in its memory only: they are gone with its end")
    async with AsyncExitStack() as undo:
        for point in container.record.mounts:
            if point.type == "volume":
                point.source = await eng.volumes.borrow(point.name, undo)
        binds = [
            [mount["destination"], mount["source"], not {"ro", "rro"} & set(mount["options"]), mount.get("subpath", "")]
            for mount in mounts.to_spec(container.record, eng.container_dir(container.id))
            if mount["type"] == "bind" and (mount["destination"] not in mounts.FILES or os.path.exists(mount["source"]))
        ]
        yield {"view": view, "mounts": binds, "readonly": container.host_config.readonly_rootfs}, []


async def _patiently(
    eng: Engine, container: Container, kind: str, args: dict[str, Any], fds: list[int], progress: Any = None
) -> dict[str, Any]:
    """Run the job; while somebody else has the files of a container at rest, look again."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while True:
        try:
            return await eng.jobs.run(kind, args, fds, progress)
        except Unavailable:
            if loop.time() > deadline or container.running is not None:
                raise Conflict(f"the files of container {container.id} are in use: try again") from None
        await asyncio.sleep(_LOOK)


async def _end(job: asyncio.Future[Any]) -> None:
    job.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await job


# -- bytes ------------------------------------------------------------------------------------------------------------


class _Descriptor:
    """A descriptor that is closed once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it, unless it is closed."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _pipe(undo: AsyncExitStack) -> tuple[int, _Descriptor]:
    read, write = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, read)
    into = _Descriptor(write)
    undo.callback(into.close)
    with contextlib.suppress(OSError):  # past the user's share of pipe memory: it works with less
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, _PIPE)
    return read, into


async def _pieces(fd: int, job: asyncio.Future[Any]) -> AsyncIterator[bytes]:
    """What the job writes, and its error at the end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            await _ready(loop.add_reader, loop.remove_reader, fd)
            continue
        if not data:
            break
        yield data
    await job


async def _feed(fd: int, data: memoryview, job: asyncio.Future[Any]) -> bool:
    """Write everything to the pipe; False when the job has ended before.  Raises BrokenPipeError for the same."""
    loop = asyncio.get_running_loop()
    while data:
        if job.done():
            return False
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            writable = asyncio.ensure_future(_ready(loop.add_writer, loop.remove_writer, fd))
            try:
                await asyncio.wait([writable, job], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _end(writable)
    return True


async def _ready(add: Any, remove: Any, fd: int) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)


async def _head(pieces: AsyncIterator[bytes]) -> bytes:
    """As much of the stream as tells its kind of compression."""
    head = b""
    while len(head) < compression.MAGIC_SIZE:
        piece = await anext(pieces, None)
        if piece is None:
            break
        head += piece
    return head


async def _chain(head: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for piece in pieces:
        yield piece
