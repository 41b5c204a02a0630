"""/dev: device nodes and the links that programs expect.

A node is made by mknod in a descriptor of its directory; where that is forbidden (user namespace) the host's node,
checked to be the same device, is bound over an empty file.
"""

import errno
import os
import stat

from boxwright.libcontainer import faults
from boxwright.linux import inroot, mount
from boxwright.linux.libc import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from boxwright.libcontainer.world import World

# OCI runtime-spec, config-linux.md: what every runtime supplies. (path, major, minor), all characters devices, 0666.
DEFAULTS: tuple[tuple[str, int, int], ...] = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
LINKS: tuple[tuple[str, str], ...] = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class Node:
    """One device node. mode: type and permission bits. host_fd: detached bind of the host's node, or -1 for mknod."""

    __slots__ = ("gid", "host_fd", "mode", "number", "path", "uid")
    step = "devices"

    def __init__(self, path: str, mode: int, number: int, uid: int = 0, gid: int = 0) -> None:
        self.path, self.mode, self.number, self.uid, self.gid = path, mode, number, uid, gid
        self.host_fd = -1

    def describe(self) -> str:
        return f"{self.path} {os.major(self.number)}:{os.minor(self.number)}"

    def prepare_bind(self) -> None:
        """In the parent: take the host's node instead of making one."""
        self.host_fd = mount.open_tree(mount.AT_FDCWD, self.path, follow=False)
        self._check(os.fstat(self.host_fd))

    def run(self, world: "World") -> None:
        if self.host_fd >= 0:
            target = inroot.make_file(world.root_fd, self.path)
            try:
                mount.move_mount(self.host_fd, target, self.path)
            finally:
                os.close(target)
            return
        directory, name = world.parent_of(self.path)
        try:
            os.mknod(name, self.mode, self.number, dir_fd=directory)
            if self.uid or self.gid:
                os.chown(name, self.uid, self.gid, dir_fd=directory, follow_symlinks=False)
        except FileExistsError:  # the image's own /dev: its node must be the device that it claims to be
            self._check(os.stat(name, dir_fd=directory, follow_symlinks=False))

    def _check(self, info: os.stat_result) -> None:
        if stat.S_IFMT(info.st_mode) != stat.S_IFMT(self.mode) or info.st_rdev != self.number:
            raise fault(errno.EEXIST, "mknod (another file is there)", self.path)


class Links:
    """The symbolic links of /dev."""

    __slots__ = ()
    step = "devices"

    def describe(self) -> str:
        return "/dev links"

    def run(self, world: "World") -> None:
        directory, _ = world.parent_of("/dev/x")
        for name, target in LINKS:
            try:
                os.symlink(target, name, dir_fd=directory)
            except FileExistsError:
                continue
        if world.devpts_fd >= 0:
            _replace_link(directory, "ptmx", "pts/ptmx")


def _replace_link(directory: int, name: str, target: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    os.symlink(target, name, dir_fd=directory)


def plan(devices: "list[dict[str, Any]]", bind: bool) -> "list[Node]":
    """The nodes of `linux.devices` and the default ones that it does not name; with `bind` they are the host's."""
    found: dict[str, Node] = {
        path: Node(path, stat.S_IFCHR | 0o666, os.makedev(major, minor)) for path, major, minor in DEFAULTS
    }
    for device in devices:
        kind = _TYPES.get(device.get("type") or "")
        if kind is None:
            faults.refuse(f"device {device.get('path')}: no such type: {device.get('type')}", "devices")
        number = os.makedev(device.get("major") or 0, device.get("minor") or 0)
        permissions = device.get("fileMode")
        mode = kind | (0o666 if permissions is None else permissions & 0o7777)
        path = device["path"]
        found[path] = Node(path, mode, number, device.get("uid") or 0, device.get("gid") or 0)
    nodes = list(found.values())
    if bind:
        for node in nodes:
            try:
                node.prepare_bind()
            except OSError as error:
                raise faults.step_error(error, "devices", f"device {node.path}", node.path) from error
    return nodes
