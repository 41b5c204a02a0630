"""SIGKILL at any instant while images are loaded, saved, committed and pruned, snapshots made and everything removed: a
restart finds no leftovers.

The victim runs the real stores in a process of its own; the test kills it at a seeded random time, opens the same
directory as the next engine would, and compares what is on disk with the rows.
"""

import asyncio
import gzip
import hashlib
import json
import os
import random
import select
import signal
import time
from collections.abc import Iterator

import pytest
from support.stores import Stores, mounted, stores, stream, tree
from support.tars import directory, member, pack

from boxwright.errdefs import Error
from boxwright.images import committing, reference
from boxwright.images.image import host_architecture
from boxwright.specs.image import Defaults
from boxwright.storage.content import digest_of

pytestmark = pytest.mark.root

KILLS = 25
LAYERS = [
    pack(
        *(member(f"d{n % 20}/f{n}-{layer}", content=bytes([layer]) * 3000) for n in range(300)),
        directory("d1", mode=0o711),
    )
    for layer in range(4)
]


def archive(name: str, layers: list[bytes]) -> bytes:
    document = json.dumps(
        {
            "architecture": host_architecture(),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
    ).encode()
    manifest = [{"Config": "c", "RepoTags": [name], "Layers": [f"{n}.tar" for n in range(len(layers))]}]
    return pack(
        member("c", content=document),
        *(member(f"{n}.tar", content=gzip.compress(layer, 1)) for n, layer in enumerate(layers)),
        member("manifest.json", content=json.dumps(manifest).encode()),
    )


ARCHIVES = [archive("one:1", LAYERS[:2]), archive("two:1", LAYERS[:4]), archive("one:1", LAYERS[1:3])]


async def work(made: Stores, dice: random.Random) -> None:
    """Everything that writes, in any order, without an end."""
    while True:
        action = dice.randrange(9)
        key = hashlib.sha256(bytes([dice.randrange(3)])).hexdigest()
        try:
            if action <= 1:
                await made.images.load(stream(dice.choice(ARCHIVES)), True, lambda message: None)
            elif action == 2:
                made.images.remove(dice.choice(["one:1", "two:1"]), True, False, lambda identifier: [])
            elif action == 3:
                await made.snapshotter.prepare(key, made.images.get(dice.choice(["one:1", "two:1"])).chain_ids)
            elif action == 4:
                made.snapshotter.remove(key)
            elif action == 5:
                async for _ in made.images.save([dice.choice(["one:1", "two:1", "made:1"])]):
                    pass
            elif action == 6:
                await commit(made, key)
            elif action == 7:
                made.images.prune({"dangling": [dice.choice(["true", "false"])]}, lambda identifier: [])
            else:
                volume = await made.volumes.create(dice.choice(["vol-a", "vol-b"]))
                if dice.random() < 0.5:
                    await made.volumes.remove(volume["Name"])
        except Error:
            continue


async def commit(made: Stores, key: str) -> None:
    """An image above "one:1" of a snapshot in which something has changed."""
    parent = made.images.get("one:1")
    made.snapshotter.remove(key)
    await made.snapshotter.prepare(key, parent.chain_ids)
    path = made.snapshotter.parts(key)[0]  # type: ignore[attr-defined]
    with open(f"{path}/new", "wb") as file:
        file.write(os.urandom(50_000))
    os.unlink(f"{path}/d1/f1-0") if os.path.exists(f"{path}/d1/f1-0") else None
    wanted = committing.Wanted(Defaults(cmd=["x"]), "", "", ["x"])
    await made.images.commit(made.snapshotter.diff(key), parent, wanted, reference.parse("made:1"))


def victim(root: str, driver: str, seed: int, ready: int) -> None:
    try:
        made = Stores(root, driver)
        made.snapshotter.reconcile({row[0] for row in made.db.query("SELECT key FROM snapshots")})
        made.images.reconcile()
        made.volumes.reconcile(set())
        os.write(ready, b"x")
        asyncio.run(work(made, random.Random(seed)))
    except BaseException as error:
        os.write(ready, repr(error).encode())
    finally:
        os._exit(1)


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with stores(request.param) as found:
        yield found


def check(made: Stores) -> None:
    """Rows and files agree, and nothing is in `tmp`."""
    rows = made.db.query("SELECT directory FROM layers UNION ALL SELECT directory FROM snapshots")
    folder = os.path.join(made.root, "snapshots", "overlay" if made.snapshotter.name == "overlay2" else "vfs")
    assert sorted({*os.listdir(folder)} - {"mount-points"}) == sorted(row[0] for row in rows)
    blobs = {f"sha256:{name}" for name in os.listdir(f"{made.root}/content/blobs/sha256")}
    images = {row[0] for row in made.db.query("SELECT id FROM images")}
    assert blobs == images == {row[0] for row in made.db.query("SELECT digest FROM blobs")}
    needed = set()
    for image in made.images.all():
        needed.update(image.chain_ids)
        if "made:1" in image.repo_tags or image.parent:
            continue
        with mounted(made.snapshotter.view(image.chain_ids)) as path:
            number = len(image.chain_ids)
            assert sum(1 for entry in tree(path).values() if entry[0] == 0o10) == 300 * number
    for (name,) in made.db.query("SELECT directory FROM layers"):
        assert sorted(os.listdir(f"{folder}/{name}")) == ["fs", "kept", "record"]
    for (base,) in made.db.query("SELECT base FROM snapshots"):
        while base:
            needed.add(base)
            base = made.db.query("SELECT parent FROM layers WHERE chain_id = ?", (base,))[0][0]
    assert {row[0] for row in made.db.query("SELECT chain_id FROM layers")} == needed
    volumes = {volume["Name"] for volume in asyncio.run(made.volumes.list())["Volumes"]}
    assert set(os.listdir(f"{made.root}/volumes")) == volumes
    assert os.listdir(f"{made.root}/tmp") == []


@pytest.mark.timeout(300)
def test_killed_at_any_instant(made: Stores) -> None:
    dice = random.Random(20_260_801)
    made.close()
    for _ in range(KILLS):
        ready, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            victim(made.root, "vfs" if made.snapshotter.name == "vfs" else "overlay", dice.randrange(1 << 30), write)
        os.close(write)
        try:
            assert select.select([ready], [], [], 30)[0] and os.read(ready, 1000) == b"x"
            # The victim never ends by itself: what it writes now is the error that it died of.
            said = select.select([ready], [], [], dice.uniform(0, 0.4))[0]
            assert not said, os.read(ready, 1000)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(ready)
        _wait_for_jobs(made.root)
        made.open()
        made.snapshotter.reconcile({row[0] for row in made.db.query("SELECT key FROM snapshots")})
        made.images.reconcile()
        made.volumes.reconcile(set())
        assert made.trash.drain()
        check(made)
        made.close()
    made.open()
    for data in ARCHIVES:
        asyncio.run(made.images.load(stream(data), True, lambda message: None))
    key = "f" * 64
    asyncio.run(commit(made, key))
    check(made)
    for chain_id, diff_id in made.db.query("SELECT chain_id, diff_id FROM layers"):
        assert asyncio.run(digest(made, chain_id)) == diff_id


async def digest(made: Stores, chain_id: str) -> str:
    return digest_of(b"".join([piece async for piece in made.snapshotter.archive(chain_id)]))


def _wait_for_jobs(root: str) -> None:
    """The victim's jobs end with it; give the kernel the moment that it takes."""
    deadline = time.monotonic() + 20
    while left := [pid for pid in filter(str.isdigit, os.listdir("/proc")) if _works_in(pid, root)]:
        assert time.monotonic() < deadline, f"jobs outlived the engine: {left}"
        select.select([], [], [], 0.005)


def _works_in(pid: str, root: str) -> bool:
    try:
        with open(f"/proc/{pid}/mountinfo") as file:
            return root in file.read()
    except OSError:
        return False
