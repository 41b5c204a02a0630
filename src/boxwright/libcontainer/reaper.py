"""`docker run --init`: stay as PID 1, run the program as a child, pass signals on, reap orphans, exit with its code."""

import ctypes
import errno
import os
import termios

from boxwright.linux import namespaces, process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import NoReturn

# Those of our own terminal, of our own children, and those that say nothing about the program.
_NOT_FORWARDED = signals.FAULTS | {signals.SIGCHLD, signals.SIGTTIN, signals.SIGTTOU}


def memory_to_hide() -> tuple[int, int, int]:
    """Addresses of this process's arguments, their end and the end of its environment: the launcher's, which PID 1
    would show.

    Read by the parent, whose memory the child has; proc(5), stat fields 48, 49 and 51.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46]), int(fields[48])


def disguise(memory: tuple[int, int, int], arguments: "list[str]") -> None:
    """Replace what /proc/1/cmdline and /proc/1/environ show by the name under which Docker's init is known.

    The kernel shows what goes on behind the arguments' old end up to the first NUL only (as for setproctitle): there
    the words are parted by spaces.
    """
    start, middle, end = memory
    words = [os.fsencode(word) for word in ("/sbin/docker-init", "--", *arguments)]
    shown = b"\0".join(words)
    if len(shown) >= middle - start:
        shown = b" ".join(words)
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, shown, min(len(shown), end - start - 1))
    process.set_name("docker-init")


def fork_program(sock: "socket") -> None:
    """Fork: the child returns, to execute the program; the parent stays here as PID 1 until the program has ended."""
    if os.getpid() != 1:
        process.become_subreaper()
    signals.set_mask(signals.ALL)
    pid, pidfd = namespaces.clone_process(legacy=True, name="program")
    if pid == 0:
        _take_terminal()
        signals.reset()
        return
    sock.close()
    os.close(pidfd)
    _reap(pid)


def _take_terminal() -> None:
    """The program leads its own process group, in the foreground of the terminal if there is one."""
    os.setpgid(0, 0)
    try:
        os.tcsetpgrp(0, os.getpgid(0))
    except (OSError, termios.error) as error:
        if error.args[0] not in (errno.ENOTTY, errno.ENXIO, errno.EBADF, errno.EPERM):
            raise


def _reap(program: int) -> "NoReturn":
    """Every signal is blocked, so each waits for `sigwait`; PID 1 ignores what it does not block."""
    process.close_all_except(set())
    while True:
        number = signals.wait(signals.ALL)
        if number != signals.SIGCHLD:
            if number not in _NOT_FORWARDED:
                _send(program, number)
            continue
        code = _collect(program)
        if code >= 0:
            os._exit(code)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _collect(program: int) -> int:
    """Reap all that has ended; the program's exit code when it is among them, else -1."""
    code = -1
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == program:
            exited = os.waitstatus_to_exitcode(status)
            code = exited if exited >= 0 else 128 - exited
