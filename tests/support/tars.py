"""Archives for tests: made by tarfile where it can, by hand where an archive has to lie."""

import io
import tarfile
from typing import Any


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """One member; `fields` are TarInfo's."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime = kind, len(content), 0o644, 1_700_000_000
    if kind == tarfile.DIRTYPE:
        info.mode = 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.SYMTYPE, linkname=target, **fields)


def link(name: str, target: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, linkname=target, **fields)


def device(
    name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE, **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind, devmajor=major, devminor=minor, **fields)


def pack(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def header(
    name: bytes = b"file",
    *,
    size: bytes = b"00000000000",
    kind: bytes = b"0",
    mode: bytes = b"0000644",
    uid: bytes = b"0000000",
    gid: bytes = b"0000000",
    mtime: bytes = b"00000000000",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    tail: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One header block with whatever in its fields; the checksum is right unless given."""
    block = name.ljust(100, b"\0") + mode.ljust(8, b"\0") + uid.ljust(8, b"\0") + gid.ljust(8, b"\0")
    block += size.ljust(12, b"\0") + mtime.ljust(12, b"\0") + b" " * 8 + kind + link.ljust(100, b"\0") + magic + tail
    block = block.ljust(512, b"\0")
    given = checksum if checksum is not None else b"%06o\0 " % sum(block)
    return block[:148] + given + block[156:]


def extension(kind: bytes, data: bytes) -> bytes:
    """A pax ("x") or GNU ("L", "K") extension member."""
    return header(b"././@x", kind=kind, size=b"%011o" % len(data)) + data + bytes(-len(data) % 512)


def record(key: str, value: bytes) -> bytes:
    """One pax record with its length."""
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


END = bytes(1024)
