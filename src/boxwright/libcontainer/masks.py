"""Paths of the kernel that a container may not see, or may not write.

A masked file is covered by /dev/null, a masked directory by an empty read-only tmpfs (one for all of them).  The null
device is a descriptor opened and checked before anything of the image could replace it (CVE-2025-31133).
"""

import os
import stat

from boxwright.libcontainer import faults
from boxwright.linux import inroot, mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.libcontainer.world import World

NULL = os.makedev(1, 3)


def open_null() -> int:
    """An O_PATH descriptor of the host's /dev/null, checked to be the null device; opened before pivot_root."""
    fd = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    info = os.fstat(fd)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != NULL:
        os.close(fd)
        faults.refuse("/dev/null of the host is not the null device", "masks", "/dev/null")
    return fd


def _open_empty() -> int:
    """A detached, empty, read-only tmpfs."""
    context = mount.fsopen("tmpfs")
    try:
        for key, value in (("source", "tmpfs"), ("size", "4k"), ("nr_inodes", "2"), ("mode", "755")):
            mount.set_string(context, key, value)
        mount.create(context, "tmpfs")
        return mount.fsmount(context, mount.ATTR_RDONLY | mount.ATTR_NODEV | mount.ATTR_NOEXEC | mount.ATTR_NOSUID)
    finally:
        os.close(context)


class _Cover:
    """A step about `path` below the root; what does not exist is left alone."""

    __slots__ = ("path",)
    step, verb = "masks", ""

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"{self.verb} {self.path}"

    def run(self, world: "World") -> None:
        try:
            target = inroot.open_in_root(world.root_fd, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            self._cover(world, target)
        finally:
            os.close(target)

    def _cover(self, world: "World", target: int) -> None:
        raise NotImplementedError


class Mask(_Cover):
    """Cover `path`, so that nothing of it shows."""

    __slots__ = ()
    verb = "mask"

    def _cover(self, world: "World", target: int) -> None:
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            cover = mount.open_tree(world.null_fd, "")
            mount.set_attributes(cover, propagation=mount.PROPAGATION_PRIVATE, name=self.path)
        elif world.empty_fd >= 0:
            cover = mount.open_tree(world.empty_fd, "")
        else:
            # Kernels before 6.15 copy attached mounts only: the first one attached is the pattern of the others.
            cover = world.empty_fd = _open_empty()
        mount.move_mount(cover, target, self.path)
        if cover != world.empty_fd:
            os.close(cover)


class ReadOnly(_Cover):
    """Make `path` and everything below it read-only, whatever is mounted there."""

    __slots__ = ()
    verb = "read-only"

    def _cover(self, world: "World", target: int) -> None:
        copy = mount.open_tree(target, "", recursive=True)
        mount.set_attributes(copy, mount.ATTR_RDONLY, recursive=True, name=self.path)
        mount.move_mount(copy, target, self.path)
        os.close(copy)
