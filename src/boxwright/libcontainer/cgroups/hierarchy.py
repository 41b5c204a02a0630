"""Where this host has its cgroup hierarchies: /proc/self/mountinfo and /proc/self/cgroup, read once.

The launcher calls `detect()` before it forks, so no shim reads the mount table again.
"""

import os

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups import files


class Mount:
    """One mounted hierarchy.

    controllers: v1 controllers ("name=systemd" for a named hierarchy); () on v2.
    root: the group that is seen at the mount point, "/" but for bind mounts into containers.
    point: absolute mount point.
    """

    __slots__ = ("controllers", "point", "root")

    def __init__(self, controllers: tuple[str, ...], root: str, point: str) -> None:
        self.controllers, self.root, self.point = controllers, root, point


class Host:
    """The hierarchies of a host.

    v1: controller → Mount.  v2: the Mount of the unified hierarchy, or None.  own: controller ("" for v2) → the group
    of the process that looked.
    """

    __slots__ = ("own", "v1", "v2")

    def __init__(self, v1: dict[str, Mount], v2: Mount | None, own: dict[str, str]) -> None:
        self.v1, self.v2, self.own = v1, v2, own


# What may follow "- cgroup" in the super options without being a controller.
_NOT_CONTROLLERS = frozenset(
    ("rw", "ro", "none", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "nofavordynmods")
)

_host: Host | None = None


def host() -> Host:
    """The hierarchies of this host; read at the first call."""
    global _host
    if _host is None:
        _host = parse(files.read("/proc/self/mountinfo"), files.read("/proc/self/cgroup"))
    return _host


def detect() -> str:
    """The driver for this host: "fs2" when v2 has the controllers, "fs" when v1 has (hybrid hosts included).

    Raises StepError when no cgroup file system is mounted.
    """
    found = host()
    if any(not name.startswith("name=") for name in found.v1):
        return "fs"
    if found.v2 is not None:
        return "fs2"
    raise StepError(
        "cgroup: no cgroup file system is mounted",
        step="cgroup",
        operation="detect",
        path="/sys/fs/cgroup",
        hint="mount -t cgroup2 none /sys/fs/cgroup",
    )


def parse(mountinfo: str, own: str) -> Host:
    """The hierarchies from the texts of /proc/self/mountinfo and /proc/self/cgroup.

    A hierarchy that is mounted more than once counts where it was mounted first.
    """
    v1: dict[str, Mount] = {}
    v2: Mount | None = None
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        left, right = head.split(" "), tail.split(" ")
        if len(left) < 5 or len(right) < 3 or right[0] not in ("cgroup", "cgroup2"):
            continue
        root, point = _unescape(left[3]), _unescape(left[4])
        if right[0] == "cgroup2":
            v2 = v2 or Mount((), root, point)
            continue
        options = [o for o in right[2].split(",") if o not in _NOT_CONTROLLERS and not o.startswith("release_agent=")]
        for controller in options:
            v1.setdefault(controller, Mount(tuple(options), root, point))
    return Host(v1, v2, _own(own))


def _own(text: str) -> dict[str, str]:
    result = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            result[controller] = path
    return result


def directory(mount: Mount, own: str, parent: str, name: str) -> str:
    """The directory of group `name` below `parent` in a hierarchy.

    An absolute parent counts from the mount point; a relative one from `own`, the group of the calling process, as
    runtimes have always done.  ".." cannot leave the mount point.
    """
    inner = os.path.normpath("/" + f"{parent}/{name}".lstrip("/"))
    if parent.startswith("/") or not parent:
        return mount.point + inner
    own = own[len(mount.root) :] if mount.root != "/" and own.startswith(mount.root) else own
    return mount.point + own.rstrip("/") + inner


def _unescape(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as \\ooo."""
    if "\\" not in field:
        return field
    for code in ("040", "011", "012", "134"):
        field = field.replace("\\" + code, chr(int(code, 8)))
    return field
