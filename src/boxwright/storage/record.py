"""The record of a layer: what its archive held beside the contents of files, so that the very same archive can be made
again out of the unpacked tree.

    layer/fs        the tree
    layer/record    zstd over items: R length bytes | F path, checksum, ranges (offset, length) of the file's content
    layer/kept      contents that the tree has lost: a later member took the place of an earlier one

`kept` is empty but for odd archives.  It ends with a table (path, number of `F` items before the loss, position) and
the table's own position.  Both files are written by a job that hostile bytes may have taken over: reading them is as
careful as reading the archive, and what comes out is compared with the layer's digest.
"""

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import zstandard
from isal import isal_zlib

from boxwright.errdefs import System
from boxwright.linux import inroot

_RAW, _FILE = b"R", b"F"
_LENGTH = struct.Struct("<I")
_FILE_HEAD = struct.Struct("<HII")  # length of the path, checksum (CRC-32), number of ranges
_RANGE = struct.Struct("<QQ")
_ROW = struct.Struct("<HIQ")  # length of the path, F items before the loss, position of the content
_END = struct.Struct("<Q")

_LEVEL = 3
_BATCH = 256 << 10  # bytes of items that are compressed together
_CHUNK = 1 << 20
_LONGEST_RAW = 64 << 10
_LONGEST_PATH = 4095  # PATH_MAX; with the symbolic links on the way a canonical path may be longer
_MOST_RANGES = 1 << 16
_LARGEST_TABLE = 256 << 20
# Left free on the file system, bytes: a record has no business to fill it up.
_RESERVE = 256 << 20
_CHECK_BYTES = 64 << 20

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_RESOLVE = inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS


class Lost(NamedTuple):
    """Content that was in the tree once: `before` F items had been written when it went."""

    path: bytes
    before: int
    position: int


class Keeper(Protocol):
    """What an extractor tells of the contents that it writes."""

    def begin(self, path: bytes) -> None:
        """The content that comes now goes into the file `path`."""

    def seek(self, offset: int) -> None:
        """The content that comes now goes to `offset` of the file."""

    def end(self) -> None:
        """The file is complete."""

    def keep(self, path: bytes, fd: int) -> None:
        """A file of the archive is about to be removed."""


class Recorder:
    """Writes a record while the archive is read; the calls come in the order of the archive's bytes."""

    def __init__(self, record: int, kept: int) -> None:
        """record, kept: empty files, open for writing."""
        self._record, self._kept = record, kept
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._items = bytearray()
        self._bytes = bytearray()
        self._path = b""
        self._checksum = 0
        self._ranges: list[list[int]] = []
        self._files = 0
        self._lost: list[Lost] = []
        self._end = 0
        self._inodes: dict[int, int] = {}
        self._written = 0
        self.size = 0
        """Bytes of the archive so far."""

    # -- the archive's bytes -------------------------------------------------------------------------------------------

    def raw(self, data: "memoryview | bytes") -> None:
        """Bytes that are in the archive only: headers, padding, what nobody wanted."""
        self.size += len(data)
        self._bytes += data
        if len(self._bytes) >= _LONGEST_RAW:
            self._flush_raw()

    def begin(self, path: bytes) -> None:
        """The content that comes now goes into the file `path`, which is canonical: no symbolic link on the way."""
        self._path, self._checksum, self._ranges = path, 0, []
        self.seek(0)

    def seek(self, offset: int) -> None:
        """The content that comes now goes to `offset` of the file."""
        self._ranges.append([offset, 0])

    def content(self, data: "memoryview | bytes") -> None:
        """Bytes that are written to the file."""
        if len(self._path) > _LONGEST_PATH:  # nobody could open it again
            self.raw(data)
            return
        self.size += len(data)
        self._checksum = isal_zlib.crc32(data, self._checksum)
        self._ranges[-1][1] += len(data)

    def end(self) -> None:
        """The file is complete."""
        ranges = [(offset, length) for offset, length in self._ranges if length]
        if not ranges:
            return
        self._flush_raw()
        self._items += _FILE + _FILE_HEAD.pack(len(self._path), self._checksum, len(ranges)) + self._path
        for offset, length in ranges:
            self._items += _RANGE.pack(offset, length)
        self._files += 1
        self._flush()

    def finish(self) -> None:
        """Everything has been read."""
        self._flush_raw()
        _write(self._record, self._compressor.compress(bytes(self._items)) + self._compressor.flush())
        if not self._lost:
            return
        rows = b"".join(_ROW.pack(len(lost.path), lost.before, lost.position) + lost.path for lost in self._lost)
        os.lseek(self._kept, self._end, os.SEEK_SET)
        _write(self._kept, rows + _END.pack(self._end))

    def _flush_raw(self) -> None:
        if self._bytes:
            self._items += _RAW + _LENGTH.pack(len(self._bytes)) + self._bytes
            self._bytes.clear()
        self._flush()

    def _flush(self) -> None:
        if len(self._items) < _BATCH:
            return
        data = self._compressor.compress(bytes(self._items))
        self._items.clear()
        self._check_room(len(data))
        _write(self._record, data)

    # -- what the tree loses -------------------------------------------------------------------------------------------

    def keep(self, path: bytes, fd: int) -> None:
        """The file `path`, open for reading, is about to be removed from the tree."""
        status = os.fstat(fd)
        if not status.st_size or len(path) > _LONGEST_PATH:
            return
        position = self._inodes.pop(status.st_ino, None)
        if position is None:
            position = self._copy(fd, status.st_size)
        if status.st_nlink > 1:  # other names lead to it, which may go, too: one copy is enough for all of them
            self._inodes[status.st_ino] = position
        self._lost.append(Lost(path, self._files, position))

    def _copy(self, source: int, size: int) -> int:
        start, offset = self._end, 0
        self._end += size
        while offset < size:
            try:
                offset = os.lseek(source, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole up to the end
                    break
                raise
            end = os.lseek(source, offset, os.SEEK_HOLE)
            while offset < end:
                data = os.pread(source, min(_CHUNK, end - offset), offset)
                if not data:
                    return start
                self._check_room(len(data))
                offset += os.pwrite(self._kept, data, start + offset)
        return start

    def _check_room(self, size: int) -> None:
        self._written += size
        if self._written >= _CHECK_BYTES:
            self._written = 0
            room = os.fstatvfs(self._record)
            if room.f_bavail * room.f_frsize < _RESERVE:
                raise OSError(errno.ENOSPC, "write: the record of the layer would leave no room on the file system")


class Rebuilder:
    """Makes the archive again."""

    def __init__(self, root: int, kept: int, write: "Callable[[memoryview], object]") -> None:
        """root: the tree.  kept: the file of that name.  write: takes the archive's bytes, all of what it is given."""
        self._root, self._kept, self._write = root, kept, write
        self._table = _table(kept)
        self._hash = hashlib.sha256()
        self._buffer = memoryview(bytearray(_CHUNK))
        self._files = 0
        self.size = 0

    def run(self, readinto: "Callable[[memoryview], int]") -> str:
        """Read the expanded record, write the archive; returns the digest of what was written, "sha256:…".

        Raises System for a file that is not what the archive had, or a record that is none.
        """
        items = _Items(readinto)
        while kind := items.take(1, end=True):
            if kind == _RAW:
                (length,) = _LENGTH.unpack(items.take(_LENGTH.size))
                self._put(memoryview(items.take(length, limit=2 * _CHUNK)))
            elif kind == _FILE:
                length, checksum, count = _FILE_HEAD.unpack(items.take(_FILE_HEAD.size))
                path = items.take(length)
                ranges = list(_RANGE.iter_unpack(items.take(count * _RANGE.size, limit=_MOST_RANGES * _RANGE.size)))
                self._file(path, checksum, ranges)
                self._files += 1
            else:
                raise System("the layer's record is damaged")
        return f"sha256:{self._hash.hexdigest()}"

    def _put(self, data: memoryview) -> None:
        self._hash.update(data)
        self.size += len(data)
        self._write(data)

    def _file(self, path: bytes, checksum: int, ranges: list[tuple[int, int]]) -> None:
        position = next((lost.position for lost in self._table.get(path, ()) if lost.before > self._files), None)
        if position is not None:
            self._content(self._kept, position, path, checksum, ranges)
            return
        try:
            fd = inroot.openat2(self._root, os.fsdecode(path), _READ, _RESOLVE)
        except OSError as error:
            raise _changed(path, error.strerror or "it cannot be opened") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _changed(path, "it is no file any longer")
            self._content(fd, 0, path, checksum, ranges)
        finally:
            os.close(fd)

    def _content(self, fd: int, start: int, path: bytes, checksum: int, ranges: list[tuple[int, int]]) -> None:
        found = 0
        for offset, length in ranges:
            position, end = start + offset, start + offset + length
            while position < end:
                count = os.preadv(fd, [self._buffer[: end - position]], position)
                if not count:
                    raise _changed(path, "it is shorter")
                found = isal_zlib.crc32(self._buffer[:count], found)
                self._put(self._buffer[:count])
                position += count
        if found != checksum:
            raise _changed(path, "its content is another")


class _Items:
    """Reads the expanded record piece by piece."""

    def __init__(self, readinto: "Callable[[memoryview], int]") -> None:
        self._readinto = readinto
        self._view = memoryview(bytearray(_CHUNK))
        self._start = self._stop = 0

    def take(self, size: int, limit: int = _CHUNK, end: bool = False) -> bytes:
        """Exactly `size` bytes; with `end` b"" where the record ends."""
        if size > limit:
            raise System("the layer's record is damaged")
        parts: list[bytes] = []
        while size:
            if self._start == self._stop:
                self._start, self._stop = 0, self._readinto(self._view)
                if not self._stop:
                    if end and not parts:
                        return b""
                    raise System("the layer's record is cut short")
            stop = min(self._stop, self._start + size)
            parts.append(bytes(self._view[self._start : stop]))
            size -= stop - self._start
            self._start = stop
        return b"".join(parts)


def _table(kept: int) -> dict[bytes, list[Lost]]:
    """What the tree has lost, by path, the first loss first."""
    size = os.fstat(kept).st_size
    found: dict[bytes, list[Lost]] = {}
    if not size:
        return found
    (start,) = _END.unpack(os.pread(kept, _END.size, max(0, size - _END.size)).rjust(_END.size, b"\0"))
    length = size - _END.size - start
    if not 0 <= length <= _LARGEST_TABLE:
        raise System("the layer's record is damaged")
    for lost in _rows(os.pread(kept, length, start)):
        found.setdefault(lost.path, []).append(lost)
    return found


def _rows(data: bytes) -> Iterator[Lost]:
    position = 0
    while position < len(data):
        if position + _ROW.size > len(data):
            raise System("the layer's record is damaged")
        length, before, offset = _ROW.unpack_from(data, position)
        position += _ROW.size
        yield Lost(data[position : position + length], before, offset)
        position += length


def _changed(path: bytes, how: str) -> System:
    name = path.decode(errors="replace")
    return System(f'the file "{name}" of the layer has changed since it was unpacked ({how}): its archive is lost')


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
