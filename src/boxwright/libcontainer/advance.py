"""What a first process does before it knows its container: whatever nearly every container needs.

The process has just been cloned into a new pid namespace and has time.  It leaves the host's network, IPC and host
name, brings up the loopback interface, opens the netlink socket through which the engine will configure the network,
and puts the usual /proc, /dev and /sys together, detached (`usual.py`; single file systems where the kernel cannot).
A start then finds them done; what the container does not want is left again (`Advance.leave`) or closes at execve.

The mount namespace is not among them: binds are taken from the host's as it is at the start.
"""

import os

from boxwright.errdefs import StepError
from boxwright.libcontainer import init, mounts, sync, usual
from boxwright.libcontainer.cgroups import fs
from boxwright.linux import mount, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

    from boxwright.libcontainer.cgroups import Manager
    from boxwright.libcontainer.joining import Joining

_KINDS = ("network", "ipc", "uts")

# (type, source, settings) of what `engine/spec.py` mounts in a container of the defaults.
FILE_SYSTEMS: "tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...]" = (
    ("proc", "proc", ()),
    ("tmpfs", "tmpfs", (("mode", "755"), ("size", "65536k"))),
    ("devpts", "devpts", (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5"))),
    ("sysfs", "sysfs", ()),
    ("mqueue", "mqueue", ()),
    ("tmpfs", "shm", (("mode", "1777"), ("size", "67108864"))),
)


# What belongs to a namespace, and goes with it.
_OF_KIND = {"network": "sysfs", "ipc": "mqueue"}


class Advance:
    """What has been done already.

    begun: `init.begin`.  flags: of the namespaces that are new, with all that belongs to them.
    """

    __slots__ = ("_group", "_grouped", "_left", "_made", "_oom", "_trees", "begun", "flags")

    def __init__(self) -> None:
        self.begun, self.flags = False, 0
        self._group: fs.Manager | None = None  # made for this process
        self._grouped = False  # … which is in it, and hears of its OOM kills
        self._oom = -1
        self._left: dict[str, int] = {}  # kind → descriptor of the host's
        self._trees: usual.Trees | None = None
        self._made: dict[tuple[Any, ...], int] = {}  # (type, source, settings) → detached mount

    def prepare(
        self, sock: "socket", group: "fs.Manager | None", spec: "dict[str, Any]", keep: "tuple[int, ...]" = ()
    ) -> None:
        """Do it; the netlink socket goes to `sock`, as from an init that configures its network (`sync.NETWORK`).

        group: not there yet; to be made and joined.  spec: for `usual.Trees`.  keep: descriptors to stay open.
        Ends early where this host refuses something: the start does it then, and says what is the matter.
        """
        try:
            init.begin({0, 1, 2, sock.fileno(), *keep}, True)
            self.begun = True
            if sync.is_hung_up(sock):
                return  # the parent died before it could take us along
            if group is not None:
                self._group = group
                group.create()
                group.enter()
                self._oom = group.oom_fd()
                self._grouped = True
            for kind in _KINDS:
                flag, name = namespaces.KINDS[kind]
                self._left[kind] = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                namespaces.unshare(flag, kind)
                if kind == "network":
                    init.raise_loopback()
                    init.offer_netlink(sock)
                self.flags |= flag
            self._make_file_systems(spec, group.paths if group is not None else {})
        except (OSError, StepError):
            return

    def _make_file_systems(self, spec: "dict[str, Any]", paths: "dict[str, str]") -> None:
        trees = usual.Trees(spec)
        try:
            trees.build(paths)
            self._trees = trees
        except (OSError, StepError):
            trees.close()
            for fstype, source, settings in FILE_SYSTEMS:
                self._made[fstype, source, settings] = mount.make(fstype, source, settings)

    def settle(self, manager: "Manager") -> None:
        """Make the container's group, with its limits, and be in it."""
        spare = self._group
        if self._grouped and spare is not None and isinstance(manager, fs.Manager) and spare.is_beside(manager):
            manager.take(spare)
            return
        manager.create()
        manager.enter()
        if spare is not None:
            try:
                spare.destroy()
            except StepError:
                pass  # the engine removes it (`cgroups.remove_spares`)
        self._oom = -1
        if self._trees is not None:
            self._trees.drop("/sys")

    def oom_fd(self, manager: "Manager") -> int:
        """`Manager.oom_fd` of the group that was settled in."""
        return self._oom if self._oom >= 0 else manager.oom_fd()

    def trees(self, spec: "dict[str, Any]", joining: "Joining") -> "dict[str, usual.Tree]":
        """Those of the usual trees that the container wants as they are; they become the caller's."""
        if self._trees is None:
            return {}
        if "cgroup" in joining.new:
            self._trees.drop("/sys")
        found = self._trees.take(spec, joining.new)
        self._trees.close()
        return found

    def leave(self, joining: "Joining") -> None:
        """Go back to the host's namespaces of the kinds that the container shares with it."""
        joined = {kind for kind, _, _ in joining.joins}
        for kind, fd in self._left.items():
            if kind not in joining.new:
                if kind not in joined:
                    namespaces.setns(fd, namespaces.KINDS[kind][0], kind)
                self._made = {key: made for key, made in self._made.items() if key[0] != _OF_KIND.get(kind)}
            os.close(fd)
        self._left = {}

    def give(self, steps: "list[Any]") -> None:
        """Hand the file systems that were made to the steps that would make the same."""
        for step in steps:
            if isinstance(step, mounts.FileSystem) and step.fd < 0:
                step.fd = self._made.pop((step.fstype, step.source, tuple(step.parsed.data)), -1)
