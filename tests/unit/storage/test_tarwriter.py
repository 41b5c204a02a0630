"""The writer of archives, read back by tarfile: whatever the sizes are against those of its buffer."""

import errno
import io
import os
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.storage import tarwriter
from boxwright.storage.apply import write_all

CHUNK = 4096
SIZES = st.sampled_from([0, 1, 511, 512, 513, 3072, 3583, 3584, 3585, 4095, 4096, 4097, 8192, 20_000])


@pytest.fixture(autouse=True, scope="module")
def small_buffer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarwriter, "_CHUNK", CHUNK)
        yield


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def content(number: int, size: int) -> bytes:
    return bytes((number * 31 + i * 7) % 256 for i in range(size))


@given(sizes=st.lists(SIZES, max_size=12), foreign=st.lists(SIZES, max_size=3))
@settings(max_examples=60)
def test_files_and_foreign_bytes_come_out_in_order(sizes: list[int], foreign: list[int]) -> None:
    written: list[bytes] = []
    with tempfile.TemporaryDirectory() as home, opened(Path(home)) as fd:
        writer = tarwriter.Writer(lambda data: written.append(bytes(data)))
        expected: dict[str, bytes] = {}
        for number, size in enumerate(sizes):
            expected[f"f{number}"] = content(number, size)
            (Path(home) / f"f{number}").write_bytes(expected[f"f{number}"])
            writer.add(b"f%d" % number, fd, b"f%d" % number)
            if number < len(foreign):
                data = content(99, foreign[number])
                expected[f"x{number}"] = data
                writer.send(tarwriter.header(b"x%d" % number, size=len(data)))
                writer.send(memoryview(data))
                writer.send(bytes(-len(data) % 512))
        writer.finish()
    with tarfile.open(fileobj=io.BytesIO(b"".join(written))) as archive:
        assert {m.name: archive.extractfile(m).read() for m in archive} == expected  # type: ignore[union-attr]
        assert archive.getnames() == list(expected)
    whole = sum(512 + (len(data) + 511) // 512 * 512 for data in expected.values()) + 1024
    assert sum(map(len, written)) == whole
    assert len(written) <= whole // (CHUNK - 512) + 2 * len(foreign) + 1  # gathered, not one by one


@pytest.mark.parametrize("size", [100, CHUNK, 3 * CHUNK + 17])
@pytest.mark.parametrize("left", [0, 50])
def test_a_file_that_is_cut_after_its_header_is_filled_up_with_zeroes(tmp_path: Path, size: int, left: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * size)
    written: list[bytes] = []

    def cut(status: os.stat_result) -> tarwriter.Described:
        os.truncate(tmp_path / "f", left)
        return tarwriter.described(status)

    with opened(tmp_path) as fd:
        # What the buffer held before must not show where the file has nothing.
        writer = tarwriter.Writer(lambda data: written.append(bytes(data)), cut)
        writer.send(tarwriter.header(b"before", size=3 * CHUNK))
        writer.send(b"s" * 3 * CHUNK)
        writer.add(b"f", fd, b"f")
        writer.finish()
    with tarfile.open(fileobj=io.BytesIO(b"".join(written))) as archive:
        assert archive.extractfile("f").read() == b"x" * left + bytes(size - left)  # type: ignore[union-attr]


@pytest.mark.parametrize("regular", [False, True])
def test_every_kind_of_file_and_its_header(tmp_path: Path, regular: bool) -> None:
    """regular: each was seen as a regular file a moment before, but for the link, which is no other file's name then."""
    (tmp_path / "d").mkdir(mode=0o751)
    (tmp_path / "f").write_bytes(b"1")
    os.link(tmp_path / "f", tmp_path / "hard")
    os.symlink("f" * 150, tmp_path / "soft")
    os.mkfifo(tmp_path / "pipe")
    os.chmod(tmp_path / "f", 0o4640)
    long = b"n" * 120
    (tmp_path / long.decode()).write_bytes(b"2")
    written: list[bytes] = []
    with opened(tmp_path) as fd:
        writer = tarwriter.Writer(lambda data: written.append(bytes(data)))
        for name in (b"d", b"f", b"hard", b"soft", b"pipe", long, b"missing"):
            writer.add(name, fd, name, regular and name != b"soft")
        writer.whiteout(b"d/gone")
        writer.opaque(b"d")
        writer.finish()
    with tarfile.open(fileobj=io.BytesIO(b"".join(written))) as archive:
        found = {member.name: member for member in archive}
    assert list(found) == ["d", "f", "hard", "soft", "pipe", long.decode(), "d/.wh.gone", "d/.wh..wh..opq"]
    assert found["d"].isdir() and found["d"].mode == 0o751
    assert found["f"].mode == 0o4640 and found["f"].uid == os.getuid()
    assert found["f"].mtime == int((tmp_path / "f").stat().st_mtime)
    assert found["hard"].islnk() and found["hard"].linkname == "f"
    assert found["soft"].issym() and found["soft"].linkname == "f" * 150
    assert found["pipe"].isfifo()


def through_a_pipe(home: Path, names: list[str]) -> dict[str, bytes]:
    """The files of the archive that a writer with a pipe makes of these."""
    out, into = os.pipe()
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(iter(lambda: os.read(out, 1 << 16), b"")))
    reader.start()
    try:
        with opened(home) as fd:
            writer = tarwriter.Writer(lambda data: write_all(into, data), pipe=into)
            for name in names:
                writer.add(name.encode(), fd, name.encode())
            writer.finish()
    finally:
        os.close(into)
        reader.join()
        os.close(out)
    with tarfile.open(fileobj=io.BytesIO(b"".join(read))) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


@pytest.mark.parametrize("refused", [False, True])
def test_large_files_go_uncopied_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr(tarwriter, "_UNCOPIED", 8192)
    lent: list[int] = []
    real = os.sendfile

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        lent.append(count)
        if refused:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(out, fd, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    expected = {f"f{n}": content(n, size) for n, size in enumerate([100, 8191, 8192, 8193, 300_000, 5, 70_000])}
    for name, data in expected.items():
        (tmp_path / name).write_bytes(data)
    expected["holes"] = content(7, 20_000) + bytes(4 << 20) + content(8, 20_000)
    with (tmp_path / "holes").open("wb") as file:
        file.write(expected["holes"][:20_000])
        file.seek((4 << 20) + 20_000)
        file.write(expected["holes"][-20_000:])
    assert through_a_pipe(tmp_path, list(expected)) == expected
    assert lent[0] == 8192
    assert len(lent) == 1 if refused else len(lent) > 4  # what cannot be is tried once


def test_a_large_file_that_is_cut_meanwhile_is_filled_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarwriter, "_UNCOPIED", 8192)
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    (tmp_path / "g").write_bytes(b"after")
    real = os.sendfile

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        os.truncate(tmp_path / "f", 40_000)
        return real(out, fd, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    assert through_a_pipe(tmp_path, ["f", "g"]) == {"f": b"x" * 40_000 + bytes(60_000), "g": b"after"}
