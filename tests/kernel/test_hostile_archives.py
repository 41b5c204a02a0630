"""A corpus of hostile layers: each is refused with a clear error and no residue, or unpacked with nothing outside.

REFUSED archives cannot be right.  CONTAINED ones are what honest readers accept too: what they aim at must not happen.
Both drivers read all of them; what is accepted is also made again from its record, because that is hostile, too.
"""

import asyncio
import bz2
import gzip
import hashlib
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.stores import Stores, stores
from support.tars import END, device, directory, extension, header, link, member, pack, record, symlink

from boxwright.errdefs import Error

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

EVIL = b"evil"


def evil(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, content=EVIL)


def pax(records: bytes, block: bytes = b"", data: bytes = b"") -> bytes:
    return extension(b"x", records) + (block or header()) + data + END


def sized(size: bytes, data: bytes = b"") -> bytes:
    return header(size=size) + data


MANY = b"".join(b"%d,1," % (2 * n) for n in range(70_000))[:-1]
REFUSED: dict[str, bytes] = {
    # Names that lead out
    "..": pack(evil("..")),
    "../evil": pack(evil("../evil")),
    "a/../../evil": pack(evil("a/../../evil")),
    "./../evil": pack(evil("./../evil")),
    "many ..": pack(evil("../" * 50 + "tmp/evil")),
    ".. in a long name": pack(evil("x/" * 60 + "../" * 61 + "evil"), format=tarfile.GNU_FORMAT),
    ".. in a pax path": pax(record("path", b"../../evil")),
    ".. in a ustar prefix": header(b"evil", magic=b"ustar\x0000", tail=bytes(80) + b"../..") + END,
    "a directory ..": pack(directory("../dir")),
    "a link ..": pack(symlink("../link", "/etc")),
    "a device ..": pack(device("../null", 1, 3)),
    "a whiteout ..": pack(member("../.wh.etc")),
    "an opaque mark ..": pack(member("../.wh..wh..opq")),
    # Hard links
    "hard link to the host's shadow": pack(link("a", "../../../../../../etc/shadow")),
    "hard link to an absolute path": pack(link("a", "/etc/shadow")),
    "hard link by a link to /etc": pack(symlink("way", "/etc"), link("a", "way/shadow")),
    "hard link by a link to /proc": pack(symlink("way", "/proc/self/root"), link("a", "way/etc/shadow")),
    "hard link to nothing": pack(link("a", "b")),
    "hard link to itself": pack(member("a"), link("a", "a")),
    "hard link to the root": pack(link("a", ".")),
    "hard link to a directory": pack(directory("d"), link("a", "d")),
    "hard link without a target": pack(link("a", "")),
    "hard link out of a pax linkpath": pax(record("linkpath", b"../../etc/shadow"), header(b"a", kind=b"1")),
    # Whiteouts
    "whiteout of nothing": pack(member("d/.wh.")),
    "whiteout of .": pack(member("d/.wh..")),
    "whiteout of ..": pack(member("d/.wh...")),
    # The root
    "the root as a file": pack(evil(".")),
    "the root as a file, absolute": pack(evil("/")),
    "the root as a link": pack(symlink(".", "/etc")),
    "the root as a device": pack(device("./", 8, 0, tarfile.BLKTYPE)),
    "the root as a FIFO": pack(member("/", tarfile.FIFOTYPE)),
    # Names that are too long or none
    "a component of 256": pack(evil("x" * 256)),
    "a name of 5,000": pack(evil("/".join(["x" * 200] * 25))),
    "a link of 5,000": pack(symlink("a", "x" * 5000)),
    "too deep": pack(evil("/".join(["d"] * 1000))),
    "links in a circle": pack(symlink("a", "b"), symlink("b", "c"), symlink("c", "a"), evil("a/x")),
    "a link to itself": pack(symlink("a", "a"), evil("a/x")),
    "a NUL in a pax path": pax(record("path", b"good\0/../evil")),
    # Numbers
    "a size of letters": sized(b"0000000zzzz") + END,
    "a negative size": sized(b"\xff" * 12) + END,
    "a size with a sign": sized(b"-0000000001") + END,
    "a size of an exabyte": sized(b"\x80\0\0\0\x10" + bytes(7)) + bytes(512),
    "a size in pax of 2^64": pax(record("size", b"18446744073709551616")),
    "a size in pax of letters": pax(record("size", b"0x10")),
    "a size in pax with a sign": pax(record("size", b"-1")),
    "a size that is not there": sized(b"00000001000", b"x" * 100),
    "an owner of -1": header(uid=b"\x80\0\0\0\xff\xff\xff\xff") + END,
    "a group of -1": header(gid=b"\x80\0\0\0\xff\xff\xff\xff") + END,
    "an owner in pax of -1": pax(record("uid", b"4294967295")),
    "an owner in pax of 2^40": pax(record("uid", b"1099511627776")),
    "a negative owner": header(uid=b"\xff" * 8) + END,
    "a time of letters": pax(record("mtime", b"now")),
    "a time of many digits": pax(record("mtime", b"9" * 5000)),
    "a device out of range": header(b"d", kind=b"3", tail=bytes(64) + b"7777777\x000000001\0") + END,
    "a checksum of another": header(checksum=b"0000000\0") + END,
    "a checksum of letters": header(checksum=b"garbage!") + END,
    # Extensions
    "an extension of a gigabyte": header(b"././@x", kind=b"x", size=b"10000000000") + bytes(2048),
    "a long name of a gigabyte": header(b"././@x", kind=b"L", size=b"10000000000") + bytes(2048),
    "an extension that is cut": header(b"././@x", kind=b"x", size=b"00000002000") + b"20 path=",
    "a record without its length": pax(b"path=a\n"),
    "a record longer than all": pax(b"999 path=a\n"),
    "a record of no length": pax(b"0 path=a\n"),
    "a record with a negative length": pax(b"-5 path=a\n"),
    "a record without an end": pax(b"9 path=ab"),
    "a record without a key": pax(record("", b"x")),
    "a record without =": pax(b"9 pathab\n"),
    "an unknown kind": pack(member("x", b"V")),
    "a kind of a letter": header(kind=b"Z") + END,
    # Sparse files
    "sparse of an exabyte": pax(
        record("GNU.sparse.map", b"1152921504606846976,1") + record("GNU.sparse.size", b"1152921504606846977"),
        header(size=b"00000000001"), bytes(512),
    ),
    "sparse that goes backwards": pax(
        record("GNU.sparse.map", b"10,1,5,1") + record("GNU.sparse.size", b"20"), header(size=b"00000000002"), bytes(512)
    ),
    "sparse that overlaps": pax(
        record("GNU.sparse.map", b"0,5,3,5") + record("GNU.sparse.size", b"20"), header(size=b"00000000012"), bytes(512)
    ),
    "sparse with an odd map": pax(record("GNU.sparse.map", b"0,5,3") + record("GNU.sparse.size", b"9")),
    "sparse of 70,000 ranges": pax(
        record("GNU.sparse.map", MANY) + record("GNU.sparse.size", b"999999999"), header(size=b"00000210560")
    ),
    "sparse beyond its end": pax(
        record("GNU.sparse.map", b"100,5") + record("GNU.sparse.size", b"50"), header(size=b"00000000005"), bytes(512)
    ),
    "sparse of more than there is": pax(
        record("GNU.sparse.map", b"0,99") + record("GNU.sparse.size", b"99"), header(size=b"00000000005"), bytes(512)
    ),
    "a sparse map without an end": pax(
        record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") + record("GNU.sparse.realsize", b"9"),
        header(size=b"00000001000"), b"1" * 512,
    ),
    "sparse with .. for a name": pax(
        record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0") + record("GNU.sparse.realsize", b"0")
        + record("GNU.sparse.name", b"../evil"), header(size=b"00000001000"), b"0\n" + bytes(510),
    ),
    # Compression
    "gzip that is cut": gzip.compress(pack(evil("a")))[:-20],
    "gzip with another checksum": gzip.compress(pack(evil("a")))[:-8] + bytes(8),
    "gzip of noise": b"\x1f\x8b\x08\0\0\0\0\0" + bytes(range(256)) * 20,
    "zstd that is cut": zstandard.compress(pack(evil("a")))[:-5],
    "zstd of noise": b"\x28\xb5\x2f\xfd" + bytes(range(256)) * 20,
    "zstd with a window of 2 GiB": b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(range(256)),
    "bzip2 that is cut": bz2.compress(pack(evil("a")))[:-5],
    "xz that is cut": lzma.compress(pack(evil("a")))[:-5],
    "xz with another checksum": lzma.compress(pack(evil("a")))[:-40] + bytes(40),
    "gzip in gzip": gzip.compress(gzip.compress(pack(evil("a")))),
    "noise": bytes(range(256)) * 20,
    "text": b"#!/bin/sh\nrm -rf /\n" * 40,
}  # fmt: skip

CONTAINED: dict[str, bytes] = {
    "an absolute name": pack(evil("/tmp/evil")),
    "slashes and dots": pack(evil("////./a/.//./b")),
    ".. that stays inside": pack(evil("a/b/../../c")),
    "a link to the host, written through": pack(symlink("host", "/etc"), evil("host/evil")),
    "a link up, written through": pack(symlink("up", "../../../../../tmp"), evil("up/evil")),
    "a link to /proc, written through": pack(symlink("p", "/proc/self/cwd"), evil("p/evil")),
    "a link to the job's descriptors": pack(symlink("p", "/proc/self/fd/3"), evil("p/evil")),
    "a chain of links": pack(*(symlink(f"l{n}", f"l{n + 1}") for n in range(30)), symlink("l30", "/etc"), evil("l0/evil")),
    "a link swapped for a directory": pack(directory("d"), evil("d/a"), symlink("d", "/etc"), evil("d/evil")),
    "a directory swapped for a link and back": pack(symlink("d", "/etc"), directory("d"), evil("d/evil")),
    "a file through its own link": pack(symlink("f", "/etc/evil"), evil("f")),
    "a link named as a file below": pack(symlink("a", "/"), symlink("a/b", "/etc"), evil("a/b/evil")),
    "set-id files": pack(member("su", content=EVIL, mode=0o6755)),
    "device nodes of the host": pack(device("sda", 8, 0, tarfile.BLKTYPE), device("mem", 1, 1)),
    "a device written through": pack(device("full", 1, 7), evil("full")),
    "a FIFO written to": pack(member("f", tarfile.FIFOTYPE), evil("f")),
    "overlay's own attributes": pax(
        record("SCHILY.xattr.trusted.overlay.redirect", b"/etc") + record("SCHILY.xattr.trusted.overlay.metacopy", b"")
    ),
    "attributes of the kernel": pax(record("SCHILY.xattr.security.selinux", b"x") + record("SCHILY.xattr.system.x", b"y")),
    "a capability that is none": pax(record("SCHILY.xattr.user.x", b"\0" * 1000)),
    "a whiteout of everything": pack(member(".wh..wh..opq")),
    "whiteouts by a link": pack(symlink("w", "/"), member("w/.wh.etc"), member("w/tmp/.wh..wh..opq")),
    "a directory called .wh.": pack(directory("d/.wh.x"), evil("d/.wh.x/y")),
    "AUFS's own": pack(member(".wh..wh.plnk/1", content=EVIL), member(".wh..wh.orph", content=EVIL)),
    "a thousand names of one": pack(*(member("same", content=EVIL * n) for n in range(300))),
    "a hard link to a link to the host": pack(symlink("a", "/etc/shadow"), link("b", "a")),
    "times before and after all": pax(record("mtime", b"-99999999999"), header(b"a")) + pax(record("mtime", b"99999999999")),
    "modes with everything": pack(member("a", mode=0o177777, content=EVIL)),
    "newlines and escapes in names": pack(evil("a\n\x1b[2J\t\r"), symlink("b", "\n\x7f")),
    "names that are not UTF-8": header(b"\xff\xfe\xfd") + END,
    "behind the end": pack(evil("a")) + pack(evil("../../b")),
    "zeroes without an end": pack(evil("a")) + bytes(1 << 20),
    "gzip of many members": b"".join(gzip.compress(part) for part in (pack(evil("a"))[:700], pack(evil("a"))[700:])),
    "a bomb of zeroes": gzip.compress(header(b"zero", size=b"01000000000") + bytes(1 << 27) + END),
    "a global header": extension(b"g", record("path", b"../evil")) + header(b"a") + END,
    "nothing": b"",
}  # fmt: skip


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with stores(request.param) as found:
        found.snapshotter.needed = lambda chain_id: True
        yield found


def outside() -> dict[str, tuple[int, int]]:
    """What the archives aim at: names of the host's directories that they write to, and the files that they open."""
    found = {}
    for place in ("/", "/etc", "/tmp"):
        for name in os.listdir(place):
            if "evil" in name or name in ("b", "link"):
                found[f"{place}/{name}"] = (0, 0)
    for path in ("/etc/shadow", "/etc/passwd"):
        status = os.stat(path)
        found[path] = (status.st_nlink, status.st_mtime_ns)
    return found


def test_the_corpus_is_large_enough() -> None:
    assert len(REFUSED) + len(CONTAINED) >= 80


@pytest.mark.parametrize("attack", REFUSED)
def test_refused(made: Stores, attack: str) -> None:
    before, host = made.files(), outside()
    with pytest.raises(Error) as caught:
        asyncio.run(made.layers(REFUSED[attack]))
    assert str(caught.value) and len(str(caught.value)) < 1000
    assert not any(word in str(caught.value) for word in ("Traceback", "died", "Error:"))
    assert made.trash.drain()
    assert made.files() == before
    assert outside() == host


@pytest.mark.parametrize("attack", CONTAINED)
def test_contained(made: Stores, attack: str) -> None:
    host = outside()
    base = asyncio.run(made.layers(pack(evil("etc/kept"), evil("tmp/kept"))))
    archive = CONTAINED[attack]
    unpacked = asyncio.run(made.unpack(archive, base[-1]))
    asyncio.run(made.snapshotter.complete(unpacked, base[-1]))
    made.snapshotter.commit_layer(unpacked, "sha256:" + "1" * 64, base[-1])
    assert outside() == host
    assert asyncio.run(digest(made, "sha256:" + "1" * 64)) == unpacked.diff_id
    root = Path(made.root)
    folder = root / "snapshots" / ("vfs" if made.snapshotter.name == "vfs" else "overlay")
    assert {path.name for path in root.iterdir() if not path.name.startswith("test.db")} <= {
        "snapshots",
        "content",
        "tmp",
        "volumes",
    }
    assert all(
        sorted(os.listdir(path)) == ["fs", "kept", "record"] for path in folder.iterdir() if path.name != "mount-points"
    )
    # The layer below is as it was: nothing was written through a link of the one above.
    ((name,),) = made.db.query("SELECT directory FROM layers WHERE chain_id = ?", (base[-1],))
    assert (folder / name / "fs/etc/kept").read_bytes() == EVIL
    assert sorted(os.listdir(folder / name / "fs/etc")) == ["kept"]


async def digest(made: Stores, chain_id: str) -> str:
    found = hashlib.sha256()
    async for piece in made.snapshotter.archive(chain_id):
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


SEEDS = [pack(evil("a"), directory("d"), link("b", "a"), symlink("c", "d")), *list(REFUSED.values())[:12],
         CONTAINED["overlay's own attributes"], CONTAINED["a global header"]]  # fmt: skip


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=4),
    st.booleans(),
)
def test_mutated(seed: bytes, edits: list[tuple[int, bytes]], mend: bool) -> None:
    """Bytes changed at random, with headers whose checksums are right again: an error or a layer, and nothing else."""
    data = bytearray(seed)
    for position, change in edits:
        position %= max(1, len(data))
        data[position : position + len(change)] = change[: len(data) - position]
    if mend:
        for start in range(0, len(data) - 511, 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    host = outside()
    with stores() as made:
        try:
            unpacked = asyncio.run(made.unpack(bytes(data)))
        except Error as error:
            assert "died" not in str(error) and "Traceback" not in str(error)
            assert made.trash.drain() and os.listdir(f"{made.root}/tmp") == []
        else:
            made.snapshotter.discard(unpacked)
    assert outside() == host
