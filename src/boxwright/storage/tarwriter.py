"""A writer of tar archives as Docker writes them: ustar headers, pax records for what does not fit, times in whole
seconds, hard links by inode, no names of users.

Sources are descriptors of trees that may change meanwhile: a file that vanishes is left out, one that shrinks is filled
up with zeroes, because its header has been sent.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

BLOCK_SIZE = 512
END = bytes(2 * BLOCK_SIZE)

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_CHUNK = 1 << 20
_ZEROES = memoryview(bytes(_CHUNK))
_LARGEST_ID = 0o7777777
_LARGEST_SIZE = 0o77777777777
# Holes that are worth saying so, bytes: every reader of sparse members also reads plain ones.
_WORTH = 1 << 20
_MOST_RANGES = 1 << 15
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_XATTRS = 512 << 10
_UNCOPIED = 16 << 10  # bytes from which on a call of its own costs less than copying

_KINDS = {
    stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}  # fmt: skip
Ranges = list[tuple[int, int]]


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: int = 0,
    records: dict[bytes, bytes] | None = None,
) -> bytes:
    """One member's header, with an extended header before it when a field does not fit.  mtime: whole seconds."""
    extra = dict(records or {})
    if len(name) > 100:
        extra[b"path"] = name
    if len(link) > 100:
        extra[b"linkpath"] = link
    for key, value, most in (
        (b"uid", uid, _LARGEST_ID),
        (b"gid", gid, _LARGEST_ID),
        (b"size", size, _LARGEST_SIZE),
        (b"mtime", mtime, _LARGEST_SIZE),
    ):
        if not 0 <= value <= most:
            extra[key] = b"%d" % value
    data = b""
    if extra:
        body = b"".join(_record(key, extra[key]) for key in sorted(extra))
        data = _block(b"PaxHeaders.0/" + name.rpartition(b"/")[2][:80], b"x", mode=0, size=len(body))
        data += body + bytes(-len(body) % BLOCK_SIZE)
    return data + _block(name, kind, mode=mode, uid=uid, gid=gid, size=size, mtime=mtime, link=link, device=device)


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: int = 0,
) -> bytes:
    fields = (
        name[:100], _octal(mode, 8), _octal(uid, 8), _octal(gid, 8), _octal(size, 12), _octal(mtime, 12), b" " * 8,
        kind, link[:100], b"ustar\x0000", b"", b"", _octal(os.major(device), 8), _octal(os.minor(device), 8), b"",
    )  # fmt: skip
    # The sum of all bytes, of which most are zero: summing up the fields is four times as fast.
    checksum = b"%06o\0 " % sum(b"".join(fields))
    return _HEADER.pack(*fields[:6], checksum, *fields[7:])


@lru_cache(maxsize=512)  # modes, owners and times are the same for many
def _octal(value: int, width: int) -> bytes:
    """A field of `width` bytes; 0 for what does not fit, which then is in a pax record."""
    digits = b"%0*o" % (width - 1, value) if value >= 0 else b""
    return (digits if len(digits) == width - 1 else b"0" * (width - 1)) + b"\0"


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


class Described(NamedTuple):
    """What a header says of a file besides its name: permission bits, owner, time (whole seconds)."""

    mode: int
    uid: int
    gid: int
    mtime: int


def described(status: os.stat_result) -> Described:
    """A file as it is."""
    return Described(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns // 1_000_000_000)


def not_after(latest: int) -> Callable[[os.stat_result], Described]:
    """A file as it is, but no newer than `latest`, seconds since the epoch."""

    def describe(status: os.stat_result) -> Described:
        found = described(status)
        return found._replace(mtime=min(found.mtime, latest))

    return describe


class Writer:
    """Writes members of a tree, one after the other.

    What it gathers is written when it is enough, and at the end: small files cost a write for many of them.
    """

    def __init__(
        self,
        write: Callable[[memoryview], object],
        describe: Callable[[os.stat_result], Described] = described,
        pipe: int = -1,
    ) -> None:
        """write: takes all of what it is given.  describe: what is to be said of a file.

        pipe: where `write` writes to, if that is a pipe that blocks: the pages of a large file go there uncopied.
        """
        self._write = write
        self._describe = describe
        self._pipe = pipe
        self._links: dict[tuple[int, int], bytes] = {}
        self._buffer = memoryview(bytearray(_CHUNK))
        self._filled = 0

    def add(self, path: bytes, parent: int, name: bytes, regular: bool = False) -> None:
        """The file, directory, … `name` of the directory `parent`, as the member `path`; not what is in it.

        regular: a regular file was seen there, so it is opened without another look.
        """
        try:
            if regular and self._file(path, parent, name):
                return
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            kind = _KINDS.get(stat.S_IFMT(status.st_mode))
            if kind is None:
                return  # a socket: nothing can be connected to it any longer
            if kind != b"5" and self._is_link(path, status):
                return
            if kind == b"0":
                self._file(path, parent, name)
            elif kind == b"5":
                fd = os.open(name, _DIRECTORY, dir_fd=parent)
                try:
                    self.send(self._header(path + b"/", kind, status, records=attributes(fd)))
                finally:
                    os.close(fd)
            else:
                link = os.readlink(name, dir_fd=parent) if kind == b"2" else b""
                self.send(self._header(path, kind, status, link=link))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL):
                raise
            # Gone or replaced meanwhile.

    def whiteout(self, path: bytes) -> None:
        """The layers below have something called `path`; this one has not."""
        head, slash, name = path.rpartition(b"/")
        self.send(header(head + slash + b".wh." + name))

    def opaque(self, path: bytes) -> None:
        """Nothing of the layers below shows in the directory `path`."""
        self.send(header((path + b"/" if path else b"") + b".wh..wh..opq"))

    def finish(self) -> None:
        """The mark of the archive's end, and everything before it."""
        self.send(END)
        self._flush()

    def send(self, data: bytes | memoryview) -> None:
        """Bytes of an archive that somebody else has made, in their place."""
        if len(data) > _CHUNK - self._filled:
            self._flush()
        if len(data) > _CHUNK:
            self._write(memoryview(data))
            return
        end = self._filled + len(data)
        self._buffer[self._filled : end] = data
        self._filled = end

    def _flush(self) -> None:
        filled, self._filled = self._filled, 0
        if filled:
            self._write(self._buffer[:filled])

    def _is_link(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the file has been a member before, under another name: then it is a link to that."""
        if status.st_nlink < 2:
            return False
        first = self._links.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        self.send(self._header(path, b"1", status, link=first))
        return True

    def _file(self, path: bytes, parent: int, name: bytes) -> bool:
        """False when it is no regular file, and nothing was written."""
        fd = os.open(name, _READ, dir_fd=parent)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return False
            if self._is_link(path, status):
                return True
            records = attributes(fd)
            ranges = _ranges(fd, status)
            if ranges is None:
                self.send(self._header(path, b"0", status, size=status.st_size, records=records))
                self._content(fd, [(0, status.st_size)])
                return True
            numbers = [len(ranges), *(number for pair in ranges for number in pair)]
            plan = b"".join(b"%d\n" % number for number in numbers)
            plan += bytes(-len(plan) % BLOCK_SIZE)
            records |= {
                b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": path,
                b"GNU.sparse.realsize": b"%d" % status.st_size,
            }  # fmt: skip
            size = len(plan) + sum(length for _, length in ranges)
            self.send(self._header(path, b"0", status, size=size, records=records))
            self.send(plan)
            self._content(fd, ranges)
            return True
        finally:
            os.close(fd)

    def _content(self, fd: int, ranges: Ranges) -> None:
        total = 0
        for offset, length in ranges:
            total += length
            end = offset + length
            if length >= _UNCOPIED and self._pipe >= 0:
                offset = self._lend(fd, offset, end)
            while offset < end:
                if self._filled == _CHUNK:
                    self._flush()
                space = self._buffer[self._filled : self._filled + end - offset]
                count = os.preadv(fd, [space], offset)
                if not count:  # it has been cut meanwhile
                    count = len(space)
                    space[:] = _ZEROES[:count]
                self._filled += count
                offset += count
        if total % BLOCK_SIZE:
            self.send(_ZEROES[: -total % BLOCK_SIZE])

    def _lend(self, fd: int, offset: int, end: int) -> int:
        """Let the pipe have a file's pages, as far as there are any; returns where that ended."""
        self._flush()
        try:
            while offset < end and (count := os.sendfile(self._pipe, fd, offset, end - offset)):
                offset += count
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
                raise
            self._pipe = -1  # a file system or a kernel that cannot: they are copied
        return offset

    def _header(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        size: int = 0,
        link: bytes = b"",
        records: dict[bytes, bytes] | None = None,
    ) -> bytes:
        said = self._describe(status)
        device = status.st_rdev if kind in (b"3", b"4") else 0
        return header(
            path, kind, mode=said.mode, uid=said.uid, gid=said.gid, mtime=said.mtime, size=size, link=link,
            device=device, records=records,
        )  # fmt: skip


def _ranges(fd: int, status: os.stat_result) -> Ranges | None:
    """Where data lies in a file with large holes; None for every other."""
    if status.st_size - status.st_blocks * 512 < _WORTH:
        return None
    ranges, offset = [], 0
    while offset < status.st_size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = min(status.st_size, os.lseek(fd, offset, os.SEEK_HOLE))
        if end <= offset:
            break
        ranges.append((offset, end - offset))
        if len(ranges) > _MOST_RANGES:
            return None
        offset = end
    return ranges


def attributes(fd: int) -> dict[bytes, bytes]:
    """Extended attributes that a layer may carry, as pax records (see extract.py)."""
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return found
        raise
    size = 0
    for name in names:
        if (name.startswith("user.") and not name.startswith("user.overlay.")) or name in (
            "security.capability", "system.posix_acl_access", "system.posix_acl_default"
        ):  # fmt: skip
            try:
                value = os.getxattr(fd, name)
            except OSError as error:
                if error.errno == errno.ENODATA:
                    continue
                raise
            key = os.fsencode(name)
            size += len(key) + len(value)
            if b"=" not in key and size <= _LONGEST_XATTRS:
                found[b"SCHILY.xattr." + key] = value
    return found
