"""Unpacking layers on a real kernel: what a layer becomes, and archives that attack."""

import asyncio
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tars
from support.stores import Stores, mounted, stores, tree
from support.tars import device, directory, link, member, pack, symlink

from boxwright.errdefs import Error, InvalidParameter
from boxwright.storage.content import digest_of

pytestmark = pytest.mark.root


@pytest.fixture
def made() -> Iterator[Stores]:
    with stores() as found:
        yield found


def unpack(made: Stores, archive: bytes) -> str:
    """The directory that the archive became."""
    unpacked = asyncio.run(made.unpack(archive))
    assert unpacked.diff_id == digest_of(archive)
    return f"{unpacked.path}/fs"


def test_everything_an_image_may_hold(made: Stores) -> None:
    path = unpack(
        made,
        pack(
            directory("./", mode=0o750, uid=1, gid=2),
            directory("tmp", mode=0o1777),
            member("bin/su", content=b"su", mode=0o4755, uid=0, gid=50),
            link("bin/su2", "bin/su"),
            link("bin/abs", "/bin/su"),
            symlink("link", "/etc/passwd", uid=7, gid=8),
            device("dev/null", 1, 3, mode=0o666),
            device("dev/loop", 7, 1, tarfile.BLKTYPE, gid=6),
            member("dev/pipe", tarfile.FIFOTYPE, mode=0o600),
            member("x", content=b"x", pax_headers={"SCHILY.xattr.user.note": "hello"}, mtime=1_600_000_000),
            directory("old", mtime=1_500_000_000),
            member("old/inside", content=b"y"),
        ),
    )
    status = os.stat(path)
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o750, 1, 2)
    found = tree(path)
    assert found["tmp"][1] == 0o1777
    assert found["bin/su"] == (0o10, 0o4755, 0, 50, b"su")
    assert os.stat(f"{path}/bin/su").st_nlink == 3
    assert os.stat(f"{path}/bin/abs").st_ino == os.stat(f"{path}/bin/su2").st_ino
    assert found["link"][2:] == (7, 8, "/etc/passwd")
    assert found["dev/null"] == (0o2, 0o666, 0, 0, os.makedev(1, 3))
    assert found["dev/loop"] == (0o6, 0o644, 0, 6, os.makedev(7, 1))
    assert found["dev/pipe"][:2] == (0o1, 0o600)
    assert os.getxattr(f"{path}/x", "user.note") == b"hello"
    assert os.stat(f"{path}/x").st_mtime == 1_600_000_000
    assert os.stat(f"{path}/old").st_mtime == 1_500_000_000
    assert found["bin"][1] == 0o755  # implied


def test_file_capabilities_and_no_other_attribute_of_the_kernel(made: Stores) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    records = b"".join(
        tars.record(f"SCHILY.xattr.{name}", value)
        for name, value in (
            ("security.capability", capability),
            ("security.selinux", b"x"),
            ("trusted.overlay.redirect", b"/etc"),
            ("trusted.overlay.opaque", b"y"),
            ("trusted.x", b"y"),
            ("user.overlay.opaque", b"y"),
            ("user.kept", b"y"),
        )
    )
    path = unpack(
        made,
        tars.extension(b"x", records)
        + tars.header(b"f")
        + tars.extension(b"x", records)
        + tars.header(b"d", kind=b"5"),
    )
    assert set(os.listxattr(f"{path}/f")) == {"security.capability", "user.kept"}
    assert os.getxattr(f"{path}/f", "security.capability") == capability
    assert set(os.listxattr(f"{path}/d")) <= {"security.capability", "user.kept"}


def test_sparse_files_stay_sparse(made: Stores, tmp_path: Path) -> None:
    with open(tmp_path / "s", "wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
        file.truncate(1 << 30)
    packing = ["tar", "-C", tmp_path, "--format=pax", "-S", "-cf", "-", "s"]
    archive = subprocess.run(packing, stdout=subprocess.PIPE, check=True).stdout
    assert len(archive) < 100_000
    status = os.stat(f"{unpack(made, archive)}/s")
    assert status.st_size == 1 << 30 and status.st_blocks * 512 < 1 << 20


def test_the_last_member_of_a_name_counts(made: Stores) -> None:
    path = unpack(
        made,
        pack(
            member("a", content=b"1"), member("a", content=b"22"),
            directory("b"), member("b/in", content=b"x"), member("b", content=b"now a file"),
            member("c", content=b"x"), directory("c"), member("c/in", content=b"y"),
            symlink("d", "a"), member("d", content=b"not through the link"),
            member("e", content=b"x"), symlink("e", "/nowhere"),
            directory("f", mode=0o700), directory("f", mode=0o711),
            directory("g"), member("g/in", content=b"kept"), directory("g", mode=0o701),
            member("h", content=b"x"), device("h", 1, 5),
        ),
    )  # fmt: skip
    found = tree(path)
    assert found["a"][4] == b"22"
    assert found["b"][4] == b"now a file"
    assert found["c/in"][4] == b"y"
    assert found["d"][4] == b"not through the link"
    assert found["e"][4] == "/nowhere"
    assert found["f"][1] == 0o711
    assert found["g/in"][4] == b"kept" and found["g"][1] == 0o701
    assert found["h"][0] == 0o2


def test_links_of_the_archive_lead_inside_only(made: Stores) -> None:
    """`lib -> usr/lib` is followed, and so is an absolute link: to the root of the layer."""
    outside = os.path.join(made.root, "outside")
    os.mkdir(outside)
    path = unpack(
        made,
        pack(
            directory("usr"), directory("usr/lib"), symlink("lib", "usr/lib"), member("lib/a", content=b"a"),
            symlink("abs", "/usr/lib"), member("abs/b", content=b"b"),
            symlink("up", "../../../../../../usr/lib"), member("up/c", content=b"c"),
            symlink("host", outside), member("host/evil", content=b"evil"),
            symlink("etc", "/proc/self/cwd"), member("etc/evil", content=b"evil"),
        ),
    )  # fmt: skip
    assert sorted(os.listdir(f"{path}/usr/lib")) == ["a", "b", "c"]
    assert os.listdir(outside) == []
    # A link that leads nowhere inside gave way to a directory.
    assert os.path.isdir(f"{path}/host") and not os.path.islink(f"{path}/host")


def test_a_link_that_takes_a_directorys_place_is_seen_at_once(made: Stores) -> None:
    """Directories that were open must not serve a path that now leads elsewhere."""
    path = unpack(
        made,
        pack(
            directory("real"), directory("real/d"), symlink("alias", "real"), member("alias/d/one", content=b"1"),
            symlink("alias", "other"), directory("other"), directory("other/d"), member("alias/d/two", content=b"2"),
            directory("x"), directory("x/y"), member("x/y/one", content=b"1"), symlink("x", "real"),
            member("x/d/three", content=b"3"),
        ),
    )  # fmt: skip
    found = tree(path)
    assert "real/d/one" in found and "other/d/two" in found and "real/d/three" in found
    assert "real/d/two" not in found and found["x"][0] == 0o12


HOSTILE = {
    "leads out": pack(member("../evil", content=b"x")),
    "leads out deeper": pack(member("a/../../evil", content=b"x")),
    "hard link to the host": pack(link("shadow", "../../../../etc/shadow")),
    "hard link to what is not there": pack(link("a", "etc/passwd")),
    "hard link to itself": pack(link("a", "a")),
    "hard link to a directory": pack(directory("d"), link("l", "d")),
    "hard link through a link to the host": pack(symlink("l", "/etc"), link("a", "l/shadow")),
    "hard link to the root": pack(link("a", "/")),
    "whiteout of nothing": pack(member(".wh.")),
    "whiteout of .": pack(member("d/.wh..")),
    "whiteout of ..": pack(member("d/.wh...")),
    "file at the root": pack(member(".", content=b"x")),
    "link at the root": pack(symlink("/", "/etc")),
    "a component of 300": pack(member("x" * 300, content=b"x")),
    "links in a circle": pack(symlink("a", "b"), symlink("b", "a"), member("a/x", content=b"x")),
    "unknown kind": pack(member("x", b"V")),
    "owner that chown takes for none": tars.header(uid=b"\x80\0\0\0\xff\xff\xff\xff"),
    "cut short": tars.header(size=b"00000001000") + b"x",
    "size of an exabyte": tars.header(size=b"\x80\0\0\0\x10" + bytes(7)),
    "sparse file of an exabyte": tars.extension(
        b"x", tars.record("GNU.sparse.map", b"1152921504606846976,1") + tars.record("GNU.sparse.size", b"1152921504606846977")
    )
    + tars.header(size=b"00000000001")
    + bytes(512),
    "noise": bytes(range(256)) * 20,
    "gzip of noise": b"\x1f\x8b\x08\0\0\0\0\0" + bytes(range(256)) * 20,
    "zstd of noise": b"\x28\xb5\x2f\xfd" + bytes(range(256)) * 20,
    "xz of noise": b"\xfd7zXZ\0" + bytes(range(256)) * 20,
    "too deep": pack(member("/".join(["d"] * 1500), content=b"x")),
}  # fmt: skip


@pytest.mark.parametrize("arriving", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("attack", HOSTILE)
def test_attacks_fail_with_a_clear_error_and_leave_nothing(made: Stores, attack: str, arriving: bool) -> None:
    before = made.files()
    unpack = made.unpack_arriving if arriving else made.unpack
    with pytest.raises(Error) as caught:
        asyncio.run(unpack(HOSTILE[attack]))
    assert str(caught.value) and "Traceback" not in str(caught.value) and "died" not in str(caught.value)
    assert made.trash.drain()
    assert made.files() == before


def test_a_deep_tree_is_deleted(made: Stores) -> None:
    """Deeper than the stack and the descriptors of who deletes it."""
    members = [directory("/".join(["d"] * depth)) for depth in range(1, 400, 7)]
    unpacked = asyncio.run(made.unpack(pack(*members)))
    path = f"{unpacked.path}/fs"
    # And deeper than any path: as a container would make it.
    fd = os.open(path, os.O_RDONLY)
    for _ in range(3000):
        try:
            os.mkdir("deep", dir_fd=fd)
        except FileExistsError:
            pass
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    made.snapshotter.discard(unpacked)
    assert made.trash.drain()
    assert os.listdir(f"{made.root}/tmp") == []


def test_whiteouts_in_any_order(made: Stores) -> None:
    base = pack(
        *(member(f"{name}/old", content=b"old") for name in ("gone", "emptied", "replaced", "late", "opaque")),
        member("file", content=b"old"), member("file2", content=b"old"), member("kept", content=b"kept"),
    )  # fmt: skip
    top = pack(
        member(".wh.gone"),
        directory("emptied"), member("emptied/.wh..wh..opq"),
        member(".wh.replaced"), member("replaced/new", content=b"new"),
        directory("late"), member("late/new", content=b"new"), member(".wh.late"),
        member("opaque/new", content=b"new"), member("opaque/.wh..wh..opq"),
        member(".wh.file"),
        member("file2", content=b"new"), member(".wh.file2"),
        member(".wh..wh.plnk/x", content=b"AUFS's own"),
        member(".wh.never-was"),
    )  # fmt: skip
    for driver in ("overlay", "vfs"):
        with stores(driver) as made:
            chain = asyncio.run(made.layers(base, top))
            with mounted(made.snapshotter.view(chain)) as path:
                found = {name: entry[4] for name, entry in tree(path).items() if entry[0] == 0o10}
            assert found == {
                "replaced/new": b"new", "late/new": b"new", "opaque/new": b"new", "file2": b"new", "kept": b"kept",
            }, driver  # fmt: skip


def test_deletions_of_what_is_not_there_are_not_seen(made: Stores) -> None:
    """The kernel lists a directory that it has nothing to merge with as it is, deletions included."""
    base = pack(directory("d"), member("d/f"), member("d/.wh.nothing"), member(".wh.nothing"), device("d/zero", 0, 0))
    top = pack(
        directory("new"), member("new/f"), member("new/.wh.nothing"), member("new/deep/.wh.nothing"),
        directory("d"), member("d/.wh..wh..opq"), member("d/.wh.f"), member("d/g"), member("d/below/.wh.nothing"),
    )  # fmt: skip
    chain = asyncio.run(made.layers(base, top))
    for length, expected in ((1, {"d", "d/f"}), (2, {"d", "d/g", "d/below", "new", "new/f", "new/deep"})):
        with mounted(made.snapshotter.view(chain[:length])) as path:
            seen = set()
            for folder, names, files in os.walk(path):
                seen |= {os.path.relpath(f"{folder}/{name}", path) for name in (*names, *files)}
        assert seen == expected


def test_implied_directories_keep_their_looks(made: Stores) -> None:
    base = pack(directory("tmp", mode=0o1777), directory("home/me", mode=0o700, uid=1000, gid=1001))
    top = pack(member("tmp/file", content=b"x"), member("home/me/file", content=b"x"), member("new/dir/file"))
    chain = asyncio.run(made.layers(base, top))
    with mounted(made.snapshotter.view(chain)) as path:
        found = tree(path)
    assert found["tmp"][1] == 0o1777
    assert found["home/me"][1:4] == (0o700, 1000, 1001)
    assert found["new/dir"][1] == 0o755


@pytest.mark.parametrize("compress", ["gzip -c", "zstd -qc", "bzip2 -c", "xz -c"])
def test_compressed_layers(made: Stores, tmp_path: Path, compress: str) -> None:
    archive = pack(*(member(f"f{i}", content=os.urandom(50_000)) for i in range(20)))
    (tmp_path / "a").write_bytes(archive)
    packed = subprocess.run([*compress.split(), tmp_path / "a"], stdout=subprocess.PIPE, check=True).stdout
    unpacked = asyncio.run(made.unpack(packed))
    assert unpacked.diff_id == digest_of(archive)
    assert len(os.listdir(f"{unpacked.path}/fs")) == 20
    with pytest.raises(InvalidParameter):
        asyncio.run(made.unpack(packed[: len(packed) // 2]))


@pytest.mark.parametrize("compress", ["cat", "gzip -c", "zstd -qc", "bzip2 -c", "xz -c"])
def test_layers_that_are_still_coming(made: Stores, tmp_path: Path, compress: str) -> None:
    archive = pack(*(member(f"f{i}", content=os.urandom(50_000)) for i in range(20)))
    (tmp_path / "a").write_bytes(archive)
    packed = subprocess.run([*compress.split(), tmp_path / "a"], stdout=subprocess.PIPE, check=True).stdout
    for step in (1, 5, 100_000):
        unpacked = asyncio.run(made.unpack_arriving(packed, step))
        assert unpacked.diff_id == digest_of(archive)
        assert len(os.listdir(f"{unpacked.path}/fs")) == 20
    for damaged in (packed[: len(packed) // 2], packed[:3]):
        with pytest.raises(InvalidParameter):
            asyncio.run(made.unpack_arriving(damaged, 2))


def test_a_job_that_nobody_awaits_is_killed(made: Stores) -> None:
    """The engine's death, or a client's, ends the job, wherever it is."""
    archive = pack(*(member(f"d{i % 100}/f{i}", content=b"x" * 2000) for i in range(20_000)))

    async def cancelled() -> None:
        task = asyncio.ensure_future(made.unpack(archive))
        deadline = time.monotonic() + 20
        while not made.jobs.running:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        pid = next(iter(made.jobs.running))
        made.jobs.hang_up(pid)
        with pytest.raises(Error):
            await task
        assert not os.path.exists(f"/proc/{pid}")

    asyncio.run(cancelled())
    assert made.trash.drain()
    assert os.listdir(f"{made.root}/tmp") == []
