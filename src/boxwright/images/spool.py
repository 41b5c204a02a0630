"""A client's stream as an unnamed file: bounded, and gone with the last descriptor, whoever dies."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from boxwright.confined import Jobs
from boxwright.errdefs import InvalidParameter, TooLarge
from boxwright.storage import compression

# Of one archive, as it comes and when it is expanded, bytes.
LARGEST = 256 << 30
# Left free on the file system, bytes.
_RESERVE = 256 << 20
_BATCH = 4 << 20


@contextmanager
def unnamed(directory: str) -> Iterator[int]:
    """A file without a name on `directory`'s file system."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        # Not every file system has them (overlay before 6.3, NFS).  Swept at the next start if we die in between.
        path = f"{directory}/spool-{os.urandom(8).hex()}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.unlink(path)
    try:
        yield fd
    finally:
        os.close(fd)


@asynccontextmanager
async def received(stream: AsyncIterator[bytes], directory: str) -> AsyncIterator[int]:
    """The whole stream as an unnamed file.  Raises as `receive` does."""
    with unnamed(directory) as fd:
        await receive(stream, fd)
        yield fd


async def receive(stream: AsyncIterator[bytes], fd: int) -> int:
    """Write the whole stream to `fd`, off the loop; returns its length in bytes.

    Raises TooLarge beyond LARGEST or when the disk would fill up.
    """
    size, pending, batch = 0, 0, []
    async for piece in stream:
        batch.append(piece)
        pending += len(piece)
        if pending >= _BATCH:
            size += await asyncio.to_thread(write, fd, batch, size)
            pending, batch = 0, []
    return size + await asyncio.to_thread(write, fd, batch, size)


def write(fd: int, batch: list[bytes], size: int) -> int:
    """Append `batch` to the file, which has `size` bytes; returns how many it was.  Raises TooLarge as `receive`."""
    total = sum(map(len, batch))
    room = os.fstatvfs(fd)
    if size + total > LARGEST:
        raise TooLarge(f"an archive of more than {LARGEST} bytes")
    if total and room.f_bavail * room.f_frsize < total + _RESERVE:
        raise TooLarge("there is no room left on the disk for the archive")
    for piece in batch:
        view = memoryview(piece)
        while view:
            view = view[os.write(fd, view) :]
    return total


async def expanded(jobs: Jobs, source: int, target: int) -> int:
    """The archive `source` if it is not compressed, else `target`, into which a confined job expands it."""
    kind = compression.detect(os.pread(source, compression.MAGIC_SIZE, 0))
    if not kind:
        return source
    room = os.fstatvfs(target)
    limit = min(LARGEST, room.f_bavail * room.f_frsize - _RESERVE)
    if limit <= 0:
        raise TooLarge("there is no room left on the disk for the archive")
    await jobs.run("archive.expand", {"limit": limit}, [source, target])
    return target


def read(fd: int, offset: int, length: int, limit: int, what: str) -> bytes:
    """A small piece of the archive.  Raises InvalidParameter when it is longer than `limit` bytes."""
    if length > limit:
        raise InvalidParameter(f"{what} of {length} bytes is too large (at most {limit})")
    data = os.pread(fd, length, offset)
    if len(data) != length:
        raise InvalidParameter(f"{what}: unexpected EOF")
    return data
