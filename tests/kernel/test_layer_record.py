"""A layer's archive is made again, byte for byte, out of its tree and its record: for every archive that unpacks."""

import asyncio
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import images, tars
from support.stores import Stores, stores
from support.tars import device, directory, link, member, pack, symlink

from boxwright.errdefs import Error, System
from boxwright.storage.content import digest_of

pytestmark = pytest.mark.root


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with stores(request.param) as found:
        yield found


async def again(made: Stores, chain_id: str) -> bytes:
    return b"".join([piece async for piece in made.snapshotter.archive(chain_id)])


def layer_directory(made: Stores, chain_id: str) -> Path:
    folder = "vfs" if made.snapshotter.name == "vfs" else "overlay"
    ((name,),) = made.db.query("SELECT directory FROM layers WHERE chain_id = ?", (chain_id,))
    return Path(made.root) / "snapshots" / folder / name


def rebuilt(made: Stores, *archives: bytes) -> list[str]:
    """Unpack the archives on top of each other, and hold each layer's archive against the one it came from."""
    made.snapshotter.needed = lambda chain_id: True  # no image is: they would go with their last reader
    chain = asyncio.run(made.layers(*archives))
    for chain_id, archive in zip(chain, archives, strict=True):
        assert made.snapshotter.archive_size(chain_id) == len(archive)
        assert asyncio.run(again(made, chain_id)) == archive
    return chain


NAMES = st.sampled_from(
    ["a", "b", "dir", "ü", "with space", "l" * 120, ".wh.a", ".wh.dir", ".wh..wh..opq", ".wh..wh.plnk"]
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
LOOKS = st.fixed_dictionaries(
    {
        "mode": st.sampled_from([0o644, 0o4755, 0o000, 0o1777]),
        "uid": st.sampled_from([0, 1, 70_000, 3_000_000]),
        "mtime": st.sampled_from([0, 1, 1_700_000_000]),
        "uname": st.sampled_from(["", "root", "ü"]),
    }
)
CONTENTS = st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * 511, b"y" * 512, b"z" * 513, os.urandom(70_000)]))
PAX = st.dictionaries(
    st.sampled_from(["SCHILY.xattr.user.note", "comment", "mtime", "LIBARCHIVE.creationtime"]),
    st.sampled_from(["1", "1234.5678"]),
    max_size=2,
)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    path, looks = draw(PATHS), draw(LOOKS)
    kind = draw(st.sampled_from("ffffddlsnpx"))
    if kind == "f":
        return member(path, content=draw(CONTENTS), **looks)
    if kind == "d":
        return directory(path, **looks)
    if kind == "l":
        return link(path, draw(PATHS), **looks)
    if kind == "s":
        return symlink(path, draw(st.sampled_from(["a", "dir", "/b", "../a", "nowhere"])), **looks)
    if kind == "n":
        return device(path, draw(st.sampled_from([0, 1])), draw(st.sampled_from([0, 3])), **looks)
    if kind == "p":
        return member(path, tarfile.FIFOTYPE, **looks)
    return member(path, content=draw(CONTENTS), pax_headers=draw(PAX), **looks)


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(
    st.lists(members(), max_size=12),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from(["overlay", "vfs"]),
    st.sampled_from([b"", bytes(512), b"behind the end\n" * 100]),
)
def test_any_archive_that_unpacks(
    content: list[tuple[tarfile.TarInfo, bytes]], format: int, driver: str, behind: bytes
) -> None:
    archive = pack(*content, format=format) + behind
    with stores(driver) as made:
        made.snapshotter.needed = lambda chain_id: True
        try:
            asyncio.run(made.layers(archive))
        except Error:
            return  # a link without a target, a directory's place taken: refused, as another test says
        (chain_id,) = [row[0] for row in made.db.query("SELECT chain_id FROM layers")]
        assert asyncio.run(again(made, chain_id)) == archive


REPLACED = {
    "a file by a file": [member("a", content=b"first"), member("a", content=b"second, longer"), member("a", content=b"3")],
    "a file by a directory": [member("a", content=b"first"), directory("a"), member("a/b", content=b"second")],
    "a tree by a file": [member("a/b/c", content=b"1"), member("a/d", content=b"2"), member("a", content=b"3")],
    "a tree by a link": [member("a/b", content=b"1"), member("c/b", content=b"2"), symlink("a", "c")],
    "one name of two": [member("a", content=b"1"), link("b", "a"), member("a", content=b"2"), member("b", content=b"3")],
    "one inode, many names": [
        member("a", content=b"1" * 3000), *(link(f"l{n}", "a") for n in range(9)), *(member(f"l{n}") for n in range(9)),
        member("a", content=b"9"),
    ],
    "what a link leads to": [
        directory("real"), symlink("way", "real"), member("way/f", content=b"1"), member("real/f", content=b"2"),
        member("way/g", content=b"3"), member("way", content=b"4"), member("real/g", content=b"5"),
    ],
    "a way that is led elsewhere": [
        directory("one"), directory("two"), symlink("way", "one"), member("way/f", content=b"1"),
        symlink("way", "two"), member("way/f", content=b"2"), member("way/deep/f", content=b"3"),
    ],
    "a link in the middle": [
        directory("r/s"), symlink("w", "/r"), member("w/s/f", content=b"1"), member("r/s/f", content=b"2"),
        member("w/s/f", content=b"3"),
    ],
    "deleted and made": [member("a/f", content=b"1"), member("a/.wh.f"), member("a/f", content=b"2"), member("a/.wh..wh..opq")],
    "whiteouts with contents": [member("a/f", content=b"1"), member("a/.wh.g", content=b"what for?"), member(".wh..wh.x", content=b"aufs")],
    "a device 0:0 in its place": [member("a", content=b"1"), device("a", 0, 0), member("b", content=b"2")],
}  # fmt: skip


@pytest.mark.parametrize("case", REPLACED)
def test_contents_that_the_tree_has_lost(made: Stores, case: str) -> None:
    rebuilt(made, pack(member("x/.keep"), directory("a")), pack(*REPLACED[case]))


def test_one_copy_is_kept_of_a_file_with_many_names(made: Stores) -> None:
    size = 1 << 20
    names = [f"l{n}" for n in range(50)]
    archive = pack(
        member("a", content=bytes(range(256)) * (size >> 8)),
        *(link(n, "a") for n in names),
        *(member(n) for n in names),
    )
    (chain_id,) = rebuilt(made, archive)
    assert (layer_directory(made, chain_id) / "kept").stat().st_size < 2 * size


@pytest.mark.parametrize(
    "format", ["gnu", "pax", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "v7", "ustar"]
)
def test_archives_of_gnu_tar(made: Stores, tmp_path: Path, format: str) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").write_bytes(os.urandom(5000))
    os.link(tree / "deep" / "file", tree / "second")
    os.symlink("deep/file", tree / "link")
    if format != "v7":
        os.mkfifo(tree / "fifo")
        os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    with (tree / "sparse").open("wb") as file:
        for offset in (0, 1 << 20, 5 << 20):
            file.seek(offset)
            file.write(os.urandom(10_000))
        file.truncate(8 << 20)
    if format in ("gnu", "pax"):
        (tree / ("n" * 200)).write_text("long")
        os.symlink("t" * 300, tree / "far")
    os.setxattr(tree / "second", "user.note", b"hello")
    flags = ["-S"] if format not in ("v7", "ustar") else []
    flags += ["--xattrs"] if format in ("pax",) else []
    command = ["tar", "-C", tree, *flags, *f"--format={format}".split(), "-cf", "-", "."]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    rebuilt(made, archive)


def test_archives_that_end_oddly(made: Stores) -> None:
    body = tars.header(b"f", size=b"%011o" % 3) + b"abc" + bytes(509)
    rebuilt(made, body, body + bytes(512), body + bytes(1024) + b"garbage" * 50, b"", body + bytes(100 * 512))


def test_a_small_record_of_a_real_distribution(made: Stores) -> None:
    if made.snapshotter.name == "vfs":
        pytest.skip("the record is the same one")
    with tarfile.open(images.debian_archive()) as outer:
        (name,) = [entry for entry in outer.getnames() if entry.endswith("/layer.tar")]
        extracted = outer.extractfile(name)
        assert extracted is not None
        archive = extracted.read()
    (chain_id,) = rebuilt(made, archive)
    path = layer_directory(made, chain_id)
    assert (path / "record").stat().st_size < 0.03 * len(archive)
    assert (path / "kept").stat().st_size == 0


DAMAGES: dict[str, Any] = {
    "changed": lambda path: path.write_bytes(b"CONTENT"),
    "cut": lambda path: path.write_bytes(b"c"),
    "gone": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_file_is_named(made: Stores, damage: str) -> None:
    (chain_id,) = rebuilt(made, pack(member("some/file", content=b"content"), member("other", content=b"x")))
    DAMAGES[damage](layer_directory(made, chain_id) / "fs" / "some" / "file")
    with pytest.raises(System, match=r'the file "some/file" of the layer has changed since it was unpacked'):
        asyncio.run(again(made, chain_id))


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_a_damaged_record_is_an_error(made: Stores, cut: int) -> None:
    (chain_id,) = rebuilt(made, pack(*(member(f"f{n}", content=b"content") for n in range(50))))
    record = layer_directory(made, chain_id) / "record"
    data = record.read_bytes()
    record.write_bytes(data[:cut])
    with pytest.raises(Error):
        asyncio.run(again(made, chain_id))


def test_layers_without_a_record_are_packed_from_their_tree(made: Stores) -> None:
    """As engines before this one have left them."""
    base = pack(directory("a"), member("a/f", content=b"1"), member("a/g", content=b"2"), directory("b"), member("b/h"))
    top = pack(
        directory("a"), member("a/.wh.f"), member("a/new", content=b"3"), directory("b"), member("b/.wh..wh..opq")
    )
    chain = rebuilt(made, base, top)
    made.db.execute("UPDATE layers SET archive = -1")
    for chain_id in chain:
        path = layer_directory(made, chain_id)
        (path / "record").unlink()
        (path / "kept").unlink()
    archives = [asyncio.run(again(made, chain_id)) for chain_id in chain]
    with stores("overlay") as other:
        copied = asyncio.run(other.layers(*archives))
        from support.stores import mounted, tree

        with mounted(made.snapshotter.view(chain)) as one, mounted(other.snapshotter.view(copied)) as two:
            assert {k: v for k, v in tree(one).items() if v[0] == 0o10} == {
                k: v for k, v in tree(two).items() if v[0] == 0o10
            }


def test_a_stream_that_is_given_up_leaves_nothing(made: Stores) -> None:
    archive = pack(member("large", content=os.urandom(8 << 20)))
    (chain_id,) = rebuilt(made, archive)

    async def give_up() -> None:
        stream = made.snapshotter.archive(chain_id)
        assert await anext(stream)
        await stream.aclose()

    before = sorted(os.listdir("/proc/self/fd"))
    asyncio.run(give_up())
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert made.jobs.running == {}


def test_a_layer_that_is_being_read_stays(made: Stores) -> None:
    archive = pack(*(member(f"f{n}", content=os.urandom(200_000)) for n in range(40)))
    (chain_id,) = rebuilt(made, archive)
    made.snapshotter.needed = lambda chain_id: False

    async def read() -> bytes:
        out = b""
        async for piece in made.snapshotter.archive(chain_id):
            made.snapshotter.release_layer(chain_id)
            made.trash.drain()
            out += piece
        return out

    assert asyncio.run(read()) == archive
    assert not made.snapshotter.has_layer(chain_id)


def test_a_snapshot_that_is_removed_while_it_is_read_stays_until_the_end(made: Stores) -> None:
    archive = pack(*(member(f"f{n}", content=os.urandom(200_000)) for n in range(40)))
    chain = rebuilt(made, archive)
    key = "e" * 64
    asyncio.run(made.snapshotter.prepare(key, chain))
    made.snapshotter.needed = lambda chain_id: False

    async def read() -> bytes:
        out = b""
        async for piece in made.snapshotter.export(key):
            made.snapshotter.remove(key)
            made.trash.drain()
            out += piece
        return out

    with tarfile.open(fileobj=io.BytesIO(asyncio.run(read()))) as tar:
        assert {f"f{n}" for n in range(40)} <= set(tar.getnames())
    assert made.trash.drain()
    folder = Path(made.root) / "snapshots" / ("vfs" if made.snapshotter.name == "vfs" else "overlay")
    assert [name for name in os.listdir(folder) if name != "mount-points"] == []
    assert not made.snapshotter.exists(key) and not made.snapshotter.has_layer(chain[-1])


def test_digests_agree(made: Stores) -> None:
    archive = pack(member("f", content=b"x"))
    (chain_id,) = rebuilt(made, archive)
    assert chain_id == digest_of(archive)
