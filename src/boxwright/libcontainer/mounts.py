"""The mounts of a spec as a plan: small values that describe themselves, prepared by the parent, executed by init.

A bind's source is opened by the parent in the host's mount namespace (so that it can still propagate), a file system is
made by init in its own namespaces; both are attached by descriptor to a target resolved in-root (CVE-2021-30465).
"""

import errno
import os
import stat

from boxwright.errdefs import StepError
from boxwright.libcontainer import faults, options, sources
from boxwright.libcontainer.hierarchies import CgroupMount
from boxwright.linux import inroot, mount
from boxwright.linux.libc import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from boxwright.libcontainer.options import Options
    from boxwright.libcontainer.world import World

_PROC_INODE = 1  # of the root of every procfs
# Mounted over by lxcfs and its like; everything else below /proc decides about security and is refused.
_PROC_FILES = frozenset(
    (
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/net/dev",
        "/proc/slabinfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/sys/crypto/fips_enabled",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/uptime",
    )
)


class Bind:
    """A bind mount. fd: detached copy of the source with its attributes set. directory: what the target must be."""

    __slots__ = ("destination", "directory", "fd", "source")
    step = "mounts"

    def __init__(
        self, source: str, destination: str, parsed: "Options", namespace: str = "", subpath: str = ""
    ) -> None:
        self.source, self.destination = source, destination
        try:
            if subpath:
                self.source = f"{source}/{subpath}"
                self.fd = sources.open_below(source, subpath, parsed.recursive)
            elif namespace:
                self.fd = sources.open_elsewhere(namespace, source, parsed.recursive)
            else:
                self.fd = mount.open_tree(mount.AT_FDCWD, source, recursive=parsed.recursive)
        except OSError as error:
            raise _failed(error, source, destination) from error
        try:
            self._set_attributes(parsed)
        except OSError as error:
            os.close(self.fd)
            raise _failed(error, source, destination) from error
        self.directory = stat.S_ISDIR(os.fstat(self.fd).st_mode)

    def describe(self) -> str:
        return f"bind {self.source} on {self.destination}"

    def run(self, world: "World") -> None:
        target = self._target(world.root_fd)
        try:
            check_proc(world, target, self.destination, self.fd)
            mount.move_mount(self.fd, target, self.destination)
        finally:
            os.close(target)

    def _target(self, root_fd: int) -> int:
        if self.directory:
            return inroot.make_directories(root_fd, self.destination)
        try:
            return inroot.make_file(root_fd, self.destination)
        except IsADirectoryError:  # as the kernel puts it, and docker's clients know it
            raise fault(errno.ENOTDIR, "mount", self.destination) from None

    def _set_attributes(self, parsed: "Options") -> None:
        """A copy starts as a peer of its source: unless the spec says how it propagates, it does not."""
        value, recursive = parsed.propagation or (mount.PROPAGATION_PRIVATE, True)
        if recursive != parsed.recursive or not (parsed.add or parsed.remove):
            mount.set_attributes(self.fd, propagation=value, recursive=recursive, name=self.source)
            value = 0
        if parsed.add or parsed.remove:
            mount.set_attributes(self.fd, parsed.add, parsed.remove, name=self.source)
            if value:
                mount.set_attributes(self.fd, propagation=value, recursive=recursive, name=self.source)
        if parsed.add_all or parsed.remove_all:
            mount.set_attributes(self.fd, parsed.add_all, parsed.remove_all, recursive=True, name=self.source)


class FileSystem:
    """A file system that init makes itself, in its own namespaces: proc, sysfs, tmpfs, mqueue, devpts, …

    fd: one that is there already, detached (procfs of a pid namespace that is joined; one made in advance), or -1.
    """

    __slots__ = ("destination", "fd", "fstype", "parsed", "source")
    step = "mounts"

    def __init__(self, fstype: str, source: str, destination: str, parsed: "Options") -> None:
        self.fstype, self.source, self.destination, self.parsed = fstype, source, destination, parsed
        self.fd = -1

    def describe(self) -> str:
        return f"{self.fstype} on {self.destination}"

    def run(self, world: "World") -> None:
        existed, target = directory(world.root_fd, self.destination, self.fstype in ("proc", "sysfs"))
        try:
            fd = self._make(stat.S_IMODE(os.fstat(target).st_mode) if existed else -1)
            check_proc(world, target, self.destination, fd)
            mount.move_mount(fd, target, self.destination)
        finally:
            os.close(target)
        self._finish(world, fd)

    def _make(self, mode: int) -> int:
        """mode: of the directory that it will cover, which a tmpfs takes over as with every runtime; -1: there was
        none, and the kernel's own for a tmpfs stays (1777)."""
        # Read-only comes last: mount points and nodes are still to be made in it.
        attributes = self.parsed.add & ~mount.ATTR_RDONLY
        if self.fd >= 0:
            mount.set_attributes(self.fd, attributes, name=self.destination)
            return self.fd
        data = self.parsed.data
        if self.fstype == "tmpfs" and mode >= 0 and not any(key == "mode" for key, _ in data):
            data = [*data, ("mode", f"{mode:o}")]
        return mount.make(self.fstype, self.source, data, attributes)

    def _finish(self, world: "World", fd: int) -> None:
        if self.fstype == "proc" and world.proc_fd < 0:
            world.proc_fd = mount.open_tree(fd, "")
        if self.fstype == "devpts":
            world.devpts_fd = os.dup(fd)
        if self.parsed.propagation:
            value, recursive = self.parsed.propagation
            mount.set_attributes(fd, propagation=value, recursive=recursive, name=self.destination)
        if self.parsed.add & mount.ATTR_RDONLY:
            world.late.append((fd, self.destination))
        else:
            os.close(fd)


def directory(root_fd: int, path: str, kernel: bool) -> "tuple[bool, int]":
    """(whether it was there already, its descriptor), of what a file system will cover.

    kernel: the file system is the kernel's own.  A link at /proc or /sys would put its files where the image wants them
    (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642).
    """
    resolve = inroot.RESOLVE_NO_SYMLINKS if kernel else 0
    try:
        try:
            return True, inroot.open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
        except FileNotFoundError:
            return False, inroot.make_directories(root_fd, path, resolve=resolve)
    except OSError as error:
        if kernel and error.errno == errno.ELOOP:
            faults.refuse(
                f"{path} must be mounted on an ordinary directory, not on a symbolic link",
                "mounts",
                path,
                number=errno.ELOOP,
            )
        raise


def plan(spec: "dict[str, Any]") -> "list[Bind | FileSystem | CgroupMount]":
    """The mounts of `spec` in its order; opens the sources of its binds (in the parent)."""
    steps: list[Bind | FileSystem | CgroupMount] = []
    try:
        for item in spec.get("mounts") or ():
            steps.append(_entry(item))
    except BaseException:
        for step in steps:
            if isinstance(step, Bind):
                os.close(step.fd)
        raise
    return steps


def _entry(item: "dict[str, Any]") -> "Bind | FileSystem | CgroupMount":
    destination = os.path.normpath("/" + item["destination"].lstrip("/"))
    if destination == "/":
        faults.refuse("mount destination can't be '/'", "mounts", "/")
    source = item.get("source") or ""
    fstype = item.get("type") or ""
    try:
        parsed = options.parse(item.get("options") or ())
    except ValueError as error:
        faults.refuse(f'error mounting "{source}" to rootfs at "{destination}": {error}', "mounts", destination)
    if fstype == "bind" or parsed.bind:
        return Bind(source, destination, parsed, item.get("namespace") or "", item.get("subpath") or "")
    if fstype in ("cgroup", "cgroup2"):
        return CgroupMount(destination, parsed, "rw" in (item.get("options") or ()))
    return FileSystem(fstype, source, destination, parsed)


def check_proc(world: "World", target: int, destination: str, source: int) -> None:
    """Refuse what would lie over a part of /proc; over /proc itself only another procfs goes."""
    if world.proc_fd < 0:
        return
    info = os.fstat(target)
    if info.st_dev != os.fstat(world.proc_fd).st_dev or destination in _PROC_FILES:
        return
    over = os.fstat(source)
    if info.st_ino == _PROC_INODE and over.st_ino == _PROC_INODE and os.major(over.st_dev) == 0:
        return
    raise fault(errno.EPERM, "mount (below /proc)", destination)


def _failed(error: OSError, source: str, destination: str) -> StepError:
    hint = faults.WRONG_KIND if error.errno == errno.ENOTDIR else ""
    message = f'error mounting "{source}" to rootfs at "{destination}"'
    found = faults.step_error(error, "mounts", message, destination, hint)
    found.exit_code = faults.exit_code(found.errno)
    return found


def failed(error: OSError, step: "Any") -> StepError:
    """The StepError for a mount step that raised `error` in init."""
    return _failed(error, getattr(step, "source", "") or getattr(step, "fstype", "cgroup"), step.destination)
