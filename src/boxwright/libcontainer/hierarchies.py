"""/sys/fs/cgroup of a container, for both cgroup versions, with and without a cgroup namespace."""

import os

from boxwright.linux import inroot, mount
from boxwright.linux.namespaces import CLONE_NEWCGROUP, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.libcontainer.options import Options
    from boxwright.libcontainer.world import World

_SAFE = mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC


class CgroupMount:
    """The cgroup file systems at `destination`.

    With a cgroup namespace they are mounted afresh and show the container's group as their root.  Without one the
    container's own groups are bound, read-only unless the spec says "rw" in so many words and the container has no
    user namespace (CVE-2023-25809).
    """

    __slots__ = ("destination", "names", "private", "read_only", "sources", "writable")
    step = "mounts"
    source = "cgroup"

    def __init__(self, destination: str, parsed: "Options", writable: bool) -> None:
        self.destination = destination
        self.read_only = bool(parsed.add & mount.ATTR_RDONLY)
        self.writable = writable
        self.private = True
        self.names: list[str] = []
        self.sources: dict[str, int] = {}

    def describe(self) -> str:
        return f"cgroup on {self.destination}"

    def prepare(self, private: bool, userns: bool, paths: "dict[str, str]") -> None:
        """In the parent: what to show; opens the container's groups (`Manager.paths`) when they are to be bound."""
        self.private = private
        self.names = [""] if "" in paths else _v1() or [""]
        if private:
            return
        self.read_only = userns or not self.writable
        for name in self.names:
            path = paths.get(name) or paths.get(name.partition(",")[0])
            if path:
                self.sources[name] = fd = mount.open_tree(mount.AT_FDCWD, path)
                mount.set_attributes(fd, self._attributes(), propagation=mount.PROPAGATION_PRIVATE, name=path)

    def run(self, world: "World") -> None:
        target = inroot.make_directories(world.root_fd, self.destination, resolve=inroot.RESOLVE_NO_SYMLINKS)
        try:
            if self.names == [""]:
                if (fd := self._hierarchy("")) >= 0:
                    mount.move_mount(fd, target, self.destination)
                    os.close(fd)
                return
            self._attach_all(target)
        finally:
            os.close(target)

    def _attach_all(self, target: int) -> None:
        """A tmpfs with a directory for each hierarchy; it is read-only before it is attached (afterwards only what is
        in our mount namespace could be changed)."""
        top = mount.make("tmpfs", "tmpfs", [("mode", "755"), ("size", "64k")], _SAFE)
        found = {name: fd for name in self.names if (fd := self._hierarchy(name)) >= 0}
        for name in found:
            _make_places(top, name.removeprefix("name="))
        mount.set_attributes(top, mount.ATTR_RDONLY if self.read_only else 0, name=self.destination)
        mount.move_mount(top, target, self.destination)
        for name, fd in found.items():
            place = os.open(name.removeprefix("name="), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
            mount.move_mount(fd, place, name)
            os.close(place)
            os.close(fd)
        os.close(top)

    def _attributes(self) -> int:
        return _SAFE | (mount.ATTR_RDONLY if self.read_only else 0)

    def _hierarchy(self, name: str) -> int:
        if not self.private:
            return self.sources.get(name, -1)
        return mount.make("cgroup" if name else "cgroup2", "cgroup", _settings(name), self._attributes())


class LeaveNamespace:
    """Leave the host's cgroup namespace, in the container's group: earlier, the host's path would be the new
    namespace's root and show (rule 11).  On v2 clone does it."""

    __slots__ = ()
    step = "cgroup"

    def describe(self) -> str:
        return "cgroup namespace"

    def run(self, world: "World") -> None:
        unshare(CLONE_NEWCGROUP, "cgroup")


def _make_places(top: int, name: str) -> None:
    """The directory of one hierarchy, with a link for each controller of a shared one."""
    os.mkdir(name, 0o755, dir_fd=top)
    if "," in name:
        for controller in name.split(","):
            os.symlink(name, controller, dir_fd=top)


def _settings(name: str) -> "list[tuple[str, str | None]]":
    """Options of mount(8) for a v1 hierarchy."""
    if not name:
        return []
    if name.startswith("name="):
        return [("none", None), ("name", name[5:])]
    return [(controller, None) for controller in name.split(",")]


def _v1() -> "list[str]":
    """The v1 hierarchies of this host as comma-separated controllers or "name=x" (cgroups(7))."""
    with open("/proc/self/cgroup", "rb") as file:
        fields = [line.split(b":", 2) for line in file]
    return [os.fsdecode(field[1]) for field in fields if field[0] != b"0"]
