"""Which namespaces a container gets: new ones, the host's, or another's; and in which order they are entered.

Three orders, by what the kernel asks for:

    usual    clone(all new ones at once).
    staged   clone(none), join, unshare a new user namespace, clone(the other new ones) as a child of the same parent:
             when a user namespace is joined (the new ones must belong to it), or when a new one meets others that are
             joined (from inside it they could not be entered any more).
    late     clone(all new ones), join, and fork the program into the pid namespace when everything else is final: when
             a pid namespace is joined, whose processes must not meet a half-made one of ours (rule 13).  With a user
             namespace the staged order serves: its processes have no say over ours, and procfs can only be mounted
             from inside.

A new cgroup namespace is left to init on v1, until the parent has moved it into the group (rule 11).
"""

import os

from boxwright.errdefs import StepError
from boxwright.libcontainer import faults
from boxwright.linux import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Joining:
    """new: kinds that are made. joins: (kind, flag, descriptor), user first; owned. pid_path: of the pid namespace to
    join, or "". clone_flags: for the first clone. staged, late_fork: see above. second_flags: for the second clone of
    the staged order."""

    __slots__ = ("born_in_cgroup", "clone_flags", "joins", "late_fork", "new", "pid_path", "second_flags", "staged")

    def __init__(
        self, new: "frozenset[str]", joins: "list[tuple[str, int, int]]", born_in_cgroup: bool, pid_path: str = ""
    ) -> None:
        self.new, self.joins, self.born_in_cgroup, self.pid_path = new, joins, born_in_cgroup, pid_path
        joined = {kind for kind, _, _ in joins}
        self.staged = "user" in joined or ("user" in new and bool(joined))
        self.late_fork = "pid" in joined and not self.staged
        flags = 0
        for kind in new:
            if kind != "cgroup" or born_in_cgroup:
                flags |= namespaces.KINDS[kind][0]
        self.clone_flags = 0 if self.staged else flags
        self.second_flags = flags & ~namespaces.CLONE_NEWUSER if self.staged else 0

    def join(self) -> None:
        """In the child: join the others, and in the staged order leave for a new user namespace."""
        for kind, flag, fd in self.joins:
            try:
                namespaces.setns(fd, flag, kind)
            except OSError as error:
                raise faults.step_error(error, "namespaces", f"cannot join the {kind} namespace", kind) from error
        if self.staged and "user" in self.new:
            namespaces.unshare(namespaces.CLONE_NEWUSER, "user")

    def descriptor(self, wanted: str) -> int:
        """The namespace of a kind that is joined."""
        return next(fd for kind, _, fd in self.joins if kind == wanted)

    def close(self) -> None:
        """Close the descriptors."""
        for _, _, fd in self.joins:
            os.close(fd)
        self.joins = []


def plan(spec: "dict[str, Any]", born_in_cgroup: bool) -> Joining:
    """The namespaces of `spec`; opens those to join (in the parent).

    born_in_cgroup: the child starts in its cgroup (v2), so that its cgroup namespace can be made by clone.
    """
    new: set[str] = set()
    joins: list[tuple[str, int, int]] = []
    pid_path = ""
    try:
        for item in (spec.get("linux") or {}).get("namespaces") or ():
            kind, path = item.get("type"), item.get("path")
            if kind not in namespaces.KINDS or kind in new or any(kind == joined for joined, _, _ in joins):
                raise StepError(f"namespace {kind}: unknown or named twice", step="namespaces", path=str(kind))
            if not path:
                new.add(kind)
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise faults.step_error(error, "namespaces", f"cannot open {kind} namespace {path}", path) from error
            pid_path = path if kind == "pid" else pid_path
            # Those that are entered through it must belong to the user namespace, so it comes first.
            joins.insert(0 if kind == "user" else len(joins), (kind, namespaces.KINDS[kind][0], fd))
        if "mount" not in new:
            raise StepError("a container needs a mount namespace of its own", step="namespaces", path="mount")
        if "time" in new:
            raise StepError("time namespaces are not supported", step="namespaces", path="time")
    except BaseException:
        for _, _, fd in joins:
            os.close(fd)
        raise
    return Joining(frozenset(new), joins, born_in_cgroup, pid_path)
