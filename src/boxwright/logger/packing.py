"""Compression of log files that have been rotated away, by a child process: the writer never waits for it.

A packed file is gzip, as dockerd's is.  Its header's comment is the inode number of the file that it was, by which a
reader that was in the middle of that file knows where it is.  The plain file goes after the packed one has got its
name: when both are there, either is complete.  Light imports only: this runs in shims.
"""

import os
import zlib

from boxwright.logger.rotation import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    class Watcher(Protocol):
        """What a packer needs of an event loop (`launcher.loop.Loop`)."""

        def watch(self, fd: int, events: int, handler: "Callable[[int], None]", /) -> None: ...
        def forget(self, fd: int, /) -> None: ...


_IN = 1  # EPOLLIN
_BLOCK = 256 << 10  # bytes read at once
_LEVEL = 1  # as quick as it gets: a log shrinks tenfold all the same
_MAGIC = b"\x1f\x8b\x08\x10\0\0\0\0\0\xff"  # gzip, deflate, FCOMMENT; no time; unknown system
_NICE = 10
_HIGHEST_FD = 1 << 20


class Packer:
    """Has `path`.1 and older ones packed, the oldest first; the present one is never touched.

    loop: tells of the child's end, or None: then it is looked for at the next rotation.
    """

    __slots__ = ("_again", "_loop", "_max_files", "_path", "_pidfd")

    def __init__(self, loop: "Watcher | None", path: str, max_files: int) -> None:
        self._loop, self._path, self._max_files = loop, path, max_files
        self._pidfd, self._again = -1, False

    def begin(self) -> None:
        """Take up what an earlier life has left."""
        if _oldest(self._path, self._max_files):
            self._fork()

    def rotated(self) -> None:
        """There is one more."""
        if self._pidfd >= 0 and self._loop is None:
            self._reap(os.WNOHANG)
        if self._pidfd >= 0:
            self._again = True
        else:
            self._fork()

    def leave(self) -> None:
        """The log is closed; a child goes on, and is somebody else's when this process ends."""
        if self._pidfd >= 0:
            if self._loop is not None:
                self._loop.forget(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _fork(self) -> None:
        self._again = False
        try:
            pid = os.fork()
            if not pid:
                _child(self._path, self._max_files)
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            return  # they stay plain until the next rotation
        if self._loop is not None:
            self._loop.watch(self._pidfd, _IN, self._ended)

    def _ended(self, _: int) -> None:
        self._reap(0)
        if self._again:
            self._fork()

    def _reap(self, flags: int) -> None:
        if os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | flags) is None:
            return
        if self._loop is not None:
            self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1


def _oldest(path: str, max_files: int) -> str:
    """The oldest file that is still plain, or ""."""
    for index in range(max_files - 1, 0, -1):
        if os.path.exists(name := f"{path}.{index}"):
            return name
    return ""


def _child(path: str, max_files: int) -> "NoReturn":
    """Pack all that there is, and end this process."""
    code = 1
    try:
        os.closerange(3, _HIGHEST_FD)
        os.nice(_NICE)
        pack_all(path, max_files)
        code = 0
    finally:
        os._exit(code)


def pack_all(path: str, max_files: int) -> None:
    """Pack every rotated file of the log at `path`.  Raises OSError; what was not packed stays as it is."""
    temporary = f"{path}.packing"
    while name := _oldest(path, max_files):
        with Lock(path):
            try:
                os.unlink(temporary)  # of one that was killed, or that works for an earlier life and will not find it
            except FileNotFoundError:
                pass
            target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            try:
                source = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                os.close(target)
                continue  # rotated in between
        try:
            compress(source, target)
            if not _put(path, max_files, temporary, os.fstat(source).st_ino, os.fstat(target).st_ino):
                return
        finally:
            os.close(source)
            os.close(target)


def _put(path: str, max_files: int, temporary: str, source: int, target: int) -> bool:
    """Let the packed file take the place of the plain one, wherever that is by now; False when we are not wanted."""
    with Lock(path):
        if _inode(temporary) != target:
            return False
        for index in range(1, max_files):
            if _inode(f"{path}.{index}") == source:
                os.rename(temporary, f"{path}.{index}.gz")
                os.unlink(f"{path}.{index}")
                return True
        os.unlink(temporary)  # it has been rotated out of existence
    return True


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return 0


def compress(source: int, target: int) -> None:
    """Write the file `source` to `target`, packed.  Raises OSError."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    checksum = size = 0
    write_all(target, _MAGIC + str(os.fstat(source).st_ino).encode() + b"\0")
    while data := os.read(source, _BLOCK):
        checksum, size = zlib.crc32(data, checksum), size + len(data)
        write_all(target, packer.compress(data))
    end = checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")
    write_all(target, packer.flush() + end)


def packed_inode(fd: int) -> int:
    """The inode number of the file that a packed one was; 0 when it does not say."""
    head = os.pread(fd, 64, 0)
    number = head[len(_MAGIC) :].partition(b"\0")[0]
    return int(number) if head.startswith(_MAGIC[:4]) and number.isdigit() else 0


def write_all(fd: int, data: bytes) -> None:
    """All of `data`, in as many writes as it takes.  Raises OSError."""
    while data:
        data = data[os.write(fd, data) :]
