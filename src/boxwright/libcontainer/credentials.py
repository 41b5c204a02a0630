"""The last steps before execve, shared by init and exec: who the program is and what it may do."""

import os

from boxwright.libcontainer import faults, seccomp
from boxwright.linux import capabilities, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from boxwright.libcontainer.users import User


_remembered: int | None = None


def remember_bounding() -> None:
    """Read our bounding set now, rather than for each start: for a process whose children alone narrow it."""
    global _remembered
    _remembered = capabilities.bounding()


def _bounding() -> int:
    return capabilities.bounding() if _remembered is None else _remembered


class Credentials:
    """What `process` of a spec grants, checked and turned into numbers by the parent.

    bounding, effective, permitted, ambient: bits; what this host cannot give is left out, as runtimes do.
    present: the bounding set as it is before.  no_new_privileges, seccomp_bpf, umask: as in the spec.
    """

    __slots__ = (
        "ambient",
        "bounding",
        "effective",
        "no_new_privileges",
        "permitted",
        "present",
        "seccomp_bpf",
        "umask",
    )

    def __init__(self, spec_process: "dict[str, Any]", seccomp_bpf: bytes | None, userns: bool = False) -> None:
        sets = spec_process.get("capabilities") or {}
        self.bounding = _mask(sets.get("bounding"))
        self.effective = _mask(sets.get("effective"))
        self.permitted = _mask(sets.get("permitted"))
        self.ambient = _mask(sets.get("ambient"))
        # Entering a user namespace fills the bounding set, with what we ourselves may have been denied.
        self.present = capabilities.every() if userns else _bounding()
        self.no_new_privileges = bool(spec_process.get("noNewPrivileges"))
        self.seccomp_bpf = seccomp_bpf
        umask = (spec_process.get("user") or {}).get("umask")
        self.umask = 0o022 if umask is None else umask & 0o777

    def take(self, user: "User", die_with_parent: bool) -> None:
        """Become `user` with these capabilities; what follows is execve, or the fork into the pid namespace.

        Without no_new_privs only CAP_SYS_ADMIN may install a filter, so it comes first, and has to let the calls below
        pass; with it the filter comes last (`restrict`).
        """
        if self.seccomp_bpf and not self.no_new_privileges:
            seccomp.install(self.seccomp_bpf)
        available = capabilities.permitted()
        os.umask(self.umask)
        capabilities.limit_bounding(self.bounding, self.present)
        process.keep_capabilities(True)
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        process.keep_capabilities(False)
        ambient = self.ambient & self.permitted & available
        # execve leaves a user other than root the ambient ones only; with more, it could execute what it may not.
        permitted = ambient if user.uid else self.permitted & available
        capabilities.apply(self.effective & permitted, permitted, 0, ambient)
        # A change of ids clears the first and may set the second (prctl(2)).
        if die_with_parent:
            process.die_with_parent()
        process.set_dumpable(False)
        if self.no_new_privileges:
            process.set_no_new_privileges()

    def restrict(self) -> None:
        """With no_new_privs: install the filter, the very last thing before execve."""
        if self.seccomp_bpf and self.no_new_privileges:
            seccomp.install(self.seccomp_bpf)


def _mask(names: "list[str] | None") -> int:
    try:
        return capabilities.mask(names or [])
    except KeyError as error:
        return faults.refuse(f"unknown capability: {error.args[0]}", "credentials", str(error.args[0]))


def own_streams(uid: int) -> None:
    """Give the standard streams to the user, so that it can open /dev/stdout; what has no owner is left alone."""
    null = os.makedev(1, 3)
    for fd in range(3):
        info = os.fstat(fd)
        if info.st_uid != uid and info.st_rdev != null:
            try:
                os.fchown(fd, uid, -1)
            except OSError:  # a read-only file system, an id that is not mapped: the program then has what it has
                continue
