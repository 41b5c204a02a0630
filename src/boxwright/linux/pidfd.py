"""Processes by descriptor: a pidfd never comes to mean another process."""

import errno
import os
import select

from boxwright.linux import signals
from boxwright.linux.libc import fault, syscall


def open_pid(pid: int) -> int:
    """pidfd_open(2); raises ProcessLookupError when there is no such process."""
    try:
        return syscall("pidfd_open", pid, pid, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # So says the kernel of a process whose last thread is just being reaped, and of a thread that leads none.
        raise fault(errno.ESRCH, "pidfd_open", pid) from None


def send_signal(fd: int, number: int) -> None:
    """pidfd_send_signal(2); raises ProcessLookupError when the process is gone."""
    signals.send(fd, number)


def wait(fd: int) -> int:
    """Reap the child behind `fd` (blocks until it ends) and return its status as Docker counts it: 0 to 255, or 128
    plus the signal's number."""
    result = os.waitid(os.P_PIDFD, fd, os.WEXITED)
    if result is None:  # only with WNOHANG, which is not passed
        return 0
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def await_end(fd: int, milliseconds: int | None = None) -> bool:
    """Wait for the end of the process behind `fd`, not only of a child; False when it lives on after the time."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(milliseconds))


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (proc(5), field 22): with the pid it names one process for ever."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        # The name may hold spaces and parentheses; the fields after the last ")" hold neither.
        return int(stat.read(4096).rpartition(b")")[2].split()[19])
