"""Control groups, both versions behind one interface.

    detect() -> "fs" | "fs2"                          which version this host gives its controllers to
    manager(driver, parent, name, resources)          the group of one container (see base.Manager)
    spare(parent, name)                               a group that a process joins before its container is known (v1)
    remove_spares(driver, parent)                     take away spare groups whose process died
    remove_parent(driver, parent)                     take away the engine's own, empty parent group

Light imports only: every shim carries this package, and making and joining the groups is on the start path.
"""

import os
from time import monotonic

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups import files, fs, fs2, hierarchy
from boxwright.libcontainer.cgroups.base import Manager
from boxwright.libcontainer.cgroups.hierarchy import detect

__all__ = ["Manager", "detect", "manager", "remove_parent", "remove_spares", "spare"]

_SPARE = "spare-"


def manager(driver: str, parent: str, name: str, resources: dict[str, object] | None = None) -> Manager:
    """The cgroup `<parent>/<name>`; nothing is touched yet.

    driver: what `detect()` said, or "" to ask it.
    parent: absolute (from the hierarchy's mount point) or relative (from the caller's own group).
    resources: OCI `linux.resources`; set by `create()`.
    """
    driver = driver or detect()
    wanted = resources or {}
    host = hierarchy.host()
    if driver == "fs":
        return fs.Manager(_v1_paths(parent, name), wanted)
    if driver == "fs2" and host.v2 is not None:
        directory = hierarchy.directory(host.v2, host.own.get("", "/"), parent, name)
        return fs2.Manager({"": directory}, wanted, host.v2.point)
    raise StepError(f"cgroup: no such driver on this host: {driver}", step="cgroup", operation="detect", path=driver)


def spare(parent: str, name: str) -> fs.Manager:
    """A v1 group that is to become a container's (`fs.Manager.take`); `name` tells it from others below `parent`."""
    return fs.Manager(_v1_paths(parent, _SPARE + name), {})


def _v1_paths(parent: str, name: str) -> dict[str, str]:
    host = hierarchy.host()
    return {c: hierarchy.directory(m, host.own.get(c, "/"), parent, name) for c, m in host.v1.items()}


def remove_spares(driver: str, parent: str, seconds: float = 0.0) -> None:
    """Remove the spare groups below `parent` that have no process: what a killed shim has left.

    seconds: how long their processes may take to end; a group that still has one then stays.
    """
    deadline = monotonic() + seconds
    for directory in manager(driver, parent, "").directories():
        for child in files.children(directory):
            if os.path.basename(child).startswith(_SPARE):
                try:
                    files.remove_tree(child, deadline)
                except StepError:
                    continue


def remove_parent(driver: str, parent: str) -> None:
    """Remove the parent group when nothing lives below it; otherwise, and when it is gone, do nothing."""
    for directory in manager(driver, parent, "").directories():
        if not files.children(directory):
            try:
                files.remove_tree(directory, monotonic())
            except StepError:
                continue
