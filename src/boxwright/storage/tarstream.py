"""A reader of tar archives as streams: v7, ustar, GNU (long names, base-256 numbers, sparse files) and pax.

The input is hostile.  Every number is checked, every extension header is bounded, and nothing is believed about a
member's size before its bytes arrive.  Formats: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format", "Sparse Formats".
Names are bytes; they are cleaned lexically here, and resolved by whoever uses them.
"""

import hashlib
import struct
from collections.abc import Callable

from boxwright.storage.record import Recorder

REGULAR, LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = range(7)

BLOCK_SIZE = 512
_CHUNK = 1 << 20
# One extension header (pax records, GNU long name), bytes: as much as Go's reader takes.
_LONGEST_EXTENSION = 1 << 20
# Name of a member or target of a link, bytes: PATH_MAX.
_LONGEST_NAME = 4096
# Ranges of data in one sparse file.
_MOST_RANGES = 1 << 16
_LARGEST = (1 << 63) - 1
# 2^32 - 1 means "unchanged" to chown(2): such a file would belong to whoever unpacks.
_LARGEST_ID = 0xFFFFFFFE
_TIMES = (-(1 << 33), 1 << 34)

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZEROES = bytes(BLOCK_SIZE)
_KINDS = {
    b"0": REGULAR, b"\0": REGULAR, b"7": REGULAR, b"1": LINK, b"2": SYMLINK, b"3": CHARACTER, b"4": BLOCK,
    b"5": DIRECTORY, b"6": FIFO, b"S": REGULAR,
}  # fmt: skip


class Malformed(ValueError):
    """The archive is none, or lies."""


class Entry:
    """One member.

    name: cleaned, relative, b"" for the root.  link: target of a link (cleaned) or symbolic link (as it is).
    size: bytes that the member has in the archive; length: bytes of the file made from it (they differ when sparse).
    mtime, atime: nanoseconds since the epoch.  ranges: where data lies in a sparse file, [(offset, size)], or None.
    position: offset of the member's data in the archive.
    """

    __slots__ = (
        "atime", "gid", "kind", "length", "link", "major", "minor", "mode", "mtime", "name", "position", "ranges",
        "size", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self) -> None:
        self.name = self.link = b""
        self.kind = REGULAR
        self.mode = self.uid = self.gid = self.size = self.length = self.major = self.minor = self.position = 0
        self.mtime = self.atime = 0
        self.xattrs: dict[bytes, bytes] = {}
        self.ranges: list[tuple[int, int]] | None = None


class Archive:
    """Reads members one after the other; the digest of all bytes comes at the end."""

    def __init__(
        self,
        readinto: Callable[[memoryview], int],
        seek: Callable[[int], None] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """readinto: fills a buffer with the next bytes of the archive, 0 at its end.

        seek: passes over that many bytes of what `readinto` gives; with it no digest is taken.
        recorder: is told everything; `read` gives content, all else is for the record alone.
        """
        self._readinto = readinto
        self._seek = seek
        self._recorder = recorder
        self._view = memoryview(bytearray(_CHUNK))
        self._start = self._stop = 0
        self._hash = hashlib.sha256()
        self._unread = 0  # of the current member, with its padding
        self._last_block = b""
        self.position = 0

    def next(self) -> Entry | None:
        """The next member, None at the end.  Raises Malformed."""
        self.skip()
        pax: dict[bytes, bytes] = {}
        long_name = long_link = None
        while True:
            block = self._header()
            if block is None:
                return None
            kind = block[7]
            if kind == b"x":
                pax.update(_records(self._extension(block[4])))
            elif kind == b"L":
                long_name = self._extension(block[4]).partition(b"\0")[0]
            elif kind == b"K":
                long_link = self._extension(block[4]).partition(b"\0")[0]
            elif kind == b"g":  # defaults for all that follows; Docker ignores them, and so diff ids depend on it
                self._extension(block[4])
            else:
                return self._entry(block, pax, long_name, long_link)

    def read(self, size: int) -> memoryview:
        """Up to `size` bytes of the current member's data, at least one; valid until the next call."""
        view = self._some(min(size, self._unread))
        self._unread -= len(view)
        if self._recorder is not None:
            self._recorder.content(view)
        return view

    def skip(self) -> None:
        """Pass over what is left of the current member."""
        if self._seek is not None:
            buffered = min(self._stop - self._start, self._unread)
            self._start += buffered
            self._seek(self._unread - buffered)
            self.position += self._unread
            self._unread = 0
        while self._unread:
            view = self._some(self._unread)
            self._unread -= len(view)
            if self._recorder is not None:
                self._recorder.raw(view)

    def finish(self) -> str:
        """Read to the end and return the digest of everything, "sha256:…"."""
        while self._start < self._stop or self._fill():
            if self._recorder is not None:
                self._recorder.raw(self._view[self._start : self._stop])
            self._start = self._stop
        return f"sha256:{self._hash.hexdigest()}"

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Read more behind what is buffered; False at the end."""
        if self._start == self._stop:
            self._start = self._stop = 0
        elif self._stop == _CHUNK:
            rest = bytes(self._view[self._start : self._stop])
            self._view[: len(rest)] = rest
            self._start, self._stop = 0, len(rest)
        count = self._readinto(self._view[self._stop :])
        if self._seek is None:
            self._hash.update(self._view[self._stop : self._stop + count])
        self._stop += count
        return count > 0

    def _some(self, size: int) -> memoryview:
        """At least one and at most `size` bytes."""
        if self._start == self._stop and not self._fill():
            raise Malformed("unexpected EOF")
        stop = min(self._stop, self._start + size)
        view = self._view[self._start : stop]
        self.position += stop - self._start
        self._start = stop
        return view

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            view = self._some(size)
            parts.append(bytes(view))
            size -= len(view)
            if self._recorder is not None:
                self._recorder.raw(view)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # -- headers -------------------------------------------------------------------------------------------------------

    def _header(self) -> tuple[bytes, ...] | None:
        while self._stop - self._start < BLOCK_SIZE:
            if not self._fill():
                if self._start == self._stop:
                    return None  # no end mark; every reader accepts that
                raise Malformed("unexpected EOF")
        block = self._exactly(BLOCK_SIZE)
        if block == _ZEROES:
            return None
        self._last_block = block
        fields = _HEADER.unpack(block)
        given = _number(fields[6], "checksum")
        total = sum(block) - sum(fields[6]) + 256
        if given != total and given != total - 256 * sum(b > 127 for b in block[:148] + block[156:]):
            raise Malformed("invalid tar header")
        return fields

    def _extension(self, field: bytes) -> bytes:
        size = _number(field, "size")
        if not 0 <= size <= _LONGEST_EXTENSION:
            raise Malformed(f"an extension header of {size} bytes is too long")
        data = self._exactly(size)
        if size % BLOCK_SIZE:
            self._exactly(BLOCK_SIZE - size % BLOCK_SIZE)
        return data

    def _entry(
        self, fields: tuple[bytes, ...], pax: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
    ) -> Entry:
        entry = Entry()
        name, link, flag = _text(fields[0]), _text(fields[8]), fields[7]
        if fields[9][:6] == b"ustar\0" and fields[14][0]:
            name = _text(fields[14]) + b"/" + name
        if long_name is not None:
            name = long_name
        if long_link is not None:
            link = long_link
        kind = _KINDS.get(flag)
        if kind is None:
            raise Malformed(f"unhandled tar header type {flag[0]}")
        entry.mode = _number(fields[1], "mode") & 0o7777
        entry.uid, entry.gid = _number(fields[2], "uid"), _number(fields[3], "gid")
        entry.size = _number(fields[4], "size")
        entry.mtime = entry.atime = _number(fields[5], "mtime") * 1_000_000_000
        if kind in (CHARACTER, BLOCK):
            entry.major, entry.minor = _number(fields[12], "major"), _number(fields[13], "minor")
        if pax:
            name, link = self._apply(entry, pax, name, link)
        if kind == REGULAR and name.endswith(b"/"):
            kind = DIRECTORY  # v7 has no other way to say it
        entry.kind = kind
        if kind != REGULAR:
            entry.size = 0  # what a header says there is no data
        self._check(entry)
        entry.length = entry.size
        self._unread = entry.size + -entry.size % BLOCK_SIZE
        if flag == b"S":
            self._old_sparse(entry)
        elif kind == REGULAR and any(key.startswith(b"GNU.sparse.") for key in pax):
            name = self._pax_sparse(entry, pax, name)
        entry.name = clean(name)
        entry.link = clean(link) if kind == LINK else link
        if len(entry.name) > _LONGEST_NAME or len(link) > _LONGEST_NAME or b"\0" in name or b"\0" in link:
            raise Malformed("a member's name is too long or has a NUL in it")
        entry.position = self.position
        return entry

    @staticmethod
    def _apply(entry: Entry, pax: dict[bytes, bytes], name: bytes, link: bytes) -> tuple[bytes, bytes]:
        """Let the pax records override the header."""
        for key, value in pax.items():
            if key == b"path":
                name = value
            elif key == b"linkpath":
                link = value
            elif key == b"size":
                entry.size = _decimal(value)
            elif key == b"uid":
                entry.uid = _decimal(value)
            elif key == b"gid":
                entry.gid = _decimal(value)
            elif key == b"mtime":
                entry.mtime = _time(value)
                entry.atime = max(entry.atime, entry.mtime)
            elif key == b"atime":
                entry.atime = _time(value)
            elif key.startswith(b"SCHILY.xattr."):
                entry.xattrs[key[13:]] = value
        entry.atime = max(entry.atime, entry.mtime)
        return name, link

    @staticmethod
    def _check(entry: Entry) -> None:
        if not 0 <= entry.size <= _LARGEST:
            raise Malformed(f"a member of {entry.size} bytes cannot be")
        if not (0 <= entry.uid <= _LARGEST_ID and 0 <= entry.gid <= _LARGEST_ID):
            raise Malformed(f"owner {entry.uid}:{entry.gid} is out of range")
        if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
            raise Malformed(f"device {entry.major}:{entry.minor} is out of range")
        low, high = _TIMES
        entry.mtime = min(max(entry.mtime, low * 10**9), high * 10**9)
        entry.atime = min(max(entry.atime, low * 10**9), high * 10**9)

    # -- sparse files --------------------------------------------------------------------------------------------------

    def _old_sparse(self, entry: Entry) -> None:
        """GNU's own format: the map is in the header and in blocks behind it, outside of the member's size."""
        block = self._last_block
        ranges: list[tuple[int, int]] = []
        entry.length = _number(block[483:495], "real size")
        more = _sparse_fields(block[386:482], ranges) and block[482]
        unread, self._unread = self._unread, 0
        while more:
            block = self._exactly(BLOCK_SIZE)
            more = _sparse_fields(block[:504], ranges) and block[504]
        self._unread = unread
        self._set_ranges(entry, ranges)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], name: bytes) -> bytes:
        """The three pax formats; returns the member's true name."""
        name = pax.get(b"GNU.sparse.name", name)
        size = pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size"))
        if pax.get(b"GNU.sparse.major") == b"1":
            ranges = self._sparse_map(entry)
        elif b"GNU.sparse.map" in pax:
            numbers = [_decimal(v) for v in pax[b"GNU.sparse.map"].split(b",")] if pax[b"GNU.sparse.map"] else []
            if len(numbers) % 2:
                raise Malformed("an odd sparse map")
            ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
        else:
            return name
        if size is None:
            raise Malformed("a sparse member without its size")
        entry.length = _decimal(size)
        self._set_ranges(entry, ranges)
        return name

    def _sparse_map(self, entry: Entry) -> list[tuple[int, int]]:
        """Format 1.0: decimal lines at the start of the member's data, padded to a block."""
        text = b""
        wanted = 1
        while text.count(b"\n") < wanted:
            if entry.size < BLOCK_SIZE or len(text) > 48 * _MOST_RANGES:
                raise Malformed("a sparse map without an end")
            text += self._exactly(BLOCK_SIZE)
            entry.size -= BLOCK_SIZE
            self._unread -= BLOCK_SIZE
            if wanted == 1 and b"\n" in text:
                wanted = 1 + 2 * min(_decimal(text.partition(b"\n")[0]), _MOST_RANGES + 1)
        numbers = [_decimal(line) for line in text.split(b"\n")[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    @staticmethod
    def _set_ranges(entry: Entry, ranges: list[tuple[int, int]]) -> None:
        end = total = 0
        for offset, size in ranges:
            if offset < end or size < 0 or offset + size > _LARGEST:
                raise Malformed("a sparse map that goes backwards")
            end, total = offset + size, total + size
        if end > entry.length or entry.length > _LARGEST or total != entry.size or len(ranges) > _MOST_RANGES:
            raise Malformed("a sparse map that does not fit its member")
        entry.ranges = ranges


def clean(name: bytes) -> bytes:
    """`name` relative to the root, without ".", ".." and doubled slashes.  Raises Malformed when it leads outside."""
    if name[:1] != b"/" and b"./" not in name and b"//" not in name and not name.endswith((b"/", b"/.", b"..")):
        return b"" if name == b"." else name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
            elif not name.startswith(b"/"):
                raise Malformed(f"invalid path: {name.decode(errors='replace')[:200]!r} leads out of the archive")
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, name: str) -> int:
    """Octal digits, or base 256 when the first bit is set (GNU)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (1 << (8 * len(field) - 1))
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    digits = digits.partition(b"\0")[0].strip(b" ")
    try:
        # int() would take signs, underscores and other scripts' digits.
        if not digits.isdigit():
            raise ValueError
        return int(digits, 8)
    except ValueError:
        raise Malformed(f"invalid tar header: {name}") from None


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise Malformed("a pax number that is none")
    return int(value)


def _time(value: bytes) -> int:
    """Decimal seconds with a fraction, to nanoseconds."""
    seconds, _, fraction = value.partition(b".")
    negative = seconds.startswith(b"-")
    digits = seconds[negative:] or b"0"
    if not digits.isdigit() or (fraction and not fraction.isdigit()) or len(digits) > 19:
        raise Malformed("a pax time that is none")
    nanoseconds = int(digits) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if negative else nanoseconds


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE\\n` of a pax header; the last of a key counts."""
    found: dict[bytes, bytes] = {}
    offsets: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        length = data[position:space]
        if space < 0 or not length.isdigit():
            raise Malformed("a pax record without its length")
        end = position + int(length)
        key, separator, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space or data[end - 1 : end] != b"\n" or not separator or not key:
            raise Malformed("a pax record that is cut short")
        if b"\0" in key:
            raise Malformed("a pax key with a NUL in it")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # format 0.0: pairs, repeated
            offsets.append(value)
        if value:
            found[key] = value
        else:
            found.pop(key, None)  # an empty value deletes
        position = end
    if offsets:
        found[b"GNU.sparse.map"] = b",".join(offsets)
    return found


def _sparse_fields(area: bytes, ranges: list[tuple[int, int]]) -> bool:
    """Collect the 24-byte pairs of an old GNU map; False at its end."""
    for start in range(0, len(area), 24):
        pair = area[start : start + 24]
        if not pair[0] or not pair[12]:
            return False
        ranges.append((_number(pair[:12], "sparse offset"), _number(pair[12:], "sparse size")))
        if len(ranges) > _MOST_RANGES:
            raise Malformed("a sparse map that is too long")
    return True


def pass_over(readinto: Callable[[memoryview], int], count: int) -> None:
    """Read `count` bytes that nobody wants.  Raises Malformed when there are fewer."""
    scratch = memoryview(bytearray(min(count, 1 << 16)))
    while count > 0:
        got = readinto(scratch[:count])
        if not got:
            raise Malformed("unexpected EOF")
        count -= got
