"""The local driver's files: what a crash tears, what hostile bytes do, and rotation without an end."""

import asyncio
import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.logger import local, packing
from boxwright.logger.formats import BLOCKS
from boxwright.logger.local import LocalWriter
from boxwright.logger.reader import Options, read

LINES = [b"line %d\n" % n for n in range(50)]


def stored(path: Path, tail: int = -1) -> list[bytes]:
    async def all_of_it() -> list[bytes]:
        return [r.line async for batch in read(str(path), Options(tail=tail), None, BLOCKS) for r in batch]

    return asyncio.run(all_of_it())


def write(path: Path, lines: list[bytes], size: int = 0, files: int = 1) -> None:
    writer = LocalWriter(str(path), size, files)
    for line in lines:
        writer.write("stdout", line)
    writer.close()


@settings(max_examples=60)
@given(cut=st.integers(0, 50 * 35), junk=st.binary(max_size=60))
def test_whatever_a_crash_leaves_is_mended_and_written_on(cut: int, junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a"
        write(path, LINES)
        torn = path.read_bytes()[:cut]
        path.write_bytes(torn + junk)
        good = len(stored(path))
        assert stored(path) == LINES[:good]
        write(path, [b"after\n"])
        assert stored(path) == [*LINES[:good], b"after\n"]


@settings(max_examples=100)
@given(st.binary(max_size=400))
def test_hostile_bytes_are_no_blocks(data: bytes) -> None:
    end = BLOCKS.whole(data)
    assert 0 <= end <= len(data)
    list(local.blocks(data[:end]))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 120))
def test_tail_counts_records_within_blocks(counts: list[int], tail: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a"
        lines = [b"%d\n" % n for n in range(sum(counts))]
        writer, at = LocalWriter(str(path), 200, 100), 0
        for count in counts:
            writer.write("stdout", b"".join(lines[at : at + count]))
            at += count
        writer.close()
        assert stored(path, tail) == lines[max(0, len(lines) - tail) :]


def test_a_thousand_rotations_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = LocalWriter(str(path), 1000, 5, packing.Packer(None, str(path), 5))
    line = b"x" * 900 + b"\n"
    writer.write("stdout", line * 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        writer.write("stdout", line)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the packer's
    assert writer.dropped == 0
    pidfd = os.dup(writer._packer._pidfd) if writer._packer._pidfd >= 0 else -1  # type: ignore[union-attr]
    writer.close()
    if pidfd >= 0:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    names = {name.removesuffix(".gz") for name in os.listdir(tmp_path)}
    assert names == {"a", "a.1", "a.2", "a.3", "a.4"}
    assert stored(path) == [line] * 5


def test_a_packer_that_was_killed_is_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, [b"x" * 900 + b"\n"] * 4, 1000, 5)
    (tmp_path / "a.packing").write_bytes(b"half")
    packing.pack_all(str(path), 5)
    assert sorted(os.listdir(tmp_path)) == ["a", "a.1.gz", "a.2.gz", "a.3.gz"]
    assert len(stored(path)) == 4


def test_both_forms_of_one_file_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, [b"x" * 900 + b"\n"] * 3, 1000, 5)
    plain = (tmp_path / "a.1").read_bytes()
    packing.pack_all(str(path), 5)
    (tmp_path / "a.1").write_bytes(plain)  # a crash between the two
    assert len(stored(path)) == 3


def test_a_damaged_packed_file_costs_only_its_own_records(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, [b"%d" % n + b"x" * 900 + b"\n" for n in range(3)], 1000, 5)
    packing.pack_all(str(path), 5)
    (tmp_path / "a.1.gz").write_bytes((tmp_path / "a.1.gz").read_bytes()[:30])
    assert [line[:1] for line in stored(path)] == [b"0", b"2"]
