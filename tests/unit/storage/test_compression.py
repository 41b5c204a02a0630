"""Compressed archives: all kinds, in pieces of bounded size, and damage that is noticed."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zstandard

from boxwright.storage import compression

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    compression.GZIP: gzip.compress,
    compression.ZSTD: lambda data: zstandard.compress(data),
    compression.BZIP2: bz2.compress,
    compression.XZ: lambda data: lzma.compress(data),
}
DATA = os.urandom(300_000) + bytes(3_000_000) + b"the end"


@contextmanager
def file(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("test")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def expand(data: bytes, offset: int = 0, behind: bytes = b"") -> bytes:
    with file(b"?" * offset + data + behind) as fd:
        return b"".join(compression.expand(compression.detect(data), fd, offset, len(data)))


@pytest.mark.parametrize("kind", COMPRESS)
def test_round_trip(kind: str) -> None:
    packed = COMPRESS[kind](DATA)
    assert compression.detect(packed) == kind
    assert expand(packed, 17, b"behind") == DATA


@pytest.mark.parametrize("kind", COMPRESS)
def test_several_streams_are_one(kind: str) -> None:
    packed = COMPRESS[kind](b"a" * 1000) + COMPRESS[kind](b"b" * 1000)
    assert expand(packed) == b"a" * 1000 + b"b" * 1000
    assert expand(packed + bytes(4096)) == b"a" * 1000 + b"b" * 1000


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("cut", [0.1, 0.5, 0.999])
def test_what_is_cut_short_is_refused(kind: str, cut: float) -> None:
    packed = COMPRESS[kind](DATA)
    with pytest.raises(compression.ERRORS):
        expand(packed[: int(len(packed) * cut)])


@pytest.mark.parametrize("kind", [compression.GZIP, compression.BZIP2, compression.XZ])
def test_checksums_are_checked(kind: str) -> None:
    packed = bytearray(COMPRESS[kind](DATA))
    packed[len(packed) // 2] ^= 0x55
    with pytest.raises(compression.ERRORS):
        expand(bytes(packed))


@pytest.mark.parametrize("kind", COMPRESS)
def test_rubbish_behind_a_stream_is_refused(kind: str) -> None:
    with pytest.raises(compression.ERRORS):
        expand(COMPRESS[kind](b"a") + b"rubbish that is long enough to be looked at")


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_bomb_comes_in_small_pieces(kind: str) -> None:
    packed = COMPRESS[kind](bytes(80 << 20))
    assert len(packed) < 1 << 20
    total = largest = 0
    with file(packed) as fd:
        for piece in compression.expand(kind, fd, 0, len(packed)):
            total, largest = total + len(piece), max(largest, len(piece))
    assert total == 80 << 20
    # zstd's decoder has no bound but its input's, of which it gets 4 KiB at a time.
    assert largest <= (128 << 20 if kind == compression.ZSTD else 1 << 20)


def test_detection() -> None:
    assert compression.detect(b"") == compression.detect(b"ustar.") == compression.NONE
    assert compression.detect(b"\x5a\x2a\x4d\x18\x04\0") == compression.ZSTD  # a skippable frame first
