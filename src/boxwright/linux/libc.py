"""The C library and the raw system calls: argtypes set once, EINTR retried, errors name operation and path.

Every other module of `linux/` builds its wrappers from `function` and `syscall`.  A wrapper is one small function for
one system call; it raises `OSError(errno, "operation: text", path)` and returns the kernel's value otherwise.
"""

import ctypes
import errno
import os
from _functools import partial  # type: ignore[import-not-found]  # functools itself brings collections: 2 ms

LIBC = ctypes.CDLL(None, use_errno=True)

# Numbers of the calls that have no wrapper in Debian 12's C library.  From 424 on they are the same on every
# architecture (include/uapi/asm-generic/unistd.h); the others are looked up by machine.
_MACHINE = os.uname().machine
_OLD = {
    "x86_64": {"pivot_root": 155, "setns": 308, "capget": 125, "capset": 126, "seccomp": 317, "bpf": 321, "clone": 56,
               "keyctl": 250, "mknodat": 259, "finit_module": 313, "rt_sigaction": 13},
    "aarch64": {"pivot_root": 41, "setns": 268, "capget": 90, "capset": 91, "seccomp": 277, "bpf": 280, "clone": 220,
                "keyctl": 219, "mknodat": 33, "finit_module": 273, "rt_sigaction": 134},
}  # fmt: skip
NUMBERS: dict[str, int] = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    **_OLD.get(_MACHINE, {}),
}

_syscall = LIBC.syscall
_syscall.restype = ctypes.c_long


def function(name: str, *argtypes: type, restype: type = ctypes.c_int):  # type: ignore[no-untyped-def]
    """A function of the C library with its argument types set once; call it through `check`."""
    found = getattr(LIBC, name)
    found.argtypes, found.restype = argtypes, restype
    return found


def prepared(name: str, *argtypes: type):  # type: ignore[no-untyped-def]
    """The raw system call `name` (a key of NUMBERS) with its argument types set once; call it through `check`.

    Twice as fast as `syscall`, for what is called by the dozen on the way to a start.
    """
    found = LIBC["syscall"]  # a new function object, unlike LIBC.syscall
    found.restype = ctypes.c_long
    found.argtypes = [ctypes.c_long, *argtypes]
    return partial(found, NUMBERS.get(name, -1))  # -1: the kernel answers ENOSYS


def check(operation: str, path: object, call, *args: object) -> int:  # type: ignore[no-untyped-def]
    """Call `call(*args)`, again on EINTR; below zero raises OSError that names `operation` and `path`."""
    while True:
        result = call(*args)
        if result >= 0:
            return int(result)
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise fault(number, operation, path)


def syscall(operation: str, path: object, *args: object) -> int:
    """The raw system call `operation` (a key of NUMBERS); integer arguments are passed as C longs.

    Raises OSError(ENOSYS) by name when this architecture's number is not known.
    """
    number = NUMBERS.get(operation)
    if number is None:
        raise fault(errno.ENOSYS, operation, path)
    # A bare int would be passed as a C int: the upper half of a 64-bit register is then undefined.
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return check(operation, path, _syscall, ctypes.c_long(number), *wide)


def fault(number: int, operation: str, path: object = None) -> OSError:
    """The OSError for errno `number`: strerror carries the operation, filename the path."""
    text = f"{operation}: {os.strerror(number)}"
    return OSError(number, text) if path is None else OSError(number, text, _readable(path))


def _readable(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, (bytes, str)) else str(path)
