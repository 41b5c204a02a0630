"""Signals by plain numbers: the C half of `signal` without its enums.

A look at one member of `signal.Signals` touches pages full of enum objects, and in a shim each of those is a page of a
container's memory; importing them takes 3 ms, resetting a child's dispositions through them 0.2 ms.
"""

import _signal  # type: ignore[import-not-found]
import ctypes
import os

from boxwright.linux.libc import check, function, prepared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

SIGHUP: int = _signal.SIGHUP
SIGINT: int = _signal.SIGINT
SIGKILL: int = _signal.SIGKILL
SIGTERM: int = _signal.SIGTERM
SIGCHLD: int = _signal.SIGCHLD
SIGSTOP: int = _signal.SIGSTOP
SIGXFSZ: int = _signal.SIGXFSZ
SIGPIPE: int = _signal.SIGPIPE
SIGURG: int = _signal.SIGURG
SIGWINCH: int = _signal.SIGWINCH
SIGTTIN: int = _signal.SIGTTIN
SIGTTOU: int = _signal.SIGTTOU
# The kernel sends these to the process that made the mistake.
FAULTS: frozenset[int] = frozenset(
    (
        _signal.SIGSEGV,
        _signal.SIGBUS,
        _signal.SIGFPE,
        _signal.SIGILL,
        _signal.SIGTRAP,
        _signal.SIGABRT,
        _signal.SIGSYS,
    )
)
LIMIT: int = _signal.NSIG
ALL: frozenset[int] = frozenset(_signal.valid_signals())  # without the C library's own two
_SET_BYTES = 128  # sizeof(sigset_t) in the C library
_signalfd = function("signalfd", ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_SETTABLE = tuple(sorted(ALL - {SIGKILL, SIGSTOP}))
# The C library lets nobody set them; its posix_spawn (make's, say) starts programs that ignore them.
_LIBRARYS = (32, 33)
_DEFAULT = bytes(32)  # the kernel's struct sigaction: SIG_DFL, no flags, nothing blocked
_rt_sigaction = prepared("rt_sigaction", ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)


def ignore(number: int) -> None:
    """Ignore signal `number` from now on; children inherit that, across execve too."""
    _signal.signal(number, _signal.SIG_IGN)


def descriptor(number: int) -> int:
    """Block signal `number`; the descriptor returned (non-blocking, close-on-exec) is readable when it is pending."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (number,))
    wanted = bytearray(_SET_BYTES)
    wanted[(number - 1) // 8] = 1 << (number - 1) % 8
    return check("signalfd", number, _signalfd, -1, bytes(wanted), os.O_NONBLOCK | os.O_CLOEXEC)


def block(numbers: "Iterable[int]") -> "set[int]":
    """Block `numbers` too; the mask before."""
    before: set[int] = _signal.pthread_sigmask(_signal.SIG_BLOCK, numbers)
    return before


def set_mask(numbers: "Iterable[int]") -> None:
    """Block `numbers` and no others."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, numbers)


def wait(numbers: "Iterable[int]") -> int:
    """The next of `numbers`, all of which are blocked; sigwait(3)."""
    return int(_signal.sigwait(numbers))


def handle(number: int, handler: "Callable[[int, Any], None]") -> None:
    """Call `handler` for signal `number`."""
    _signal.signal(number, handler)


def wake(fd: int) -> None:
    """Have the number of each handled signal written to `fd` (-1: no more)."""
    _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def alarm(seconds: int) -> None:
    """End this process by SIGALRM after `seconds`, whatever it is doing then."""
    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.alarm(seconds)


def send(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2); raises ProcessLookupError when the process is gone."""
    _signal.pidfd_send_signal(pidfd, number)


def reset() -> None:
    """Every disposition to its default (Python ignores SIGPIPE and SIGXFSZ, and what is ignored survives execve)
    and no signal blocked.  For processes of one thread."""
    _signal.set_wakeup_fd(-1)
    for number in _SETTABLE:
        if _signal.getsignal(number) != _signal.SIG_DFL:
            _signal.signal(number, _signal.SIG_DFL)
    for number in _LIBRARYS:
        _rt_sigaction(number, _DEFAULT, None, 8)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


_UP_TO_15 = [str(n) for n in range(1, 16)]


def number(text: str) -> int:
    """ "9", "KILL", "kill" or "SIGKILL" → 9, "RTMIN+3" → 37; raises ValueError."""
    if text.isascii() and text.isdigit():
        found = int(text)
    else:
        name = text.upper()
        name = name if name.startswith("SIG") else "SIG" + name
        found = 0 if name.startswith("SIG_") else getattr(_signal, name, 0)
        # The C library keeps the first two real-time signals for itself, so its RTMIN is 34; clients count from there.
        above, below = name.removeprefix("SIGRTMIN+"), name.removeprefix("SIGRTMAX-")
        if above in _UP_TO_15:
            found = _signal.SIGRTMIN + int(above)
        elif below in _UP_TO_15[:-1]:
            found = _signal.SIGRTMAX - int(below)
    if not 0 < found < LIMIT:
        raise ValueError(f"unknown signal {text!r}")
    return found
