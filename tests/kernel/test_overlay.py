"""What only the overlay driver has to get right: many layers, long paths, volatile mounts, parameters of the module."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stores import Stores, mounted, stores
from support.tars import directory, member, pack, symlink

from boxwright.libcontainer import rootfs
from boxwright.storage import overlay
from boxwright.storage.layers import MOST_LAYERS, Layer
from boxwright.storage.mountpoints import DIRECTORIES, FILES, LINKS, MARK
from boxwright.storage.overlay import Overlay, supported
from boxwright.storage.snapshotter import open_snapshotter

pytestmark = pytest.mark.root

KEY = "c" * 64


@pytest.fixture
def made() -> Iterator[Stores]:
    with stores() as found:
        found.snapshotter.needed = lambda chain_id: True
        yield found


def own(path: str) -> list[str]:
    """What the image and the container have in the root directory, without the mount points of every container."""
    return sorted(set(os.listdir(path)) - {*DIRECTORIES, MARK})


def stack(made: Stores, count: int) -> list[str]:
    """Layers with one file each, made by hand: `number` names its layer."""
    assert isinstance(made.snapshotter, Overlay)
    chain: list[str] = []
    for number in range(1, count + 1):
        folder = f"{made.snapshotter.root}/x{number}"
        os.makedirs(f"{folder}/fs")
        Path(f"{folder}/fs/top").write_text(str(number))
        Path(f"{folder}/fs/{number}").write_text("")
        chain_id = f"sha256:{number:064x}"
        made.snapshotter.layers.insert(Layer(chain_id, f"x{number}", chain_id, chain[-1] if chain else None, 1))
        chain.append(chain_id)
    return chain


@pytest.mark.parametrize("append", [None, False])
def test_five_hundred_layers(made: Stores, append: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By lowerdir+, and by what kernels before 6.5 have."""
    monkeypatch.setattr(rootfs, "_append", append)
    chain = stack(made, MOST_LAYERS)
    asyncio.run(made.snapshotter.prepare(KEY, chain))
    with mounted(made.snapshotter.mount(KEY)) as path:
        assert Path(f"{path}/top").read_text() == str(MOST_LAYERS)
        assert len(os.listdir(path)) == MOST_LAYERS + 1
        Path(f"{path}/new").write_text("x")
    with mounted(made.snapshotter.view(chain)) as path:
        assert Path(f"{path}/top").read_text() == str(MOST_LAYERS)


@pytest.mark.parametrize("append", [None, False])
def test_a_data_root_longer_than_an_option(append: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "_append", append)
    with tempfile.TemporaryDirectory(prefix="bwt-") as short:
        root = os.path.join(short, *["a-directory-with-a-long-name-for-this-test"] * 7)
        os.makedirs(root)
        assert len(root) > 255
        assert supported(root)
        made = Stores(root)
        try:
            base = pack(directory("d"), member("f", content=b"x"))
            asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(base, pack(member("g"))))))
            with mounted(made.snapshotter.mount(KEY)) as path:
                assert own(path) == ["d", "f", "g"]
                Path(f"{path}/new").write_text("x")
        finally:
            made.close()


def test_a_volatile_mount_can_be_mounted_again(made: Stores) -> None:
    """Rule 6: the kernel leaves a mark that refuses the next mount."""
    asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(pack(member("f"))))))
    value = made.snapshotter.mount(KEY, volatile=True)
    assert value["options"][-1:] == ["volatile"]
    with mounted(value) as path:
        Path(f"{path}/new").write_text("x")
    mark = f"{value['work']}/work/incompat/volatile"
    assert os.path.isdir(mark)
    with mounted(made.snapshotter.mount(KEY)) as path:
        assert Path(f"{path}/new").read_text() == "x"
        assert not os.path.exists(mark)


def test_deleted_files_stay_deleted(made: Stores) -> None:
    base = pack(directory("d"), member("d/one"), member("d/two"), member("f"))
    asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(base))))
    with mounted(made.snapshotter.mount(KEY)) as path:
        os.unlink(f"{path}/f")
        os.unlink(f"{path}/d/one")
        os.unlink(f"{path}/d/two")
        os.rmdir(f"{path}/d")
        os.mkdir(f"{path}/d")
    with mounted(made.snapshotter.mount(KEY)) as path:
        assert own(path) == ["d"] and os.listdir(f"{path}/d") == []


def test_mount_points_are_there_and_in_nobodys_layer(made: Stores) -> None:
    """What the image has of them is the image's; the rest lies below it, and neither views nor inspect know of it."""
    image = pack(directory("etc", mode=0o700), member("etc/hosts", content=b"image's"), symlink("dev", "/elsewhere"))
    chain = asyncio.run(made.layers(image))
    asyncio.run(made.snapshotter.prepare(KEY, chain))
    value = made.snapshotter.mount(KEY)
    with mounted(value) as path:
        assert Path(f"{path}/etc/hosts").read_text() == "image's"
        assert os.stat(f"{path}/etc").st_mode & 0o7777 == 0o700
        assert os.readlink(f"{path}/dev") == "/elsewhere"
        for name in ("proc", "sys"):
            assert os.stat(f"{path}/{name}").st_mode & 0o7777 == 0o755
        for name in FILES:
            assert os.path.isfile(f"{path}/{name}")
        for name, target in LINKS.items():
            assert os.readlink(f"{path}/{name}") == target
        assert (os.stat(f"{path}/{MARK}").st_mode & 0o7777, os.stat(f"{path}/{MARK}").st_size) == (0o755, 0)
        os.unlink(f"{path}/etc/hostname")
    assert os.listdir(value["upper"]) == ["etc"]
    assert asyncio.run(made.snapshotter.changes(KEY)) == []
    with mounted(made.snapshotter.parts(KEY)[2]) as path:  # type: ignore[attr-defined]
        assert sorted(os.listdir(path)) == [".dockerenv", "dev", "etc", "proc", "sys"]  # as in dockerd's exports
    with mounted(value) as path:
        assert not os.path.exists(f"{path}/etc/hostname")
    with mounted(made.snapshotter.view(chain)) as path:
        assert sorted(os.listdir(path)) == ["dev", "etc"] and os.listdir(f"{path}/etc") == ["hosts"]
    assert "mount-points" not in str(made.snapshotter.describe(KEY))


def test_mount_points_are_made_once_and_survive(made: Stores) -> None:
    chain = asyncio.run(made.layers(pack(member("f"))))
    asyncio.run(made.snapshotter.prepare(KEY, chain))
    before = os.stat(made.snapshotter.mount(KEY)["lower"][-1]).st_ino
    made.close()
    made.open()
    made.snapshotter.reconcile({KEY})
    assert made.trash.drain()
    assert os.stat(made.snapshotter.mount(KEY)["lower"][-1]).st_ino == before
    made.snapshotter.needed = lambda chain_id: False
    made.snapshotter.remove(KEY)
    assert os.listdir(made.snapshotter.root) == ["mount-points"]  # type: ignore[attr-defined]


def test_what_a_distribution_switches_on_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("index", "Y"), ("metacopy", "N"), ("redirect_dir", "on")):
        (tmp_path / name).write_text(f"{value}\n")
    monkeypatch.setattr(overlay, "_PARAMETERS", str(tmp_path))
    with stores() as made:
        asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(pack(member("f"))))))
        value = made.snapshotter.mount(KEY)
        assert value["options"] == ["index=off", "redirect_dir=off"]
        with mounted(value) as path:
            assert own(path) == ["f"]


def test_a_file_system_that_carries_no_overlay(made: Stores, tmp_path: Path) -> None:
    assert supported(str(tmp_path))
    asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(pack(member("f"))))))
    with mounted(made.snapshotter.mount(KEY)) as path:
        assert not supported(path)  # an upper directory must not lie on an overlay
        assert open_snapshotter(path, made.db, made.jobs).name == "vfs"


def test_the_mount_table_stays_empty(made: Stores) -> None:
    asyncio.run(made.snapshotter.prepare(KEY, asyncio.run(made.layers(pack(member("f")), pack(member("g"))))))
    before = Path("/proc/self/mountinfo").read_text()
    with mounted(made.snapshotter.mount(KEY)):
        assert Path("/proc/self/mountinfo").read_text() == before
