"""Compressed archives: recognised by their first bytes, expanded as streams by libraries that are loaded beforehand."""

import bz2
import lzma
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import zstandard
from isal import igzip_lib

GZIP, ZSTD, BZIP2, XZ, NONE = "gzip", "zstd", "bzip2", "xz", ""
_MAGIC = {GZIP: b"\x1f\x8b\x08", ZSTD: b"\x28\xb5\x2f\xfd", BZIP2: b"BZh", XZ: b"\xfd7zXZ\0"}
# Enough of the start to recognise any of them.
MAGIC_SIZE = 6
_CHUNK = 256 << 10
# The most that one call of a decoder gives out, bytes.
_PIECE = 1 << 20
# zstd's decoder has no such bound: its input is cut small instead (four bytes can stand for 128 KiB).
_ZSTD_SLICE = 4096
# What one stream may make a decoder remember, bytes.
_WINDOW = 128 << 20
ERRORS: tuple[type[Exception], ...] = (
    cast("type[Exception]", igzip_lib.IsalError),  # its stub says that it is an instance
    lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError,
)  # fmt: skip


def detect(start: bytes) -> str:
    """The compression of a stream that starts with these bytes; NONE when it is none of the known ones.

    A zstd stream may also start with a skippable frame, whose magic number has 16 forms.
    """
    for kind, magic in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50:
        return ZSTD
    return NONE


def expand(kind: str, fd: int, offset: int, length: int) -> Iterator[bytes]:
    """The expanded bytes of `length` bytes at `offset` of the regular file `fd`; see `expand_from`."""
    end = offset + length

    def read(count: int) -> bytes:
        nonlocal offset
        data = os.pread(fd, min(count, end - offset), offset)
        offset += len(data)
        return data

    return expand_from(kind, read)


def expand_from(kind: str, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The expanded bytes of what `read(at most so many)` gives until it gives none, in pieces of bounded size.

    Several streams one after the other, with zeroes between and behind, count as one.  Raises one of ERRORS for what is
    damaged or cut short.
    """
    chunk = _ZSTD_SLICE if kind == ZSTD else _CHUNK
    make = _DECODERS[kind]
    decoder, data = make(), b""
    while True:
        if not data and decoder.needs_input:
            data = read(chunk)
            if not data:
                raise EOFError("unexpected EOF")
        piece, data = decoder.decompress(data, _PIECE), b""
        if piece:
            yield piece
        if decoder.eof:
            data = decoder.unused_data.lstrip(b"\0")
            while not data:
                data = read(chunk)
                if not data:
                    return
                data = data.lstrip(b"\0")
            decoder = make()


class _Zstd:
    """zstandard's decoder in the shape of bz2's."""

    needs_input = True

    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(data)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


_DECODERS: dict[str, Callable[[], Any]] = {
    GZIP: lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
    ZSTD: _Zstd,
    BZIP2: bz2.BZ2Decompressor,
    XZ: lambda: lzma.LZMADecompressor(memlimit=_WINDOW),
}

# The empty stream of each kind, for trying the decoders.
SAMPLES = {
    GZIP: igzip_lib.compress(b"", flag=igzip_lib.COMP_GZIP),
    ZSTD: zstandard.compress(b""),
    BZIP2: bz2.compress(b""),
    XZ: lzma.compress(b""),
}
