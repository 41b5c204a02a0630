"""The local log driver: what containers write, as it came, in blocks of lines that share one time.

    ┌────────┬───────┬──────┬─────────┬────────┬──────┬────────┐
    │ length │ crc32 │ time │ records │ stream │ text │ length │      little endian
    └────────┴───────┴──────┴─────────┴────────┴──────┴────────┘
      4        4       8      4         1        …      4 bytes

length: of the whole block, at both ends, so that a file can be read from either.  crc32: of all between it and the
last length.  time: nanoseconds since the epoch.  stream: 1 stdout, 2 stderr.  text: `records` lines with their
newlines; a single one without is a part of a line that goes on in a later block.

A block that a crash has torn is cut off when the log is next opened; readers stop before it.  The cache of drivers that
cannot be read back (dockerd's dual logging) is the same kind of file.  Light imports only: this runs in shims.
"""

import os
from struct import Struct
from time import time_ns
from zlib import crc32

from boxwright.logger.lines import pieces
from boxwright.logger.rotation import RotatingFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from boxwright.logger.packing import Packer

HEAD = Struct("<IIQIB")
LENGTH = Struct("<I")
_CHECKED = 8  # where what the checksum covers begins
SHORTEST = HEAD.size + LENGTH.size
LONGEST = 1 << 20  # bytes of a block; the writer's are under 100 KiB
_NUMBERS = {"stdout": 1, "stderr": 2}
STREAMS = {1: "stdout", 2: "stderr"}


def local_path(container_dir: str, container_id: str) -> str:
    """Where the local driver's log of a container is."""
    return f"{container_dir}/{container_id}-local.log"


def cache_path(container_dir: str, container_id: str) -> str:
    """Where the cache of a log is that goes elsewhere."""
    return f"{container_dir}/{container_id}-cache.log"


class LocalWriter(RotatingFile):
    """Writes blocks to `path`; see `RotatingFile`."""

    __slots__ = ()

    def __init__(self, path: str, max_size: int, max_files: int, packer: "Packer | None" = None) -> None:
        super().__init__(path, max_size, max_files, packer)
        self._mend()

    def write(self, stream: str, data: bytes, now: int = 0) -> None:
        """See `RotatingFile`."""
        if pending := self._pending.get(stream):
            data = pending + data
        found, start = pieces(data, 0)
        self._pending[stream] = data[start:]
        if found:
            now = now or time_ns()
            self.append(b"".join([block(stream, now, piece) for piece in found]))

    def flush(self, stream: str) -> None:
        """See `RotatingFile`."""
        if pending := self._pending.pop(stream, b""):
            self.append(block(stream, time_ns(), pending))

    def _whole(self, data: bytes, length: int) -> int:
        end = 0
        while end < len(data) and (after := end + LENGTH.unpack_from(data, end)[0]) <= length:
            end = after
        return end

    def _count(self, data: bytes, start: int) -> int:
        records = 0
        while start < len(data):
            length, _, _, count, _ = HEAD.unpack_from(data, start)
            records, start = records + count, start + length
        return records

    def _first(self, data: bytes) -> int:
        first: int = LENGTH.unpack_from(data)[0]
        return first

    def _mend(self) -> None:
        """Cut off what a crash has torn."""
        try:
            good = whole_length(self._fd, self._size)
            if good < self._size:
                os.ftruncate(self._fd, good)
                self._size = good
        except OSError as failure:
            self.error = failure.strerror or str(failure)


def block(stream: str, now: int, text: bytes) -> bytes:
    """One block of whole lines, or of one part of a line."""
    length = len(text) + SHORTEST
    head = HEAD.pack(length, 0, now, text.count(b"\n") or 1, _NUMBERS[stream])[_CHECKED:] + text
    end = LENGTH.pack(length)
    return end + LENGTH.pack(crc32(head)) + head + end


def is_whole(data: bytes, start: int) -> int:
    """Length of the sound block that begins at `start`; 0 when there is none (or not all of it)."""
    if len(data) - start < SHORTEST:
        return 0
    length, checksum = HEAD.unpack_from(data, start)[:2]
    if not SHORTEST <= length <= min(LONGEST, len(data) - start):
        return 0
    end = start + length - LENGTH.size
    if LENGTH.unpack_from(data, end)[0] != length or crc32(data[start + _CHECKED : end]) != checksum:
        return 0
    return int(length)


def whole_length(fd: int, size: int) -> int:
    """How many of a file's `size` bytes are sound blocks, from its beginning.  Raises OSError."""
    if size >= SHORTEST:
        last: int = LENGTH.unpack(os.pread(fd, LENGTH.size, size - LENGTH.size))[0]
        if SHORTEST <= last <= min(size, LONGEST) and is_whole(os.pread(fd, last, size - last), 0) == last:
            return size
    good = 0
    while length := is_whole(os.pread(fd, LONGEST, good), 0):
        good += length
    return good


def blocks(data: bytes) -> "Iterator[tuple[str, int, bytes]]":
    """(stream, time in ns, text) of every block; `data` consists of sound ones."""
    start = 0
    while start < len(data):
        length, _, time, _, stream = HEAD.unpack_from(data, start)
        yield STREAMS.get(stream, "stdout"), time, data[start + HEAD.size : start + length - LENGTH.size]
        start += length


def lines_from_end(fd: int, size: int, lines: int) -> tuple[int, int, int]:
    """Where the last `lines` records of a file begin: (offset of a block, records of it to skip, records missing)."""
    end = whole_length(fd, size)
    while end > 0 and lines > 0:
        length: int = LENGTH.unpack(os.pread(fd, LENGTH.size, end - LENGTH.size))[0]
        if not SHORTEST <= length <= end:
            break
        count = HEAD.unpack(os.pread(fd, HEAD.size, end - length))[3]
        end -= length
        if count >= lines:
            return end, count - lines, 0
        lines -= count
    return (end, 0, lines) if lines else (whole_length(fd, size), 0, 0)
