"""Packets: JSON and descriptors over AF_UNIX SOCK_SEQPACKET, between engine, launcher, shims and starters.

A packet is a JSON object on one line, optionally followed by a newline and a *body*: bytes for somebody further on,
which the receiver passes on undecoded.  Descriptors travel beside it (SCM_RIGHTS).  What is longer than INLINE goes
into a memfd, which is then the last descriptor.

This is on the path of every shim, which is why it uses `_socket` itself: its Python half loads `enum`, and each page
that that touches is a page of every container's memory.
"""

import errno
import os
import resource
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
    socketpair,
)
from array import array

from boxwright.libcontainer.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

INLINE = 96 << 10  # bytes; the default SO_SNDBUF (208 KiB) holds one such packet with room to spare
LARGEST = 16 << 20  # bytes; a longer one is an error of ours
MAX_FDS = 64  # the kernel's limit is 253

# Descriptors are looked for below this number; the launcher and a shim have a few dozen.  They are closed by
# os.closerange, in C, rather than by our own wrapper of close_range(2), which dirties forty pages.
HIGHEST_FD = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16)

# What a launcher is asked for: a child for now, or a shim whose start comes later.
FORK, SPARE = b"fork", b"spare "
LONGEST_REQUEST = 32 << 10  # bytes

# How sending fails for a moment: the other side does not read; no memory; too many descriptors are under way.
_PASSING = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
RETRY_NS = 10_000_000  # for those of which nothing says when they have passed
AGAIN_NS = 100_000_000  # before a connection is accepted for which there was no descriptor

# What shims and engines say to each other after a start, by number; a shim that names none is of UNNUMBERED.  With a
# message that the other side would not understand the number grows, and SPOKEN lists those that an engine adopts.
PROTOCOL, UNNUMBERED = 2, 1
SPOKEN = (1, 2)

_IN_MEMFD = b"M"
# One packet at a time is received, into one buffer: a new one for each would be mapped and unmapped each time.
_received = bytearray(INLINE)
_KIND = SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC
_FD_SPACE = CMSG_SPACE(4 * MAX_FDS)


def encode(message: "dict[str, Any]", fds: "Iterable[int]" = (), body: bytes = b"") -> tuple[bytes, list[int], int]:
    """The packet for `message`: its bytes, its descriptors, and the memfd among them that the caller closes (or -1)."""
    data = dumps(message).encode()
    if body:
        data += b"\n" + body
    passed = list(fds)
    if len(data) <= INLINE:
        return data, passed, -1
    memfd = os.memfd_create("boxwright-message", os.MFD_CLOEXEC)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(memfd, rest) :]
    return _IN_MEMFD, [*passed, memfd], memfd


def decode(data: bytes, fds: list[int]) -> "dict[str, Any]":
    """The message of a received packet, a body under "body"; takes the memfd off `fds`.  Raises ValueError."""
    if data == _IN_MEMFD:
        data = _from_memfd(fds)
    line, _, body = data.partition(b"\n")
    message = loads(line)
    if type(message) is not dict:
        raise ValueError("a message must be a JSON object")
    if body:
        message["body"] = body
    return message


def _from_memfd(fds: list[int]) -> bytes:
    if not fds:
        raise ValueError("a long message came without its memfd")
    memfd = fds.pop()
    try:
        size = os.fstat(memfd).st_size
        if size > LARGEST:
            raise ValueError(f"a message of {size} bytes is too long")
        return os.pread(memfd, size, 0)
    finally:
        os.close(memfd)


def send(sock: socket, message: "dict[str, Any]", fds: "Iterable[int]" = (), body: bytes = b"") -> None:
    """Send one message.  Raises BlockingIOError when a non-blocking socket is full: nothing was sent then."""
    data, passed, memfd = encode(message, fds, body)
    try:
        send_packet(sock, data, passed)
    finally:
        if memfd >= 0:
            os.close(memfd)


def send_packet(sock: socket, data: bytes, fds: list[int]) -> None:
    """One packet with descriptors."""
    sock.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, array("i", fds))] if fds else [], MSG_NOSIGNAL)


def passes(failure: OSError) -> bool:
    """Whether sending the same packet again can work."""
    return failure.errno in _PASSING


class Cut(ValueError):
    """A packet whose descriptors the kernel could not give us: there is no room for more of them (EMFILE).

    data: the packet's bytes; all of its descriptors are closed.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__("no room for a packet's descriptors")
        self.data = data


def receive(sock: socket) -> "tuple[dict[str, Any], list[int]] | None":
    """The next message and its descriptors (close-on-exec, the caller's), or None at the end.

    Raises BlockingIOError when a non-blocking socket has nothing, ValueError for a packet that is no message (Cut for
    one whose descriptors are lost).
    """
    packet = receive_packet(sock)
    if packet is None:
        return None
    data, fds = packet
    try:
        return decode(data, fds), fds
    except ValueError:
        close_all(fds)
        raise


def receive_packet(sock: socket) -> tuple[bytes, list[int]] | None:
    """The next packet undecoded; None at the end (our packets are never empty).  Raises as `receive`."""
    try:
        try:
            size, ancillary, flags, _ = sock.recvmsg_into([_received], _FD_SPACE, MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # The other end is gone and left something of ours unread.  The kernel says so once, before it hands out
            # what the other end had sent.
            size, ancillary, flags, _ = sock.recvmsg_into([_received], _FD_SPACE, MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    fds: list[int] = []
    for level, kind, value in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds.extend(array("i", value[: len(value) - len(value) % 4]))
    if not size or flags & (MSG_TRUNC | MSG_CTRUNC):
        close_all(fds)
        if flags & MSG_TRUNC:
            raise ValueError("a packet was cut short")
        if size:
            raise Cut(bytes(memoryview(_received)[:size]))
        return None
    return bytes(memoryview(_received)[:size]), fds


def close_all(fds: "Iterable[int]") -> None:
    """Close each descriptor; one that is closed already is no error."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


def pair() -> tuple[socket, socket]:
    """A connected pair of non-blocking sockets."""
    return socketpair(AF_UNIX, _KIND)


def bind(directory: str, name: str, backlog: int = 128) -> socket:
    """A listening socket at `directory/name`, mode 0600; an old one there is replaced by rename.

    Bound through /proc/self/fd, so that directories longer than sun_path (108 bytes) work.
    """
    sock = socket(AF_UNIX, _KIND)
    dirfd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fresh = f".{os.getpid():x}.new"
    try:
        try:
            os.unlink(fresh, dir_fd=dirfd)
        except FileNotFoundError:
            pass
        sock.bind(f"/proc/self/fd/{dirfd}/{fresh}")
        os.chmod(fresh, 0o600, dir_fd=dirfd)
        sock.listen(backlog)
        os.rename(fresh, name, src_dir_fd=dirfd, dst_dir_fd=dirfd)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(dirfd)
    return sock


def accept(listener: socket) -> socket:
    """The next connection to a listening socket, non-blocking.  Raises BlockingIOError when there is none."""
    fd, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept calls
    return adopt(fd)


def adopt(fd: int) -> socket:
    """The socket that descriptor `fd` is, non-blocking."""
    sock = socket(fileno=fd)
    sock.setblocking(False)
    return sock


def connect(directory: str, name: str) -> socket:
    """A non-blocking connection to the socket `directory/name`.

    Raises FileNotFoundError or ConnectionRefusedError when nobody listens, BlockingIOError when its backlog is full.
    """
    sock = socket(AF_UNIX, _KIND)
    dirfd = -1
    try:
        dirfd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(f"/proc/self/fd/{dirfd}/{name}")
    except BaseException:
        sock.close()
        raise
    finally:
        if dirfd >= 0:
            os.close(dirfd)
    return sock
