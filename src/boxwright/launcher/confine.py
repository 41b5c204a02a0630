"""How a confined job gives things up, in a child of the worker launcher.

The child runs as root until `enter`; then it is inside a root of its own, in a private mount namespace that holds
nothing else, with the few capabilities that its row in the table names, no way to gain others, nothing to import from
and no descriptor but those it was given.  A decoder of hostile bytes runs in a helper that does not even have these.

    engine ──socket── job ──pipe── helper
    closes it: both are killed (they are one process group)
"""

import fcntl
import os
import resource
import select
import signal
import sys
from _socket import socket
from collections.abc import Callable, Sequence
from typing import Any

from boxwright.errdefs import System
from boxwright.launcher import jobfilter, protocol
from boxwright.linux import capabilities, mount, namespaces, process

# Of one job: (resource, limit).  Memory covers the widest decoder's window and then some.
LIMITS = (
    (resource.RLIMIT_AS, 2 << 30),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 2048),
    (resource.RLIMIT_CPU, 3600),
    (resource.RLIMIT_MEMLOCK, 0),
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LONGEST_PROBLEM = 1000


class Confinement:
    """What a job function is given; see `boxwright/confined.py`.  One for each child."""

    def __init__(self, sock: socket, names: Sequence[str]) -> None:
        """sock: the control socket.  names: the capabilities that stay."""
        self._sock = sock
        self._names = names
        self.entered = False
        _watch(sock)

    def emit(self, progress: dict[str, Any]) -> None:
        protocol.send(self._sock, {"progress": progress})

    def helper(self, function: Callable[[int], None], keep: Sequence[int]) -> tuple[int, Callable[[], str]]:
        if self.entered:
            raise System("a helper has to be started before the job enters its root")
        data, out = os.pipe2(os.O_CLOEXEC)
        problem, report = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _help(function, out, report, keep)
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
        _enter(root_fd, detached, self._names, "job", mount.ATTR_RDONLY if readonly else 0)
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


def _help(function: Callable[[int], None], out: int, report: int, keep: Sequence[int]) -> None:
    """The helper's life; does not return."""
    code = 1
    try:
        process.close_all_except({2, out, report, *keep})
        process.reset_signals()
        process.die_with_parent()
        _enter(-1, False, (), "helper")
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


def _enter(root_fd: int, detached: bool, names: Sequence[str], allowed: str, attributes: int = 0) -> None:
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
    namespaces.unshare(namespaces.CLONE_NEWNS)
    slash = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # Before anything is attached: or it would show up in the host's table.
    mount.set_attributes(slash, propagation=mount.PROPAGATION_PRIVATE, recursive=True, name="/")
    mount.move_mount(tree, slash, "/")
    os.close(slash)
    if root_fd >= 0 and not detached:
        os.close(root_fd)  # a directory outside of the new root: a way back
    os.fchdir(tree)
    os.close(tree)
    try:
        mount.pivot_root(".", ".")
        mount.umount(".", mount.MNT_DETACH)
    except OSError:
        os.chroot(".")  # the first root file system of the machine (initramfs) cannot be pivoted away
    os.chdir("/")
    if not os.path.samestat(os.stat("/"), os.stat("/..")):
        raise System("the job's root has something mounted over it")  # and ".." would lead there
    _give_up(bits, present)
    jobfilter.install(allowed)


def _empty_root() -> int:
    context = mount.fsopen("tmpfs")
    try:
        mount.set_string(context, "size", "4096")
        mount.create(context, "tmpfs")
        return mount.fsmount(context, mount.ATTR_RDONLY, "tmpfs")
    finally:
        os.close(context)


def _give_up(bits: int, present: int) -> None:
    os.umask(0o077)
    for which, limit in LIMITS:
        _, hard = resource.getrlimit(which)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (limit, limit))
    for places in (sys.path, sys.meta_path, sys.path_hooks):
        places.clear()
    sys.path_importer_cache.clear()
    process.set_no_new_privileges()
    process.set_dumpable(False)
    capabilities.limit_bounding(bits, present)
    capabilities.apply(bits, bits, 0, 0)


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
