"""Confined job: fill a fresh volume with what the image has at its mount point."""

import errno
import os
from typing import Any

from boxwright.confined import Confinement
from boxwright.errdefs import StepError
from boxwright.libcontainer.rootfs import make_rootfs
from boxwright.libcontainer.sources import find_below
from boxwright.trees.duplicate import copy_tree


def copy_up(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
    """Job `volume.copy_up`: copy the directory args["path"] of the image into the volume's directory fds[0].

    args: view (a read-only Mount value of the image), path, volume (its directory's path, for errors), subpath (of the
    volume, where the files go; one that is missing or no directory is not made, as with dockerd).  The path is resolved
    inside the image; owner, mode and times of the directory itself are copied too.  Only an empty volume is filled.
    Result: copied.  Raises StepError for a subpath that leads out of the volume.
    """
    root, lock = make_rootfs(args["view"])
    if lock >= 0:
        os.close(lock)
    directory = _directory(fds[0], args)
    target = confinement.isolate(directory) if directory >= 0 else -1
    confinement.enter(root, detached=True)
    if target < 0:
        return {"copied": False}
    try:
        source = os.open(str(args["path"]), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return {"copied": False}
    if os.listdir(target):
        return {"copied": False}
    copy_tree(source, target)
    return {"copied": True}


def _directory(volume: int, args: dict[str, Any]) -> int:
    """The directory to fill; -1: there is none."""
    if not args["subpath"]:
        return volume
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return find_below(volume, str(args["volume"]), str(args["subpath"]), flags)
    except StepError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return -1
        raise
    finally:
        os.close(volume)
