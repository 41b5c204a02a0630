"""Namespaces: fork into new ones, join others', leave.

`clone_process` is a fork by raw clone: the C library's and Python's fork handlers know nothing of it, so Python's are
called by hand, with the GIL held all the time (PyDLL), or every child of Python 3.13 dies.
"""

import ctypes

from boxwright.linux import signals
from boxwright.linux.libc import NUMBERS, check, fault, function, syscall

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
_CLONE_PIDFD = 0x00001000
_CLONE_CLEAR_SIGHAND = 0x100000000
_CLONE_INTO_CGROUP = 0x200000000

# OCI namespace type: (clone flag, name in /proc/PID/ns).
KINDS: dict[str, tuple[int, str]] = {
    "mount": (CLONE_NEWNS, "mnt"),
    "pid": (CLONE_NEWPID, "pid"),
    "network": (CLONE_NEWNET, "net"),
    "uts": (CLONE_NEWUTS, "uts"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "user": (CLONE_NEWUSER, "user"),
    "time": (CLONE_NEWTIME, "time"),
}


class _CloneArgs(ctypes.Structure):  # struct clone_args, version 2 (Linux 5.7)
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


_ARGS_SIZE = ctypes.sizeof(_CloneArgs)
_held = ctypes.PyDLL(None, use_errno=True)  # PyDLL: the GIL stays held across the call, in both processes
_raw_clone3, _raw_clone = _held["syscall"], _held["syscall"]  # two function objects: one for each signature
_raw_clone3.restype = _raw_clone.restype = ctypes.c_long
_raw_clone3.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_long]
_raw_clone.argtypes = [ctypes.c_long, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
_before, _parent, _child = _held.PyOS_BeforeFork, _held.PyOS_AfterFork_Parent, _held.PyOS_AfterFork_Child
for _hook in (_before, _parent, _child):
    _hook.restype, _hook.argtypes = None, []
_unshare = function("unshare", ctypes.c_int)


def clone_process(flags: int = 0, *, cgroup_fd: int = -1, legacy: bool = False, name: str = "") -> tuple[int, int]:
    """Fork into new namespaces: (pid, pidfd) in the parent, (0, -1) in the child.

    flags: CLONE_NEW* and CLONE_PARENT.
    cgroup_fd: directory of a cgroup v2 group in which the child is born (CLONE_INTO_CGROUP), or -1.
    legacy: by clone(2), which seccomp filters let pass where they cannot look into clone3's arguments.
    name: for the error.

    The child starts with every signal blocked and, but by `legacy`, every handler reset; it unblocks them
    (`signals.reset`) once its dispositions are set, so no handler of the parent ever runs in it.
    """
    pidfd = ctypes.c_int(-1)
    mask = signals.block(signals.ALL)
    _before()
    pid = _clone2(flags, pidfd) if legacy else _clone3(flags, pidfd, cgroup_fd)
    if pid == 0:
        _child()
        return 0, -1
    number = ctypes.get_errno()
    _parent()
    signals.set_mask(mask)
    if pid < 0:
        raise fault(number, "clone", name)
    return pid, pidfd.value  # the kernel opens it close-on-exec


def _clone3(flags: int, pidfd: "ctypes.c_int", cgroup_fd: int) -> int:
    args = _CloneArgs()
    args.flags = flags | _CLONE_PIDFD | _CLONE_CLEAR_SIGHAND
    args.pidfd = ctypes.addressof(pidfd)
    args.exit_signal = 0 if flags & CLONE_PARENT else signals.SIGCHLD  # CLONE_PARENT takes over the parent's own
    if cgroup_fd >= 0:
        args.flags |= _CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    return int(_raw_clone3(NUMBERS["clone3"], ctypes.addressof(args), _ARGS_SIZE))


def _clone2(flags: int, pidfd: "ctypes.c_int") -> int:
    # No new stack: the child goes on with a copy of ours.  The order of the last two arguments differs between
    # architectures; both are 0.
    bits = flags | _CLONE_PIDFD | signals.SIGCHLD
    return int(_raw_clone(NUMBERS["clone"], bits, 0, ctypes.addressof(pidfd), 0, 0))


def unshare(flags: int, name: str = "") -> None:
    """Leave the namespaces of `flags` for new ones."""
    check("unshare", name, _unshare, flags)


def setns(fd: int, flags: int, name: str = "") -> None:
    """Join the namespace that `fd` names, or with a pidfd all of `flags` at once (Linux 5.8); checks the type."""
    syscall("setns", name, fd, flags)
