"""How a confined job gives things up, in a child of the worker launcher.

The child runs as root until `enter`; then it is inside a root of its own, in a private mount namespace that holds
nothing else, with the few capabilities that its row in the table names, no way to gain others, nothing to import from
and no descriptor but those it was given.  A decoder of hostile bytes runs in a helper that does not even have these.

    engine ──socket── job ──pipe── helper
    closes it: both are killed (they are one process group)
"""

import fcntl
import os
import select
import signal
from _socket import socket
from collections.abc import Callable, Sequence
from typing import Any

from boxwright.errdefs import System
from boxwright.launcher import jobfilter, newroot, programs, protocol
from boxwright.linux import capabilities, mount, namespaces, process

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LONGEST_PROBLEM = 1000


class Confinement:
    """What a job function is given; see `boxwright/confined.py`.  One for each child."""

    def __init__(self, sock: socket, names: Sequence[str]) -> None:
        """sock: the control socket.  names: the capabilities that stay."""
        self._sock = sock
        self._names = names
        self._user = 0
        self.entered = False
        _watch(sock)

    def emit(self, progress: dict[str, Any]) -> None:
        protocol.send(self._sock, {"progress": progress})

    def helper(self, function: Callable[[int], None], keep: Sequence[int]) -> tuple[int, Callable[[], str]]:
        return self._child(function, keep, lambda: _enter(-1, False, (), "helper"))

    def programs(
        self, function: Callable[[int], None], keep: Sequence[int], work: int, largest: int
    ) -> tuple[int, Callable[[], str]]:
        """See `boxwright/confined.py`."""
        namespaces.unshare(namespaces.CLONE_NEWPID, "the programs of a job")  # its first process is the next child
        # The job becomes nobody, too: without that, or a capability, its end could not end the child (kill(2)).
        self._user = programs.NOBODY
        return self._child(function, [*keep, work], lambda: programs.enter(work, largest))

    def _child(
        self, function: Callable[[int], None], keep: Sequence[int], confine: Callable[[], None]
    ) -> tuple[int, Callable[[], str]]:
        if self.entered:
            raise System("a helper has to be started before the job enters its root")
        data, out = os.pipe2(os.O_CLOEXEC)
        problem, report = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _help(function, out, report, keep, confine)
        os.close(out)
        os.close(report)
        try:
            fcntl.fcntl(data, fcntl.F_SETPIPE_SZ, 1 << 20)  # fewer switches between the two
        except OSError:
            pass  # past the user's share of pipe memory: it works with less
        return data, lambda: _end(pid, problem)

    def enter(self, root_fd: int, *, detached: bool = False, readonly: bool = False) -> int:
        """See `boxwright/confined.py`.  detached: `root_fd` is a mount that is not attached anywhere yet."""
        if self.entered:
            raise System("a job enters its root once")
        self.entered = True
        _enter(root_fd, detached, self._names, "job", mount.ATTR_RDONLY if readonly else 0, self._user)
        return os.open("/", _DIRECTORY)

    def isolate(self, fd: int, *, readonly: bool = False) -> int:
        """See `boxwright/confined.py`."""
        tree = mount.open_tree(fd, "")
        attributes = mount.ATTR_RDONLY if readonly else 0
        mount.set_attributes(tree, mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC | attributes)
        os.close(fd)
        try:
            return os.open(".", _DIRECTORY, dir_fd=tree)
        finally:
            os.close(tree)


def _help(
    function: Callable[[int], None], out: int, report: int, keep: Sequence[int], confine: Callable[[], None]
) -> None:
    """The helper's life; does not return."""
    code = 1
    try:
        process.close_all_except({2, out, report, *keep})
        process.reset_signals()
        process.die_with_parent()
        confine()
        function(out)
        code = 0
    except BrokenPipeError:
        code = 0  # the job has seen enough
    except BaseException as error:
        os.write(report, (str(error) or type(error).__name__).encode(errors="replace")[:_LONGEST_PROBLEM])
    finally:
        os._exit(code)


def _end(pid: int, problem: int) -> str:
    """Wait for the helper; what went wrong in it, or ""."""
    text = os.read(problem, _LONGEST_PROBLEM).decode(errors="replace")
    os.close(problem)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"the decoder was killed by signal {os.WTERMSIG(status)}"
    return text or ("" if status == 0 else "the decoder failed")


def _enter(
    root_fd: int, detached: bool, names: Sequence[str], allowed: str, attributes: int = 0, user: int = 0
) -> None:
    bits = capabilities.mask(list(names)) if names else 0
    present = capabilities.bounding()  # reads /proc, which is about to go
    # A copy of the directory's mount can only be taken in the namespace that the descriptor comes from.
    tree = _empty_root() if root_fd < 0 else root_fd if detached else mount.open_tree(root_fd, "")
    mount.set_attributes(
        tree,
        mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC | attributes,
        propagation=mount.PROPAGATION_PRIVATE,
        name="the job's root",
    )
    if root_fd >= 0 and not detached:
        os.close(root_fd)  # a directory outside of the new root: a way back
    newroot.enter(tree)
    newroot.give_up(bits, present, user)
    jobfilter.install(allowed)


def _empty_root() -> int:
    context = mount.fsopen("tmpfs")
    try:
        mount.set_string(context, "size", "4096")
        mount.create(context, "tmpfs")
        return mount.fsmount(context, mount.ATTR_RDONLY, "tmpfs")
    finally:
        os.close(context)


def _watch(sock: socket) -> None:
    """Die when the engine lets go of the socket, wherever in its work the job is then.

    SIGIO also comes when the engine has read something; the handler asks which it was.
    """
    poll = select.poll()
    poll.register(sock, 0)

    def check(*_: object) -> None:
        if poll.poll(0):
            os.kill(0, signal.SIGKILL)

    signal.signal(signal.SIGIO, check)
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sock, fcntl.F_SETFL, fcntl.fcntl(sock, fcntl.F_GETFL) | os.O_ASYNC)
    check()
