"""What a container has changed, as a list and as a layer: the kernel's overlay made the changes, and judges the layer."""

import asyncio
import os
import random
import shutil
import stat
from collections.abc import Callable
from typing import Any

import pytest
from support.stores import Stores, mounted, stores, tree
from support.tars import device, directory, link, member, pack, symlink

from boxwright.errdefs import InvalidParameter
from boxwright.storage import differences

pytestmark = pytest.mark.root

KEY = "a1" * 32
BASE = pack(
    directory("a", mode=0o755), member("a/f", content=b"1"), member("a/g", content=b"2"), directory("a/deep"),
    member("a/deep/h", content=b"3"), directory("b"), member("b/x", content=b"4", mode=0o755), link("b/y", "b/x"),
    symlink("way", "a"), device("null", 1, 3), member("c", content=b"5"),
)  # fmt: skip
NAMES = ["a", "b", "c", "deep", "f", "g", "x", "new", "ü", "way"]


def operations(path: str, dice: random.Random, count: int) -> None:
    """Whatever programs do to files; what the kernel refuses is no change."""

    def somewhere() -> str:
        return os.path.join(path, *(dice.choice(NAMES) for _ in range(dice.randint(1, 3))))

    def write(place: str) -> None:
        how = dice.choice([os.O_TRUNC, os.O_APPEND])
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | how, 0o644)  # a FIFO has no reader
        os.write(fd, dice.randbytes(dice.choice([0, 1, 600])))
        os.close(fd)

    def remove(place: str) -> None:
        shutil.rmtree(place) if os.path.isdir(place) and not os.path.islink(place) else os.unlink(place)

    def again(place: str) -> None:
        remove(place)
        os.mkdir(place, 0o711)

    acts: list[Callable[[str], Any]] = [
        write, write, remove, again, lambda p: os.mkdir(p, dice.choice([0o755, 0o1777])), lambda p: os.symlink("a/f", p),
        lambda p: os.rename(p, somewhere()), lambda p: os.link(p, somewhere(), follow_symlinks=False),
        lambda p: os.lchown(p, 5, 6), lambda p: os.chmod(p, dice.choice([0o600, 0o4755])),
        lambda p: os.mkfifo(p), lambda p: os.truncate(p, 5), lambda p: os.setxattr(p, "user.note", b"x"),
    ]  # fmt: skip
    for _ in range(count):
        try:
            dice.choice(acts)(somewhere())
        except (OSError, shutil.Error):
            continue


def whole(path: str) -> dict[str, Any]:
    """`tree` with whole seconds and attributes; directories without times, which no archive of changes restores."""
    found = tree(path)
    for name, entry in found.items():
        full = f"{path}/{name}"
        time = int(os.lstat(full).st_mtime) if entry[0] != 0o4 else 0
        note = os.listxattr(full, follow_symlinks=False) if entry[0] in (0o10, 0o4) else []
        found[name] = (*entry, time, [name for name in note if name.startswith("user.")])
    return found


async def committed(made: Stores, chain: list[str]) -> list[str]:
    """The chain with a layer of the snapshot's changes on top."""
    from boxwright.storage.layers import chain_ids

    archive = b"".join([piece async for piece in made.snapshotter.diff(KEY)])
    unpacked = await made.unpack(archive, chain[-1])
    await made.snapshotter.complete(unpacked, chain[-1])
    diff_ids = [row[0] for row in made.db.query("SELECT diff_id FROM layers ORDER BY rowid")]
    longer = chain_ids([*diff_ids, unpacked.diff_id])
    made.snapshotter.commit_layer(unpacked, longer[-1], chain[-1])
    return longer


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
@pytest.mark.parametrize("seed", range(15))
def test_the_layer_of_the_changes_is_the_snapshot(driver: str, seed: int) -> None:
    with stores(driver) as made:
        made.snapshotter.needed = lambda chain_id: True
        chain = asyncio.run(made.layers(BASE))
        asyncio.run(made.snapshotter.prepare(KEY, chain))
        with mounted(made.snapshotter.mount(KEY)) as path:
            before = whole(path)
            operations(path, random.Random(seed), 60)
            after = whole(path)
        longer = asyncio.run(committed(made, chain))
        with mounted(made.snapshotter.view(longer)) as path:
            shown = whole(path)
        places = {name: entry for name, entry in after.items() if name not in shown and _place(name, entry)}
        assert shown == {name: entry for name, entry in after.items() if name not in places}
        listed = {path[1:]: kind for kind, path in asyncio.run(made.snapshotter.changes(KEY))}
        assert {name for name, kind in listed.items() if kind == 1} == set(after) - set(before) - set(places)
        # Only what was removed itself is named, not what was in it.
        removed = {name for name in set(before) - set(after) if os.path.dirname(name) not in set(before) - set(after)}
        replaced = {name for name in removed if after.get(os.path.dirname(name), (0o4,))[0] != 0o4}
        assert {name for name, kind in listed.items() if kind == 2} == removed - replaced
        changed = {name for name in set(before) & set(after) if before[name][:4] != after[name][:4]}
        assert changed <= {name for name, kind in listed.items() if kind == 0}


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_what_is_written_in_the_second_that_a_layer_tells(driver: str) -> None:
    """A layer keeps whole seconds: a file of the same size, written a moment later, is read."""
    second = 1_700_000_000
    base = pack(*(member(name, content=b"old", mtime=second) for name in ("changed", "again", "left")))
    with stores(driver) as made:
        asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(base))))
        with mounted(made.snapshotter.mount(KEY)) as path:
            for name, content in (("changed", "new"), ("again", "old")):
                with open(f"{path}/{name}", "w") as file:
                    file.write(content)
                os.utime(f"{path}/{name}", ns=(second * 10**9 + 5,) * 2)
        assert asyncio.run(made.snapshotter.changes(KEY)) == [(0, "/changed")]


def _place(name: str, entry: tuple[Any, ...]) -> bool:
    """A place to mount on, which every container has and no layer of changes."""
    return name.split("/")[0] in ("dev", "proc", "sys", "etc", ".dockerenv")


def test_a_sparse_file_stays_sparse() -> None:
    with stores() as made:
        made.snapshotter.needed = lambda chain_id: True
        chain = asyncio.run(made.layers(BASE))
        asyncio.run(made.snapshotter.prepare(KEY, chain))
        with mounted(made.snapshotter.mount(KEY)) as path:
            with open(f"{path}/sparse", "wb") as file:
                file.truncate(1 << 40)
                file.seek(1 << 30)
                file.write(b"in the middle")
            size, blocks = os.stat(f"{path}/sparse").st_size, os.stat(f"{path}/sparse").st_blocks
        longer = asyncio.run(committed(made, chain))
        with mounted(made.snapshotter.view(longer)) as path:
            status = os.stat(f"{path}/sparse")
            assert (status.st_size, status.st_blocks) == (size, blocks)
            with open(f"{path}/sparse", "rb") as file:
                file.seek(1 << 30)
                assert file.read(13) == b"in the middle"


def test_capabilities_and_sockets() -> None:
    import socket

    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    with stores() as made:
        made.snapshotter.needed = lambda chain_id: True
        chain = asyncio.run(made.layers(BASE))
        asyncio.run(made.snapshotter.prepare(KEY, chain))
        with mounted(made.snapshotter.mount(KEY)) as path:
            mtime = os.stat(f"{path}/b/x").st_mtime_ns
            os.setxattr(f"{path}/b/x", "security.capability", capability)
            os.utime(f"{path}/b/x", ns=(mtime, mtime))
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(f"{path}/socket")
        assert (0, "/b/x") in asyncio.run(made.snapshotter.changes(KEY))
        longer = asyncio.run(committed(made, chain))
        with mounted(made.snapshotter.view(longer)) as path:
            assert os.getxattr(f"{path}/b/x", "security.capability") == capability
            assert not os.path.lexists(f"{path}/socket")


def test_the_names_of_changes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine holds them all: long names in a deep tree, which cost an attacker nothing, are not its memory's."""
    monkeypatch.setattr(differences, "MOST_TEXT", 100 * 200)
    with stores() as made:
        made.snapshotter.needed = lambda chain_id: True
        asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(BASE))))
        with mounted(made.snapshotter.mount(KEY)) as path:
            for number in range(100):
                os.mkdir(f"{path}/{number:0>200}")
        assert len(asyncio.run(made.snapshotter.changes(KEY))) == 100
        with mounted(made.snapshotter.mount(KEY)) as path:
            os.mkdir(f"{path}/more")
        with pytest.raises(InvalidParameter, match="longer than 20000 bytes"):
            asyncio.run(made.snapshotter.changes(KEY))


@pytest.mark.parametrize(("levels", "fits"), [(480, True), (600, False)])
def test_a_tree_too_deep_is_an_error(levels: int, fits: bool) -> None:
    with stores() as made:
        made.snapshotter.needed = lambda chain_id: True
        chain = asyncio.run(made.layers(BASE))
        asyncio.run(made.snapshotter.prepare(KEY, chain))
        with mounted(made.snapshotter.mount(KEY)) as path:
            fd = os.open(path, os.O_RDONLY)
            for _ in range(levels):
                os.mkdir("d", dir_fd=fd)
                inner = os.open("d", os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = inner
            os.close(fd)
        if fits:
            assert len(asyncio.run(made.snapshotter.changes(KEY))) == levels
            assert len(asyncio.run(committed(made, chain))) == 2
            return
        with pytest.raises(InvalidParameter, match="too deep"):
            asyncio.run(made.snapshotter.changes(KEY))
        assert stat.S_ISDIR(os.stat(made.root).st_mode)
