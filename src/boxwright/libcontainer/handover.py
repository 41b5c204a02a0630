"""From a prepared child to the program: credentials, the last fork where one is due, execve; or how it failed.

Shared by init and by exec.  What happens here happens inside the container's root.
"""

import errno
import fcntl
import os
from time import monotonic_ns

from boxwright.errdefs import StepError
from boxwright.libcontainer import console, faults, program, reaper, sync
from boxwright.libcontainer.credentials import own_streams
from boxwright.linux import namespaces, process, signals
from boxwright.linux.libc import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence
    from typing import NoReturn

    from boxwright.libcontainer.credentials import Credentials
    from boxwright.libcontainer.users import User
    from boxwright.trace import Timeline

EXIT_ABORTED = 128  # the parent is gone, or closed the gate


class Program:
    """What is to run, as whom, and how the last steps go (see `process.InitRequest` for the options)."""

    __slots__ = (
        "arguments",
        "credentials",
        "die_with_parent",
        "keep_fds",
        "late_fork",
        "reaper",
        "subreaper",
        "terminal",
        "user",
        "variables",
    )

    def __init__(
        self,
        arguments: "list[str]",
        variables: dict[str, str],
        user: "User",
        credentials: "Credentials",
        *,
        keep_fds: "Sequence[int]" = (),
        die_with_parent: bool = True,
        terminal: bool = False,
        late_fork: bool = False,
        reaper: bool = False,
        subreaper: bool = False,
    ) -> None:
        self.arguments, self.variables, self.user, self.credentials = arguments, variables, user, credentials
        self.keep_fds = keep_fds
        self.die_with_parent = die_with_parent
        self.terminal = terminal
        self.late_fork = late_fork
        self.reaper = reaper
        self.subreaper = subreaper


def hand_over(wanted: Program, sock: "socket", timeline: "Timeline") -> None:
    """Become the program.  Returns never, but by raising."""
    with timeline.step("credentials", f"{wanted.user.uid}:{wanted.user.gid}"):
        own_streams(wanted.user.uid)
        keep = _place_descriptors(wanted.keep_fds, sock)
        wanted.credentials.take(wanted.user, wanted.die_with_parent)
    _check_directory()
    if wanted.late_fork:
        # Everything is final: what the container's processes can now look into holds nothing that is not theirs.
        process.close_all_except(keep)
        fork_again(sock, wanted.die_with_parent, legacy=True)
    if wanted.subreaper:
        try:
            process.become_subreaper()
        except OSError:
            pass  # a filter that is in force already forbids it: orphans are found by their session only
    if wanted.terminal:
        console.control()
    if wanted.reaper:
        process.close_all_except(keep)
        reaper.fork_program(sock)
    _execute(wanted, sock, timeline)


def _execute(wanted: Program, sock: "socket", timeline: "Timeline") -> None:
    if not wanted.arguments:
        raise StepError("no command specified", step="execve", errno=errno.EINVAL)
    path = program.find(wanted.arguments[0], wanted.variables)
    sync.send(sock, sync.EXECUTING, {"steps": timeline.steps, "path": path, "execve_ns": monotonic_ns()})
    timeline.steps = []
    wanted.credentials.restrict()
    program.execute(path, wanted.arguments, wanted.variables)


def fail(sock: "socket", error: BaseException, timeline: "Timeline") -> "NoReturn":
    """Report `error` to the parent and end with its exit code."""
    found = as_step_error(error)
    try:
        sync.send(sock, sync.FAILED, {"error": found.to_dict(), "steps": timeline.steps})
    except OSError:  # the parent is gone: nobody is left to tell
        pass
    os._exit(found.exit_code & 0xFF)


def as_step_error(error: BaseException) -> StepError:
    """Any failure of a child as what crosses the socket."""
    if isinstance(error, StepError):
        return error
    if isinstance(error, OSError):
        return faults.step_error(error, "init")
    return StepError(f"{type(error).__name__}: {error}", step="init", hint="this is a defect of boxwright: report it")


def _place_descriptors(keep_fds: "Sequence[int]", sock: "socket") -> "set[int]":
    """The program gets 0, 1, 2 and `keep_fds` as 3, 4, …; everything else closes at execve (CVE-2024-21626)."""
    count = len(keep_fds)
    process.close_on_exec_from(3)
    if count:
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + count) for fd in keep_fds]
        for index, fd in enumerate(moved):
            os.dup2(fd, 3 + index)
            os.close(fd)
    return {*range(3 + count), sock.fileno()}


def _check_directory() -> None:
    """The working directory must be inside the root: the kernel names one that is not "(unreachable)…"."""
    try:
        path = os.getcwd()
    except FileNotFoundError:
        path = ""
    if not path.startswith("/"):
        raise StepError(
            "current working directory is outside of container mount namespace root",
            step="cwd",
            operation="getcwd",
            path=path,
            errno=errno.EXDEV,
        )


def fork_again(sock: "socket", die_with_parent: bool, flags: int = 0, *, legacy: bool = False) -> None:
    """Go on in a child of the same parent, which reaps it (CLONE_PARENT); this process, a helper now, ends.

    flags: new namespaces; those that were joined for children take effect too (pid).
    legacy: by clone(2): Docker's filter, which may be in force already, lets clone pass but not clone3.
    The child waits on a pipe until the parent knows of it: what it says itself comes after FORKED, and if this helper
    is killed before, it ends.
    """
    told, tell = os.pipe()
    try:
        pid, pidfd = namespaces.clone_process(namespaces.CLONE_PARENT | flags, legacy=legacy, name="program")
    except OSError as error:
        # A pid namespace whose first process has ended takes no more.
        raise faults.not_running() if error.errno == errno.ENOMEM else error from error
    if pid:
        sync.send(sock, sync.FORKED, {"pid": pid}, [pidfd])
        os.write(tell, b".")
        os._exit(0)
    os.close(tell)
    if not os.read(told, 1):
        os._exit(EXIT_ABORTED)
    os.close(told)
    signals.reset()
    os.setsid()
    if die_with_parent:
        process.die_with_parent()
        if sync.is_closed(sock):  # it died before that call
            raise fault(errno.ECANCELED, "clone", "program")
