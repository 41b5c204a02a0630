"""What a container's first process and its parent say to each other.

    parent (shim, runtime)                              child (init, or the helper of an exec)
      clone ──────────────────────────────────────────▶   joins and leaves namespaces
                                                     ◀──  UNSHARED   (staged user namespace: the maps are due)
                                                     ◀──  FORKED     {pid} + pidfd       (staged: the child goes on)
                                                     ◀──  NETWORK    + netlink socket    (if wanted)
      id maps, cgroup, oom_score_adj ── PLACED ───────▶   (with a user namespace; else it places itself)
                                                          mounts, devices, console, pivot_root, masks, sysctls
                                                     ◀──  READY      {steps} + pty master (if terminal)
      rlimits; meanwhile the engine's network
      release_gate ─────────────────── GO ────────────▶   final credentials, seccomp
                                                     ◀──  FORKED     {pid} + pidfd       (late: a pid namespace joined)
                                                     ◀──  EXECUTING  {steps}
                                                          execve
                                                     ◀──  end of file: the socket is close-on-exec
      at any time after clone                        ◀──  FAILED     {error, steps}, then the child ends

One SEQPACKET message each: a JSON array [kind, body], descriptors by SCM_RIGHTS.  Steps follow on a line of their own,
so that a parent that only passes them on (a shim) need not decode them.  End of file before EXECUTING means
that the child was killed.  The parent going away (end of file at the child) means: end, without a trace.
An exec has no gate: it goes on from READY by itself, or with rlimits from the GO that `feed` sends when they are set.
"""

import errno
import fcntl
import os
import select
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
    socketpair,
)
from array import array
from time import sleep

from boxwright.errdefs import StepError
from boxwright.libcontainer import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Child to parent.
UNSHARED = "unshared"
NETWORK = "network"
READY = "ready"
FORKED = "forked"
EXECUTING = "executing"
FAILED = "failed"
DONE = "done"  # nothing more is read: the program runs, or the child is dead
# Parent to child.
PLACED = "placed"
GO = "go"

# (kind of the last message, kind of the next): what a parent accepts from a child.  A child that has run a hostile
# image's code cannot speak here any more; the table keeps our own code honest.
FOLLOWS: dict[str, tuple[str, ...]] = {
    "": (UNSHARED, NETWORK, READY, FORKED, EXECUTING, FAILED),
    UNSHARED: (FORKED, FAILED),
    NETWORK: (READY, FAILED),
    READY: (FORKED, EXECUTING, FAILED),
    FORKED: (NETWORK, READY, EXECUTING, FAILED),
    EXECUTING: (FAILED,),
    FAILED: (),
    DONE: (),
}
_LIMIT = 65536  # bytes of one message
# How sending fails for a moment, for want of memory or with too many descriptors under way; a second in all.
_PASSING = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
_ATTEMPTS, _PAUSE = 100, 0.01
_MAX_FDS = 4
_FD_SPACE = CMSG_SPACE(_MAX_FDS * 4)


def pair() -> tuple[socket, socket]:
    """(parent's end, child's end); both close-on-exec, both blocking."""
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)


def above(sock: socket, lowest: int) -> socket:
    """`sock` on a descriptor of at least `lowest`: the lower ones will be the program's."""
    if sock.fileno() >= lowest:
        return sock
    moved = socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest))
    sock.close()
    return moved


def accept(listener: int) -> socket:
    """The next connection on the listening descriptor, which it closes."""
    gate = socket(fileno=listener)
    try:
        fd, _ = gate._accept()  # type: ignore[attr-defined]  # what socket.socket.accept calls
        return socket(fileno=fd)
    finally:
        gate.close()


def send(sock: socket, kind: str, body: "dict[str, Any] | None" = None, fds: "Sequence[int]" = ()) -> None:
    """Send one message; a body that does not fit loses its steps, never its error."""
    told = dict(body or {})
    steps = told.pop("steps", None)
    data = jsontext.dumps([kind, told]).encode()
    if steps:
        whole = data + b"\n" + jsontext.dumps(steps).encode()
        data = whole if len(whole) <= _LIMIT else data
    ancillary = [(SOL_SOCKET, SCM_RIGHTS, array("i", fds))] if fds else []
    for attempt in range(_ATTEMPTS):
        try:
            sock.sendmsg([data], ancillary, MSG_NOSIGNAL)
            return
        except OSError as error:
            # A failure that is not told of looks like a program that ran and ended.
            if error.errno not in _PASSING or attempt == _ATTEMPTS - 1:
                raise
        sleep(_PAUSE)


def receive(sock: socket) -> "tuple[str, dict[str, Any], list[int]]":
    """The next message: (kind, body, descriptors); kind "" at end of file.

    Raises BlockingIOError when the socket is non-blocking and nothing is there, ValueError for what is no message.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(_LIMIT, _FD_SPACE, MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The other end is gone and left something of ours unread.  The kernel says so once, before it hands out what
        # the other end had sent.
        data, ancillary, flags, _ = sock.recvmsg(_LIMIT, _FD_SPACE, MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds.extend(array("i", payload[: len(payload) // 4 * 4]))
    if not data:
        return "", {}, fds
    try:
        if flags & (MSG_TRUNC | MSG_CTRUNC):
            raise ValueError("message too long")
        line, _, steps = data.partition(b"\n")
        word, body = jsontext.loads(line)
        if not isinstance(word, str) or not isinstance(body, dict):
            raise ValueError("not [kind, body]")
        if steps:
            body["steps"] = jsontext.loads(steps)
    except ValueError as error:
        for fd in fds:
            os.close(fd)
        raise ValueError(f"no message: {error}") from error
    return word, body, fds


def await_execve(sock: socket) -> int:
    """Block until the child on a gate's connection has executed its program; raises StepError when it fails.

    Returns the program's pid when it is not the child's (a joined pid namespace), else 0.
    """
    started, pid = False, 0
    while True:
        kind, body, fds = receive(sock)
        for fd in fds:
            os.close(fd)
        if kind == FAILED:
            raise StepError.from_dict(body.get("error") or {})
        if not kind:
            if started:
                return pid
            raise StepError("the container's first process ended before its program could be executed", step="start")
        started = kind == EXECUTING
        if kind == FORKED:
            pid = body["pid"]


def is_hung_up(sock: socket) -> bool:
    """Whether the other end is gone, though something of it may be unread."""
    poller = select.poll()
    poller.register(sock.fileno(), 0)
    return bool(poller.poll(0))


def is_closed(sock: socket) -> bool:
    """Whether the other end is gone (and has left nothing unread)."""
    try:
        return sock.recv(1, MSG_PEEK | MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
