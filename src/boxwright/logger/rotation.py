"""A log file that is rotated by size, for the drivers that write files.  Light imports only: this runs in shims.

    path        the present one
    path.1      the one before it, and so on upwards; `.gz` behind the name of one that has been compressed

A write that fails (a full disk) is dropped and counted; what a short write left is cut off again, so that the file
always consists of whole records.  Compression is another process's work (`packing.py`): the writer never waits for it.
"""

import fcntl
import os
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from boxwright.logger.packing import Packer

_ATTEMPTS = 50  # of the writer to get the lock, a millisecond apart
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class RotatingFile:
    """What `append` is given goes to `path`.

    max_size: bytes of one file (0: no limit); max_files: how many files are kept, the current one included.
    packer: compresses what has been rotated away, or None.
    dropped: records lost so far; error: why, the last time.
    Raises OSError when the file cannot be opened.
    """

    __slots__ = ("_fd", "_max_files", "_max_size", "_packer", "_path", "_pending", "_size", "dropped", "error")
    ready = True  # it takes records from the beginning

    def __init__(self, path: str, max_size: int, max_files: int, packer: "Packer | None" = None) -> None:
        self._path, self._max_size, self._max_files, self._packer = path, max_size, max_files, packer
        self._pending: dict[str, bytes] = {}
        self.dropped, self.error = 0, ""
        self._open(0)
        if packer is not None:
            packer.begin()

    def write(self, stream: str, data: bytes, now: int = 0) -> None:
        """Log what one read of `stream` gave; all of its records get the time `now` (ns), or of this call.

        What follows the last newline waits for the rest of its line, up to PARTIAL bytes.
        """
        raise NotImplementedError

    def flush(self, stream: str) -> None:
        """The stream ended: log what waits for a newline as a record without one."""
        raise NotImplementedError

    def close(self) -> None:
        """Log what still waits and close the file."""
        for stream in list(self._pending):
            self.flush(stream)
        if self._packer is not None:
            self._packer.leave()
        os.close(self._fd)

    def finish(self, done: "Callable[[], None]") -> None:
        """Close, then call `done`: what was written is in the file already."""
        self.close()
        done()

    def _whole(self, data: bytes, length: int) -> int:
        """How many of the first `length` bytes of `data` are whole records."""
        return data.rfind(b"\n", 0, length) + 1

    def _count(self, data: bytes, start: int) -> int:
        """How many records `data` has from `start` on."""
        return data.count(b"\n", start)

    def _first(self, data: bytes) -> int:
        """Length of the first record."""
        return data.find(b"\n") + 1

    def append(self, data: bytes) -> None:
        """Write whole records, into as many files as max_size asks for."""
        if not self._max_size:
            self._write(data)
            return
        while data:
            room = self._max_size - self._size
            if len(data) <= room:
                self._write(data)
                return
            cut = self._whole(data, max(room, 0))
            if not cut and not self._size:
                cut = self._first(data)  # one record longer than a whole file
            if cut:
                self._write(data[:cut])
                data = data[cut:]
            if data and not self._rotate():
                self._write(data)
                return

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
            if written < len(data):  # the disk filled up, or a limit was met, on the way: the next write says which
                written += os.write(self._fd, data[written:])
        except OSError as failure:
            written = self._cut(data, failure)
        else:
            if written < len(data):
                written = self._cut(data, None)
        self._size += written

    def _cut(self, data: bytes, failure: OSError | None) -> int:
        """After a failed write: end the file with its last whole record, count the others; bytes that stay."""
        self.error = failure.strerror or str(failure) if failure else "short write"
        try:
            written = max(os.fstat(self._fd).st_size - self._size, 0)
            kept = self._whole(data, written)
            if kept < written:
                os.ftruncate(self._fd, self._size + kept)
        except OSError:
            kept = 0
        self.dropped += self._count(data, kept)
        return kept

    def _rotate(self) -> bool:
        """Start a new file.  False when that failed: the present one goes on, longer than it should be."""
        try:
            if self._max_files > 1:
                self._shift()
            old = self._fd
            self._open(os.O_TRUNC)
            os.close(old)
        except OSError as failure:
            self.error = failure.strerror or str(failure)
            return False
        if self._packer is not None:
            self._packer.rotated()
        return True

    def _shift(self) -> None:
        with Lock(self._path, is_writer=True):
            shift(self._path, self._max_files, ("",) if self._packer is None else ("", ".gz"))

    def _open(self, flags: int) -> None:
        # 0640: what a container prints is nobody else's business.
        self._fd = os.open(self._path, flags | _FLAGS, 0o640)
        self._size = os.fstat(self._fd).st_size


class Lock:
    """Held while the names of a log's files change, or are looked at together: by its writer, packer and readers.

    All of them hold it for a few system calls.  The writer does not wait for one that was stopped meanwhile.
    """

    __slots__ = ("_fd", "_is_writer", "_path")

    def __init__(self, path: str, is_writer: bool = False) -> None:
        self._path, self._is_writer = os.path.dirname(path), is_writer

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not self._is_writer:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            return
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sleep(0.001)
            else:
                return

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def shift(path: str, max_files: int, endings: tuple[str, ...]) -> None:
    """Give each file the next number; the one with the last goes.  Raises OSError."""
    if len(endings) > 1:
        for ending in endings:  # renaming overwrites only what has the same ending
            try:
                os.unlink(f"{path}.{max_files - 1}{ending}")
            except FileNotFoundError:
                continue
    for n in range(max_files - 2, 0, -1):
        for ending in endings:
            try:
                os.rename(f"{path}.{n}{ending}", f"{path}.{n + 1}{ending}")
            except FileNotFoundError:
                continue
    os.rename(path, f"{path}.1")
