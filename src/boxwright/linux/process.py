"""What a process can change about itself: prctl(2), descriptors, signals, names, groups."""

import ctypes
import os

from boxwright.linux import signals
from boxwright.linux.libc import check, function, prepared

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_LAST_FD = 0xFFFFFFFF  # close_range takes unsigned ints
_CLOSE_RANGE_CLOEXEC = 4

_close_range = prepared("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_prctl = function("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_sethostname = function("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_setdomainname = function("setdomainname", ctypes.c_char_p, ctypes.c_size_t)


def die_with_parent(number: int = signals.SIGKILL) -> None:
    """Get signal `number` when the parent thread ends; a change of user ids clears it (set it again after)."""
    check("prctl", "PR_SET_PDEATHSIG", _prctl, _PR_SET_PDEATHSIG, number, 0, 0, 0)


def set_dumpable(dumpable: bool) -> None:
    """Whether /proc/self belongs to our user and processes of the same user may trace us; execve sets it again."""
    check("prctl", "PR_SET_DUMPABLE", _prctl, _PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)


def keep_capabilities(keep: bool) -> None:
    """Whether permitted capabilities survive leaving user id 0."""
    check("prctl", "PR_SET_KEEPCAPS", _prctl, _PR_SET_KEEPCAPS, int(keep), 0, 0, 0)


def set_name(name: str) -> None:
    """The name that ps shows (15 bytes)."""
    buffer = ctypes.create_string_buffer(os.fsencode(name)[:15])
    check("prctl", "PR_SET_NAME", _prctl, _PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0)


def drop_bounding(capability: int) -> None:
    """Remove a capability from the bounding set."""
    check("prctl", f"PR_CAPBSET_DROP {capability}", _prctl, _PR_CAPBSET_DROP, capability, 0, 0, 0)


def set_no_new_privileges() -> None:
    """execve grants nothing from now on (set-user-ID bits, file capabilities)."""
    check("prctl", "PR_SET_NO_NEW_PRIVS", _prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def become_subreaper() -> None:
    """Orphaned descendants become our children."""
    check("prctl", "PR_SET_CHILD_SUBREAPER", _prctl, _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def clear_ambient() -> None:
    """Empty the ambient set."""
    check("prctl", "PR_CAP_AMBIENT", _prctl, _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)


def raise_ambient(capability: int) -> None:
    """Add a permitted and inheritable capability to the ambient set."""
    check("prctl", f"PR_CAP_AMBIENT {capability}", _prctl, _PR_CAP_AMBIENT, _AMBIENT_RAISE, capability, 0, 0)


def close_all_except(keep: "set[int]") -> None:
    """Close every descriptor that is not in `keep`."""
    first = 0
    for fd in sorted(keep):
        if fd > first:
            check("close_range", f"{first}-{fd - 1}", _close_range, first, fd - 1, 0)
        first = fd + 1
    check("close_range", f"{first}-", _close_range, first, _LAST_FD, 0)


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec: none of them reaches the program (CVE-2024-21626)."""
    check("close_range", f"{first}-", _close_range, first, _LAST_FD, _CLOSE_RANGE_CLOEXEC)


def set_hostname(name: str) -> None:
    """sethostname(2): at most 64 bytes."""
    raw = os.fsencode(name)
    check("sethostname", name, _sethostname, raw, len(raw))


def set_domainname(name: str) -> None:
    """setdomainname(2): at most 64 bytes."""
    raw = os.fsencode(name)
    check("setdomainname", name, _setdomainname, raw, len(raw))


reset_signals = signals.reset  # beside `close_all_except`: the first acts of a child
