"""What every storage driver promises; each test runs against overlay and vfs."""

import asyncio
import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.stores import Stores, mounted, stores, tree
from support.tars import directory, member, pack

from boxwright.errdefs import Conflict, InvalidParameter, NotFound
from boxwright.storage.layers import MOST_LAYERS
from boxwright.storage.snapshotter import HOSTFS, open_snapshotter

pytestmark = pytest.mark.root

BASE = pack(directory("etc"), member("etc/base", content=b"base"), member("shared", content=b"from the base"))
MIDDLE = pack(member("middle", content=b"middle"), member("shared", content=b"from the middle"))
TOP = pack(member("top", content=b"top"), member(".wh.middle"))
KEY = "c" * 64


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with stores(request.param) as found:
        found.snapshotter.needed = lambda chain_id: False
        yield found


def run(awaitable: Any) -> Any:
    return asyncio.run(awaitable)


def contents(value: dict[str, Any]) -> dict[str, bytes]:
    with mounted(value) as path:
        return {name: entry[4] for name, entry in tree(path).items() if entry[0] == 0o10}


def test_layers_lie_on_each_other(made: Stores) -> None:
    chain = run(made.layers(BASE, MIDDLE, TOP))
    assert [made.snapshotter.has_layer(chain_id) for chain_id in chain] == [True] * 3
    assert contents(made.snapshotter.view(chain[:1])) == {"etc/base": b"base", "shared": b"from the base"}
    expected = {"etc/base": b"base", "shared": b"from the middle", "top": b"top"}
    assert contents(made.snapshotter.view(chain)) == expected
    assert made.snapshotter.layer_size(chain[2]) == 3


def test_a_view_cannot_be_written(made: Stores) -> None:
    chain = run(made.layers(BASE, MIDDLE))
    for length in (1, 2):
        with mounted(made.snapshotter.view(chain[:length])) as path, pytest.raises(OSError, match="Read-only"):
            os.mkdir(f"{path}/x")


def test_a_snapshot_is_written_and_its_layers_are_not(made: Stores) -> None:
    chain = run(made.layers(BASE, MIDDLE))
    run(made.snapshotter.prepare(KEY, chain))
    with mounted(made.snapshotter.mount(KEY)) as path:
        os.unlink(f"{path}/middle")
        with open(f"{path}/shared", "w") as file:
            file.write("changed")
        with open(f"{path}/new", "w") as file:
            file.write("x" * 1000)
    # It is there again at the next mount, and nobody else's.
    assert contents(made.snapshotter.mount(KEY))["shared"] == b"changed"
    assert "middle" not in contents(made.snapshotter.mount(KEY))
    assert contents(made.snapshotter.view(chain))["shared"] == b"from the middle"
    run(made.snapshotter.prepare("d" * 64, chain))
    assert contents(made.snapshotter.mount("d" * 64))["shared"] == b"from the middle"
    size, inodes = run(made.snapshotter.usage(KEY))
    assert size >= 1007 and inodes >= 2


def test_the_root_directory_is_as_docker_makes_it(made: Stores) -> None:
    chain = run(made.layers(BASE))
    old = os.umask(0o077)
    try:
        run(made.snapshotter.prepare(KEY, chain))
    finally:
        os.umask(old)
    with mounted(made.snapshotter.mount(KEY)) as path:
        status = os.stat(path)
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, 0, 0)


def test_a_snapshot_without_layers(made: Stores) -> None:
    run(made.snapshotter.prepare(KEY, []))
    with mounted(made.snapshotter.mount(KEY)) as path:
        os.mkdir(f"{path}/x")
    assert os.path.isdir(os.path.join(made.root, "snapshots")) and made.snapshotter.exists(KEY)


def test_keys_are_unique_and_known(made: Stores) -> None:
    chain = run(made.layers(BASE))
    run(made.snapshotter.prepare(KEY, chain))
    with pytest.raises(Conflict):
        run(made.snapshotter.prepare(KEY, chain))
    with pytest.raises(Conflict):  # another key with the same beginning must not share the directory
        run(made.snapshotter.prepare(KEY[:-1] + "d", chain))
    with pytest.raises(NotFound):
        run(made.snapshotter.prepare("d" * 64, ["sha256:" + "0" * 64]))
    for action in (made.snapshotter.mount, made.snapshotter.describe):
        with pytest.raises(NotFound):
            action("e" * 64)
    with pytest.raises(NotFound):
        made.snapshotter.view(["sha256:" + "0" * 64])


def test_a_row_that_is_written_later(made: Stores) -> None:
    """With the caller's own rows, or never: then it is removed like any other, and a new engine does not know it."""
    chain = run(made.layers(BASE))
    made.snapshotter.needed = lambda chain_id: True
    for ends_well in (False, True):
        run(made.snapshotter.prepare(KEY, chain, record=False))
        assert made.snapshotter.exists(KEY)
        with pytest.raises(Conflict):
            run(made.snapshotter.prepare(KEY, chain))
        with suppress(ZeroDivisionError), made.db.transaction():
            made.snapshotter.record(KEY)
            if not ends_well:
                raise ZeroDivisionError
        assert len(made.db.query("SELECT 1 FROM snapshots")) == ends_well
        folder = os.path.dirname(made.snapshotter.mount(KEY)["lock"])
        if not ends_well:
            made.snapshotter.remove(KEY)
            assert not made.snapshotter.exists(KEY) and not os.path.exists(folder)


def test_a_removal_that_is_rolled_back_can_be_done_again(made: Stores) -> None:
    chain = run(made.layers(BASE))
    run(made.snapshotter.prepare(KEY, chain))
    made.snapshotter.needed = lambda chain_id: False
    with pytest.raises(ZeroDivisionError), made.db.transaction():
        made.snapshotter.remove(KEY)
        raise ZeroDivisionError
    assert made.snapshotter.exists(KEY) and made.snapshotter.has_layer(chain[-1])
    with made.db.transaction():
        made.snapshotter.remove(KEY)
        assert made.snapshotter.has_layer(chain[-1])
    assert not made.snapshotter.exists(KEY) and not made.snapshotter.has_layer(chain[-1])


def test_remove_is_idempotent_and_leaves_nothing(made: Stores) -> None:
    before = made.files()
    chain = run(made.layers(BASE))
    run(made.snapshotter.prepare(KEY, chain))
    with mounted(made.snapshotter.mount(KEY)) as path:
        os.makedirs(f"{path}/a/b/c")
    made.snapshotter.remove(KEY)
    made.snapshotter.remove(KEY)
    assert not made.snapshotter.exists(KEY)
    # Nobody needs the layer either: it went with its last snapshot.
    assert not made.snapshotter.has_layer(chain[0])
    assert made.trash.drain()
    assert made.files() == before
    run(made.layers(BASE))
    run(made.snapshotter.prepare(KEY, chain))  # the key is free again


def test_layers_stay_while_something_stands_on_them(made: Stores) -> None:
    chain = run(made.layers(BASE, MIDDLE, TOP))
    run(made.snapshotter.prepare(KEY, chain[:2]))
    assert made.snapshotter.release_layer(chain[0]) == []
    assert made.snapshotter.release_layer(chain[2]) == [chain[2]]
    with made.snapshotter.lease([chain[1]]):
        made.snapshotter.remove(KEY)
        assert made.snapshotter.has_layer(chain[1])
    made.snapshotter.needed = lambda chain_id: chain_id == chain[0]
    assert made.snapshotter.release_layer(chain[1]) == [chain[1]]
    assert made.snapshotter.has_layer(chain[0])


def test_a_layer_twice_is_one(made: Stores) -> None:
    chain = run(made.layers(BASE))
    again = run(made.unpack(BASE))
    made.snapshotter.commit_layer(again, chain[0], None)
    assert made.trash.drain()
    assert os.listdir(f"{made.root}/tmp") == []
    assert contents(made.snapshotter.view(chain))["etc/base"] == b"base"


def test_reconcile_keeps_what_has_a_row_and_nothing_else(made: Stores) -> None:
    chain = run(made.layers(BASE, MIDDLE))
    run(made.snapshotter.prepare(KEY, chain))
    run(made.snapshotter.prepare("d" * 64, chain))
    unpacked = run(made.unpack(TOP))  # an engine that died here leaves it
    folder = os.path.dirname(os.path.dirname(made.snapshotter.mount(KEY)["lock"]))
    os.makedirs(f"{folder}/eeeeeeeeeeee/fs")
    os.makedirs(f"{folder}/zz/fs/deep")
    os.makedirs(f"{made.root}/tmp/spool-x")
    made.close()
    made.open()
    made.snapshotter.needed = lambda chain_id: True
    made.snapshotter.reconcile({KEY})
    assert made.trash.drain()
    assert made.snapshotter.exists(KEY) and not made.snapshotter.exists("d" * 64)
    assert contents(made.snapshotter.mount(KEY))["shared"] == b"from the middle"
    assert not os.path.exists(unpacked.path) and os.listdir(f"{made.root}/tmp") == []
    assert set(os.listdir(folder)) - {"mount-points"} == {"1", "2", KEY[:12]}


def test_numbers_of_layers_are_not_used_twice(made: Stores) -> None:
    chain = run(made.layers(BASE))
    made.close()
    made.open()
    made.snapshotter.needed = lambda chain_id: True
    more = run(made.layers(MIDDLE))
    assert contents(made.snapshotter.view(chain))["etc/base"] == b"base"
    assert contents(made.snapshotter.view(more))["middle"] == b"middle"


def test_the_lock_of_a_snapshot_is_exclusive(made: Stores) -> None:
    """Rule 5: who mounts holds it; a second one waits."""
    run(made.snapshotter.prepare(KEY, run(made.layers(BASE))))
    value = made.snapshotter.mount(KEY)
    with mounted(value):
        fd = os.open(value["lock"], os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_mounting_waits_for_the_lock(made: Stores) -> None:
    run(made.snapshotter.prepare(KEY, run(made.layers(BASE))))
    value = made.snapshotter.mount(KEY)
    fd = os.open(value["lock"], os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    done_read, done_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(fd)  # a copy of it would hold the lock, too
        with mounted(value):
            os.write(done_write, b"x")
        os._exit(0)
    assert select.select([done_read], [], [], 0.2)[0] == []
    os.close(fd)
    assert select.select([done_read], [], [], 20)[0] == [done_read]
    os.waitpid(pid, 0)
    os.close(done_read)
    os.close(done_write)


def test_more_layers_than_an_overlay_takes_are_refused(made: Stores) -> None:
    """The rows of a chain that is as long as it can be, and one more layer."""
    chain = run(made.layers(BASE))
    table = made.snapshotter.layers  # type: ignore[attr-defined]
    layer = table.get(chain[0])
    for number in range(2, MOST_LAYERS + 1):
        above = layer._replace(chain_id=f"sha256:{number:064x}", directory=f"x{number}", parent=layer.chain_id)
        table.insert(above)
        layer = above
    unpacked = run(made.unpack(TOP, chain[0]))
    with pytest.raises(InvalidParameter, match="max depth exceeded"):
        made.snapshotter.commit_layer(unpacked, "sha256:" + "f" * 64, layer.chain_id)


def test_what_inspect_shows(made: Stores) -> None:
    chain = run(made.layers(BASE, MIDDLE))
    run(made.snapshotter.prepare(KEY, chain))
    for name in (KEY, chain[1]):
        shown = made.snapshotter.describe(name)
        assert shown["Name"] == made.snapshotter.name and shown["Data"]
    assert made.snapshotter.status()[0][0] == "Backing Filesystem"


def test_the_driver_is_chosen(made: Stores) -> None:
    assert open_snapshotter(made.root, made.db, made.jobs).name == "overlay2"
    assert open_snapshotter(made.root, made.db, made.jobs, "vfs").name == "vfs"
    with pytest.raises(InvalidParameter, match="graphdriver not supported: zfs"):
        open_snapshotter(made.root, made.db, made.jobs, "zfs")
    # procfs carries no overlay, and not even a directory.
    with pytest.raises(OSError):
        open_snapshotter("/proc/self", made.db, made.jobs)


def test_hostfs_shows_the_host_and_keeps_nothing(made: Stores) -> None:
    if made.snapshotter.name == "vfs":
        with pytest.raises(InvalidParameter):
            run(made.snapshotter.prepare(KEY, [HOSTFS]))
        return
    run(made.snapshotter.prepare(KEY, [HOSTFS]))
    marker = f"boxwright-{os.getpid()}"
    with mounted(made.snapshotter.mount(KEY)) as path:
        assert os.stat(f"{path}/etc/passwd").st_ino == os.stat("/etc/passwd").st_ino
        with open(f"{path}/etc/{marker}", "w") as file:
            file.write("x")
        assert not os.path.exists(f"/etc/{marker}")
        with pytest.raises(OSError, match="No space left"), open(f"{path}/{marker}", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 8 << 30)
    with mounted(made.snapshotter.mount(KEY)) as path:
        assert not os.path.exists(f"{path}/etc/{marker}")
    made.snapshotter.remove(KEY)
    assert not made.snapshotter.exists(KEY)
