"""/proc, /dev and /sys as nearly every container has them, each one detached mount with all that belongs in it.

A first process that waits puts them together from the same steps as a start (`init.Plan`): file systems, nodes, links,
read-only and masked paths.  A start whose spec wants the same of such a directory attaches it with one call; what
differs in any way is made step by step as ever.  Mounts on mounts that are attached nowhere: kernel 6.15.
"""

import os

from boxwright.libcontainer import hierarchies, masks, mounts, nodes
from boxwright.libcontainer.world import World
from boxwright.linux import inroot, mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    # What a spec says of one directory: mounts, devices, masked paths, read-only paths.
    Part = tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], list[str]]

# Directory → what of it belongs to a namespace (sysfs to the network's, mqueue to IPC's), and goes with it.
PREFIXES = {"/proc": "pid", "/dev": "ipc", "/sys": "network"}


class Tree:
    """One of them as a step of a start.  proc_fd: what /proc brings for `World`, or -1."""

    __slots__ = ("destination", "fd", "has_pts", "proc_fd")
    step = "mounts"

    def __init__(self, destination: str, fd: int) -> None:
        self.destination, self.fd, self.proc_fd, self.has_pts = destination, fd, -1, False

    def describe(self) -> str:
        return f"{self.destination} and all in it, made in advance"

    def run(self, world: World) -> None:
        _, target = mounts.directory(world.root_fd, self.destination, self.destination != "/dev")
        try:
            mounts.check_proc(world, target, self.destination, self.fd)
            mount.move_mount(self.fd, target, self.destination)
        finally:
            os.close(target)
        if self.has_pts:
            flags = os.O_PATH | os.O_DIRECTORY
            world.devpts_fd = inroot.openat2(self.fd, "pts", flags, inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS)
        if self.proc_fd >= 0:
            world.proc_fd = self.proc_fd
        os.close(self.fd)
        self.fd = self.proc_fd = -1

    def descriptors(self) -> "list[int]":
        """What it holds."""
        return [fd for fd in (self.fd, self.proc_fd) if fd >= 0]

    def close(self) -> None:
        """It is not wanted."""
        for fd in self.descriptors():
            os.close(fd)


class Trees:
    """The trees that are there.  A cgroup file system among them shows the group of the process that built them."""

    __slots__ = ("_parts", "_there", "_usual")

    def __init__(self, usual: "dict[str, Any]") -> None:
        """usual: a spec with nothing but the mounts, masked and read-only paths below PREFIXES."""
        self._usual = usual
        self._parts = {prefix: part(usual, prefix) for prefix in PREFIXES}
        self._there: dict[str, Tree] = {}

    def build(self, paths: "dict[str, str]") -> None:
        """Put them together.  Raises OSError (EINVAL before kernel 6.15) and StepError.

        paths: of the process's own cgroups; without them there is no /sys, in which they would show.
        """
        prefixes = [prefix for prefix in PREFIXES if self._parts[prefix][0] and (paths or prefix != "/sys")]
        top = mount.make("tmpfs", "usual", (("mode", "755"),))
        world = World(top, masks.open_null())
        try:
            for step in self._steps(without(self._usual, set(PREFIXES).difference(prefixes)), paths):
                step.run(world)
            for prefix in prefixes:
                at = inroot.open_in_root(top, prefix)
                try:
                    self._there[prefix] = Tree(prefix, mount.open_tree(at, "", recursive=True))
                finally:
                    os.close(at)
            for fd, name in world.late:  # the kernel changes what is the top of a detached tree only
                tree = self._there.get(name)
                mount.set_attributes(fd if tree is None else tree.fd, mount.ATTR_RDONLY, name=name)
            if "/proc" in self._there:
                self._there["/proc"].proc_fd, world.proc_fd = world.proc_fd, -1
            if "/dev" in self._there:
                self._there["/dev"].has_pts = world.devpts_fd >= 0
        finally:
            world.close()
            os.close(top)

    @staticmethod
    def _steps(spec: "dict[str, Any]", paths: "dict[str, str]") -> "list[Any]":
        steps: list[Any] = list(mounts.plan(spec))
        for step in steps:
            if isinstance(step, hierarchies.CgroupMount):
                step.prepare(False, False, paths)
        steps += nodes.plan([], False)
        steps.append(nodes.Links())
        steps.extend(masks.ReadOnly(path) for path in spec["linux"]["readonlyPaths"])
        steps.extend(masks.Mask(path) for path in spec["linux"]["maskedPaths"])
        return steps

    def drop(self, prefix: str) -> None:
        """What it shows is not the container's."""
        if tree := self._there.pop(prefix, None):
            tree.close()

    def take(self, spec: "dict[str, Any]", new: "Container[str]") -> "dict[str, Tree]":
        """The trees that the spec wants exactly as they are; they become the caller's.

        new: the namespaces that are the container's own.
        """
        found = {}
        for prefix, kind in PREFIXES.items():
            if prefix in self._there and kind in new and part(spec, prefix) == self._parts[prefix]:
                found[prefix] = self._there.pop(prefix)
        return found

    def close(self) -> None:
        """None of them is wanted any more."""
        for prefix in PREFIXES:
            self.drop(prefix)


def part(spec: "dict[str, Any]", prefix: str) -> "Part":
    """What the spec says of the directory `prefix` and of what is in it."""
    below, linux = prefix + "/", spec["linux"]
    return (
        [m for m in spec["mounts"] if m["destination"] == prefix or m["destination"].startswith(below)],
        (linux.get("devices") or []) if prefix == "/dev" else [],
        [path for path in linux.get("maskedPaths") or () if path.startswith(below)],
        [path for path in linux.get("readonlyPaths") or () if path.startswith(below)],
    )


def without(spec: "dict[str, Any]", prefixes: "Container[str]") -> "dict[str, Any]":
    """The spec less its parts about `prefixes`."""
    linux = spec["linux"]

    def stays(path: str) -> bool:
        return "/" + path.lstrip("/").partition("/")[0] not in prefixes

    rest = {
        **linux,
        "maskedPaths": [path for path in linux.get("maskedPaths") or () if stays(path)],
        "readonlyPaths": [path for path in linux.get("readonlyPaths") or () if stays(path)],
    }
    return {**spec, "mounts": [m for m in spec["mounts"] if stays(m["destination"])], "linux": rest}
