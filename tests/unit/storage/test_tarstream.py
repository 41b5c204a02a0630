"""The tar reader: the formats, and archives that lie."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tars

from boxwright.storage import tarstream
from boxwright.storage.content import digest_of
from boxwright.storage.tarstream import Archive, Entry, Malformed, clean


def read(data: bytes, step: int = 1 << 20) -> tuple[list[tuple[Entry, bytes]], str]:
    """All members with their data, `step` bytes arriving at a time, and the digest."""
    source = io.BytesIO(data)
    archive = Archive(lambda view: source.readinto(view[:step]))
    found = []
    while (entry := archive.next()) is not None:
        parts, left = [], entry.size
        while left:
            view = archive.read(left)
            parts.append(bytes(view))
            left -= len(view)
        found.append((entry, b"".join(parts)))
    return found, archive.finish()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 511, 513, 1 << 20])
def test_formats(format: int, step: int) -> None:
    data = tars.pack(
        tars.directory("d", mode=0o1777, uid=5, gid=6),
        tars.member("d/f", content=b"x" * 1000, uid=1000, gid=1001, mode=0o4755),
        tars.symlink("d/s", "../../x"),
        tars.link("d/l", "d/f"),
        tars.device("d/null", 1, 3),
        tars.device("d/sda", 8, 0, tarfile.BLKTYPE),
        tars.member("d/p", tarfile.FIFOTYPE),
        tars.member("d/" + "n" * 90, content=b"y"),
        format=format,
    )
    found, digest = read(data, step)
    assert digest == digest_of(data)
    by_name = {entry.name: (entry, content) for entry, content in found}
    assert list(by_name) == [b"d", b"d/f", b"d/s", b"d/l", b"d/null", b"d/sda", b"d/p", b"d/" + b"n" * 90]
    file, content = by_name[b"d/f"]
    assert (file.kind, file.mode, file.uid, file.gid, file.size) == (tarstream.REGULAR, 0o4755, 1000, 1001, 1000)
    assert content == b"x" * 1000
    assert file.mtime == file.atime == 1_700_000_000 * 10**9
    assert by_name[b"d"][0].kind == tarstream.DIRECTORY and by_name[b"d"][0].mode == 0o1777
    assert by_name[b"d/s"][0].link == b"../../x"
    assert (by_name[b"d/l"][0].kind, by_name[b"d/l"][0].link) == (tarstream.LINK, b"d/f")
    null = by_name[b"d/null"][0]
    assert (null.kind, null.major, null.minor) == (tarstream.CHARACTER, 1, 3)
    assert by_name[b"d/sda"][0].kind == tarstream.BLOCK
    assert by_name[b"d/p"][0].kind == tarstream.FIFO


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_large_numbers(format: int) -> None:
    long = "/".join(["directory" * 5] * 8)
    data = tars.pack(
        tars.member(f"{long}/file", content=b"z", uid=3_000_000, gid=4_000_000_000, mtime=-5),
        tars.symlink("s", long),
        tars.member("ü" * 60, content=b"u"),
        format=format,
    )
    (first, second, third), _ = read(data)
    assert first[0].name == f"{long}/file".encode() and first[1] == b"z"
    assert (first[0].uid, first[0].gid, first[0].mtime) == (3_000_000, 4_000_000_000, -5 * 10**9)
    assert second[0].link == long.encode()
    assert third[0].name == ("ü" * 60).encode()


def test_ustar_prefix_and_v7() -> None:
    block = tars.header(b"tail", tail=bytes(80) + b"head/of/it")
    assert read(block + tars.END)[0][0][0].name == b"head/of/it/tail"
    old = tars.header(b"dir/", magic=bytes(8))
    assert read(old + tars.END)[0][0][0].kind == tarstream.DIRECTORY
    assert read(tars.header(b"file", kind=b"\0", magic=bytes(8)))[0][0][0].kind == tarstream.REGULAR


def test_pax_records() -> None:
    records = (
        tars.record("path", b"b/real")
        + tars.record("mtime", b"1.5")
        + tars.record("atime", b"3.25")
        + tars.record("SCHILY.xattr.user.k", b"v\0\n=")
        + tars.record("size", b"3")
        + tars.record("uid", b"7")
    )
    data = tars.extension(b"g", tars.record("path", b"ignored")) + tars.extension(b"x", records)
    data += tars.header(b"a", size=b"%011o" % 3) + b"abc" + bytes(509) + tars.header(b"next") + tars.END
    (first, second), _ = read(data)
    entry, content = first
    assert (entry.name, content, entry.uid) == (b"b/real", b"abc", 7)
    assert (entry.mtime, entry.atime) == (1_500_000_000, 3_250_000_000)
    assert entry.xattrs == {b"user.k": b"v\0\n="}
    assert second[0].name == b"next" and not second[0].xattrs


def test_sparse_files_of_gnu_tar(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with open(file, "wb") as out:
        for position in range(40):
            out.seek(position << 20)
            out.write(b"%03d" % position)
        out.truncate(64 << 20)
    for arguments in (["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))):
        data = subprocess.run(
            ["tar", "-C", tmp_path, "-S", *arguments, "-cf", "-", "sparse"], stdout=subprocess.PIPE, check=True
        ).stdout
        [(entry, content)], _ = read(data)
        assert (entry.name, entry.length) == (b"sparse", 64 << 20), arguments
        assert entry.ranges is not None
        made = bytearray(entry.length)
        for offset, size in entry.ranges:
            made[offset : offset + size], content = content[:size], content[size:]
        assert bytes(made) == file.read_bytes() and content == b"", arguments


BASE256 = b"\xff" * 12
LIES = {
    "checksum": tars.header(checksum=b"000000\0 "),
    "half a header": tars.header()[:300],
    "data cut short": tars.header(size=b"00000001000") + b"x" * 100,
    "padding cut short": tars.header(size=b"00000000001") + b"x",
    "negative size": tars.header(size=BASE256),
    "size beyond 2^63": tars.header(size=b"\x80" + b"\xff" * 11),
    "size with letters": tars.header(size=b"12a"),
    "size with a sign": tars.header(size=b"-1"),
    "size in other digits": tars.header(size="٣".encode()),
    "owner 2^32-1, which chown takes for no change": tars.header(uid=b"\x80\0\0\0\xff\xff\xff\xff"),
    "negative owner": tars.header(gid=b"\xff" * 8),
    "unknown kind": tars.header(kind=b"V"),
    "leads out": tars.header(b"../x"),
    "leads out later": tars.header(b"a/../../x"),
    "hard link leads out": tars.header(b"x", kind=b"1", link=b"../../etc/shadow"),
    "long name too long": tars.header(b"x", kind=b"L", size=b"00010000000"),
    "long name cut short": tars.header(b"x", kind=b"L", size=b"00000001000") + b"a" * 10,
    "pax without a length": tars.extension(b"x", b"path=x\n") + tars.header(),
    "pax length too large": tars.extension(b"x", b"99 path=x\n") + tars.header(),
    "pax length zero": tars.extension(b"x", b"0 path=x\n") + tars.header(),
    "pax without =": tars.extension(b"x", b"8 pathx\n") + tars.header(),
    "pax NUL in path": tars.extension(b"x", tars.record("path", b"a\0b")) + tars.header(),
    "pax size is text": tars.extension(b"x", tars.record("size", b"1e9")) + tars.header(),
    "pax uid is huge": tars.extension(b"x", tars.record("uid", b"99999999999999999999")) + tars.header(),
    "pax time is text": tars.extension(b"x", tars.record("mtime", b"now")) + tars.header(),
    "path of 5000": tars.extension(b"x", tars.record("path", b"a/" * 2500)) + tars.header(),
    "sparse map backwards": tars.extension(
        b"x", tars.record("GNU.sparse.map", b"10,5,0,5") + tars.record("GNU.sparse.size", b"20")
    )
    + tars.header(size=b"%011o" % 10)
    + bytes(512),
    "sparse map beyond its file": tars.extension(
        b"x", tars.record("GNU.sparse.map", b"0,10") + tars.record("GNU.sparse.size", b"5")
    )
    + tars.header(size=b"%011o" % 10)
    + bytes(512),
    "sparse map larger than its data": tars.extension(
        b"x", tars.record("GNU.sparse.map", b"0,1000") + tars.record("GNU.sparse.size", b"5000")
    )
    + tars.header(size=b"%011o" % 10)
    + bytes(512),
    "sparse map odd": tars.extension(
        b"x", tars.record("GNU.sparse.map", b"0,1,2") + tars.record("GNU.sparse.size", b"5")
    )
    + tars.header(),
    "sparse map without an end": tars.extension(
        b"x", tars.record("GNU.sparse.major", b"1") + tars.record("GNU.sparse.realsize", b"9")
    )
    + tars.header(size=b"%011o" % 512)
    + b"99999\n".ljust(512, b"1"),
}


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_extensions_are_bounded(kind: bytes) -> None:
    """Headers about headers are held in memory: two mebibytes that are really there are too much."""
    data = tars.record("comment", b"x" * (2 << 20)) if kind in (b"x", b"g") else b"x" * (2 << 20)
    with pytest.raises(Malformed, match="too long"):
        read(tars.extension(kind, data) + tars.header() + tars.END)


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str) -> None:
    with pytest.raises(Malformed):
        read(LIES[lie] + (b"" if "short" in lie or "half" in lie else tars.END))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a", b"a"), (b"./a/./b/", b"a/b"), (b"/a", b"a"), (b"//a//b", b"a/b"), (b".", b""), (b"./", b""), (b"/", b""),
        (b"a/../b", b"b"), (b"a/..", b""), (b"/../a", b"a"), (b"..a", b"..a"), (b"a..", b"a.."), (b"a/..b", b"a/..b"),
    ],
)  # fmt: skip
def test_names_are_cleaned(name: bytes, expected: bytes) -> None:
    assert clean(name) == expected


@pytest.mark.parametrize("name", [b"..", b"../a", b"a/../..", b"./..", b"a/../../b"])
def test_names_that_lead_out(name: bytes) -> None:
    with pytest.raises(Malformed):
        clean(name)


def test_no_end_mark_is_accepted_and_what_follows_it_is_hashed() -> None:
    data = tars.header()
    assert read(data)[1] == digest_of(data)
    data = tars.header() + tars.END + b"anything"
    found, digest = read(data)
    assert len(found) == 1 and digest == digest_of(data)


def test_seeking_passes_over_data_without_reading_it() -> None:
    data = tars.pack(tars.member("a", content=b"x" * 3_000_000), tars.member("b", content=b"y"))
    source, given_out = io.BytesIO(data), []

    def readinto(view: memoryview) -> int:
        count = source.readinto(view[:4096])
        given_out.append(count)
        return count

    archive = Archive(readinto, lambda count: source.seek(count, io.SEEK_CUR) and None)
    first, second = archive.next(), archive.next()
    assert first is not None and second is not None
    assert data[second.position : second.position + 1] == b"y"
    assert first.size == 3_000_000 and sum(given_out) < 20_000
    assert archive.next() is None


VALID = tars.pack(
    tars.directory("d"),
    tars.member("d/" + "n" * 150, content=b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "b"}),
    tars.symlink("s", "d"),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
def test_damage_is_noticed_or_harmless(changes: list[tuple[int, int]], repair: bool) -> None:
    data = bytearray(VALID)
    for position, value in changes:
        data[position] = value
        if repair:  # make the checksum of that block right again, as an attacker would
            start = position - position % 512
            block = bytes(data[start : start + 512])
            fixed = block[:148] + b" " * 8 + block[156:]
            data[start + 148 : start + 156] = b"%06o\0 " % (sum(fixed) % 0o1000000)
    try:
        found, digest = read(bytes(data), 4096)
    except Malformed:
        return
    assert digest == digest_of(bytes(data))
    for entry, content in found:
        assert b".." not in entry.name.split(b"/") and not entry.name.startswith(b"/") and b"\0" not in entry.name
        assert len(content) == entry.size <= len(data)


@settings(max_examples=200)
@given(st.binary(max_size=2000))
def test_noise(data: bytes) -> None:
    try:
        read(data)
    except Malformed:
        pass
