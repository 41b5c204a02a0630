"""Layers at random: unpacked as GNU tar unpacks them, and the same whether overlaid by the kernel or merged by us."""

import asyncio
import os
import random
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.stores import mounted, stores, tree
from support.tars import device, directory, link, member, pack, symlink

pytestmark = pytest.mark.root

NAMES = ["a", "b", "c", "dir", "ü", "with space", "..x"]
Member = tuple[tarfile.TarInfo, bytes]


def somewhere(dice: random.Random, depth: int = 3) -> str:
    return "/".join(dice.choice(NAMES) for _ in range(dice.randint(1, depth)))


def looks(dice: random.Random) -> dict[str, Any]:
    return {
        "mode": dice.choice([0o644, 0o4755, 0o2711, 0o1777, 0o600, 0o000]),
        "uid": dice.choice([0, 1, 1000, 70_000]),
        "gid": dice.choice([0, 5, 100_000]),
        "mtime": dice.choice([0, 1, 1_700_000_000, 1_600_000_000]),
    }


def plain(dice: random.Random, count: int) -> list[Member]:
    """Members as a file system can hold them at once: no name twice, parents before children."""
    made: dict[str, str] = {}
    members: list[Member] = []
    for _ in range(count):
        path = somewhere(dice)
        parents = [path.rsplit("/", n)[0] for n in range(path.count("/"), 0, -1)]
        if path in made or any(made.get(parent, "d") != "d" for parent in parents):
            continue
        for parent in parents:
            if parent not in made:
                made[parent] = "d"
                members.append(directory(parent, **(looks(dice) | {"mode": 0o750})))
        kind = dice.choice("fffddslnp")
        files = [name for name, what in made.items() if what == "f"]
        if kind == "l" and not files:
            continue
        made[path] = kind
        if kind == "f":
            members.append(
                member(path, content=dice.randbytes(dice.choice([0, 1, 511, 512, 513, 70_000])), **looks(dice))
            )
        elif kind == "d":
            # No set-group-ID bit: what is made below inherits it, and GNU tar leaves it there.
            members.append(directory(path, **(looks(dice) | {"mode": dice.choice([0o1777, 0o700, 0o000])})))
        elif kind == "s":
            members.append(symlink(path, dice.choice(["a", "/etc/passwd", "../../x", "nowhere"]), **looks(dice)))
        elif kind == "l":
            members.append(link(path, dice.choice(files)))
        elif kind == "n":
            members.append(device(path, 1, dice.choice([3, 5, 7]), **looks(dice)))
        else:
            members.append(member(path, tarfile.FIFOTYPE, **looks(dice)))
    return members


def whole(path: str) -> dict[str, Any]:
    """`tree` with times, and who shares an inode with whom."""
    found = tree(path)
    inodes: dict[int, str] = {}
    for name in sorted(found):
        status = os.lstat(f"{path}/{name}")
        first = inodes.setdefault(status.st_ino, name) if status.st_nlink > 1 and found[name][0] == 0o10 else name
        # GNU tar gives a directory its time when it leaves it, and takes no notice when it comes back.
        time = status.st_mtime_ns if found[name][0] != 0o4 else 0
        found[name] = (*found[name], time, first)
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_as_gnu_tar_unpacks_it(tmp_path: Path, seed: int, format: int) -> None:
    archive = pack(*plain(random.Random(seed), 120), format=format)
    subprocess.run(["tar", "-xpf", "-", "--same-owner", "-C", tmp_path], input=archive, check=True)
    with stores() as made:
        unpacked = asyncio.run(made.unpack(archive))
        assert whole(f"{unpacked.path}/fs") == whole(str(tmp_path))


def hostile(dice: random.Random, count: int) -> list[Member]:
    """Members in any order, names twice, deletions between them, directories that are only implied."""
    members: list[Member] = []
    for _ in range(count):
        path = somewhere(dice)
        kind = dice.choice("ffffddswwoi")
        head, _, name = path.rpartition("/")
        prefix = f"{head}/" if head else ""
        if kind == "f":
            members.append(member(path, content=dice.randbytes(10), **looks(dice)))
        elif kind == "d":
            members.append(directory(path, **looks(dice)))
        elif kind == "s":
            members.append(symlink(path, "nowhere/at/all", **looks(dice)))
        elif kind == "w":
            members.append(member(f"{prefix}.wh.{name}"))
        elif kind == "o" and head:
            members.append(member(f"{prefix}.wh..wh..opq"))
    return members


@pytest.mark.parametrize("seed", range(60))
def test_overlay_and_vfs_agree(seed: int) -> None:
    """The kernel's overlay is the judge of what our merging makes of deletions."""
    dice = random.Random(seed)
    archives = [pack(*hostile(dice, 40)) for _ in range(4)]
    shown = []
    for driver in ("overlay", "vfs"):
        with stores(driver) as made:
            chain = asyncio.run(made.layers(*archives))
            with mounted(made.snapshotter.view(chain)) as path:
                # Without directories: one that only a deletion implies is there in one and not in the other.
                shown.append({name: entry for name, entry in tree(path).items() if entry[0] != 0o4})
    assert shown[0] == shown[1]
