"""seccomp(2): installing a filter on the calling process."""

import ctypes

from boxwright.linux.libc import syscall

FILTER_FLAG_TSYNC = 1
FILTER_FLAG_LOG = 2
FILTER_FLAG_SPEC_ALLOW = 4
FILTER_FLAG_WAIT_KILLABLE_RECV = 32

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS of the kernel."""

RET_ERRNO = 0x00050000

_GET_ACTION_AVAIL = 2
_SET_MODE_FILTER = 1


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def set_filter(program: bytes, flags: int) -> None:
    """Put a classic BPF program (struct sock_filter, eight bytes each) over every later system call of this thread.

    Needs CAP_SYS_ADMIN in the user namespace or no_new_privs.  Nothing undoes it.
    """
    text = ctypes.create_string_buffer(program, len(program))
    argument = _Program(len(program) // 8, ctypes.addressof(text))
    syscall("seccomp", "filter", _SET_MODE_FILTER, flags, ctypes.byref(argument))


def action_available(action: int) -> bool:
    """Whether this kernel knows a SECCOMP_RET_* action; False also without seccomp."""
    number = ctypes.c_uint32(action)
    try:
        syscall("seccomp", "action", _GET_ACTION_AVAIL, 0, ctypes.byref(number))
    except OSError:
        return False
    return True
