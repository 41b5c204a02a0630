"""Deletion in the background: nothing is followed, nothing mounted is touched, and what is busy is left for later."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from boxwright.linux import mount
from boxwright.trees.placement import spread
from boxwright.trees.trash import Trash, delete

pytestmark = pytest.mark.root


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "to-directory").symlink_to(outside)
    (tree / "to-file").symlink_to(outside / "kept")
    os.link(outside / "kept", tree / "hard")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "device", 0o020600, os.makedev(1, 3))
    (tree / "read-only").mkdir(mode=0o500)
    delete(str(tree))
    assert not tree.exists() and (outside / "kept").read_text() == "x"
    (tmp_path / "link").symlink_to(outside)
    delete(str(tmp_path / "link"))
    delete(str(tmp_path / "nothing"))
    assert os.listdir(outside) == ["kept"]


def test_what_is_mounted_in_a_tree_is_left_alone(tmp_path: Path) -> None:
    """A bind of the same file system, which device numbers do not tell apart."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub" / "kept").write_text("x")
    trash = Trash(str(tmp_path / "tmp"))
    point = tmp_path / "tree" / "deep" / "point"
    point.mkdir(parents=True)
    mount.mount(str(outside), str(point), "", 4096)
    try:
        trash.discard(str(tmp_path / "tree"))
        assert trash.drain()
        assert (outside / "sub" / "kept").read_text() == "x"
    finally:
        [left] = os.listdir(tmp_path / "tmp")
        mount.umount(str(tmp_path / "tmp" / left / "deep" / "point"), mount.MNT_DETACH)
    trash.sweep()
    assert trash.drain() and os.listdir(tmp_path / "tmp") == []
    trash.close()
    assert (outside / "sub" / "kept").read_text() == "x"


def test_two_may_delete_one_tree(tmp_path: Path) -> None:
    for number in range(20):
        tree = tmp_path / f"tree{number}"
        for directory in range(20):
            (tree / str(directory) / "x").mkdir(parents=True)
            (tree / str(directory) / "x" / "f").write_text("x")
        barrier = threading.Barrier(2)
        errors: list[OSError] = []

        def both(path: str, barrier: threading.Barrier = barrier, errors: list[OSError] = errors) -> None:
            barrier.wait()
            try:
                delete(path)
            except OSError as error:
                errors.append(error)

        threads = [threading.Thread(target=both, args=(str(tree),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not tree.exists() and errors == []


def test_children_are_spread(tmp_path: Path) -> None:
    """The hint is there on ext4, and no error anywhere else."""
    spread(str(tmp_path))
    shown = subprocess.run(["lsattr", "-d", tmp_path], capture_output=True, text=True, check=False)
    if shown.returncode == 0:
        assert "T" in shown.stdout.split()[0]
    spread("/proc/self")
    spread("/dev/shm")


def test_discarding_is_at_once(tmp_path: Path) -> None:
    trash = Trash(str(tmp_path / "tmp"))
    (tmp_path / "tree" / "x").mkdir(parents=True)
    trash.discard(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
    trash.discard(str(tmp_path / "tree"))
    assert trash.drain()
    trash.close()
    trash.close()


def test_any_depth(tmp_path: Path) -> None:
    """Deeper than Python's stack and than a path may be long, with a file at each level."""
    tree = tmp_path / "tree"
    tree.mkdir()
    current = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=current))
        os.mkdir("below", dir_fd=current)
        below = os.open("below", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)
    delete(str(tree))
    assert not tree.exists()
