"""The connection of a log driver to where it sends: made again when it is lost, with growing pauses.

A receiver that does not take what is sent is waited for: that is how blocking mode slows a container down.  One that
cannot be reached is not: what was to be sent is lost, and counted by the caller.
"""

import errno
import os
import socket
import ssl
from time import monotonic

from boxwright.logger.addresses import SECURE, Address

DIAL_SECONDS = 10.0
FAREWELL_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds between attempts to connect


class Link:
    """One connection to `address`.

    context: for TLS.  Raises nothing before `connect`.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None = None) -> None:
        self.address, self._context = address, context
        self._sock: socket.socket | None = None
        self._pause, self._retry_at = FIRST_PAUSE, 0.0

    @property
    def is_datagram(self) -> bool:
        """Whether what is sent arrives in one piece each; known once connected."""
        return self._sock is not None and self._sock.type == socket.SOCK_DGRAM

    @property
    def name(self) -> str:
        """What it is called in error texts."""
        scheme = self.address.scheme
        return f"dial {'tcp' if scheme == SECURE else scheme} {self.address}"

    def connect(self) -> None:
        """Be connected.  Raises OSError that says to what not; for a while after that at once, without trying."""
        if self._sock is not None:
            return
        if monotonic() < self._retry_at:
            raise OSError(errno.EAGAIN, f"{self.name}: waiting before the next attempt")
        try:
            self._sock = self._dial()
        except OSError as failure:
            self._retry_at = monotonic() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            text = failure.strerror or str(failure)
            raise OSError(failure.errno or 0, f"{self.name}: connect: {text.lower()}") from failure
        self._pause, self._retry_at = FIRST_PAUSE, 0.0

    def _dial(self) -> socket.socket:
        scheme, host, port, path = self.address
        if scheme in ("unix", "unixgram"):
            return _dial_unix(path, (socket.SOCK_DGRAM,) if scheme == "unixgram" else _EITHER)
        if scheme == "udp":
            family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, kind, protocol)
            sock.connect(target)
            return sock
        sock = socket.create_connection((host, port), DIAL_SECONDS)
        try:
            if sock.getsockname() == sock.getpeername():
                # Nobody listens on this port of loopback, and the kernel chose it for this end too: TCP lets a socket
                # meet itself.  It would be filled up and then waited for, and keep the receiver from its own port.
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=host)
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def send(self, data: bytes) -> None:
        """One datagram, or bytes of a stream; once more on a new connection when the present one is gone.

        Raises OSError.
        """
        fresh = self._sock is None
        self.connect()
        try:
            self._send(data)
        except OSError as failure:
            if failure.errno in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self.close()
            if fresh:
                raise
            self.connect()
            self._send(data)

    def _send(self, data: bytes) -> None:
        assert self._sock is not None
        if self.is_datagram:
            self._sock.send(data)
        else:
            if not isinstance(self._sock, ssl.SSLSocket) and _is_closed(self._sock):
                raise ConnectionResetError(errno.ECONNRESET, "connection closed by the receiver")
            self._sock.sendall(data)

    def send_fd(self, fd: int) -> None:
        """An empty datagram with a descriptor.  Raises OSError."""
        self.connect()
        assert self._sock is not None
        socket.send_fds(self._sock, [b""], [fd])

    def receive(self, size: int, timeout: float) -> bytes:
        """What the other side answers; b"" at its end.  Raises OSError (TimeoutError)."""
        assert self._sock is not None
        self._sock.settimeout(timeout)
        try:
            return self._sock.recv(size)
        finally:
            self._sock.settimeout(None)

    def close(self) -> None:
        """Disconnect; `send` connects again."""
        sock, self._sock = self._sock, None
        if isinstance(sock, ssl.SSLSocket):
            _end_session(sock)
        if sock is not None:
            sock.close()


def _end_session(sock: ssl.SSLSocket) -> None:
    """Say goodbye and read what the receiver has sent: closing with anything unread (TLS 1.3's tickets) is a reset, by
    which it would lose what it has not read yet."""
    try:
        sock.settimeout(FAREWELL_SECONDS)
        sock.unwrap()
    except (OSError, ValueError):
        return  # it is gone, or does not answer


_EITHER = (socket.SOCK_DGRAM, socket.SOCK_STREAM)


def _dial_unix(path: str, kinds: tuple[int, ...]) -> socket.socket:
    last = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for kind in kinds:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.connect(path)
        except OSError as failure:
            sock.close()
            last = failure
        else:
            return sock
    raise last


def _is_closed(sock: socket.socket) -> bool:
    """Whether the receiver has closed its end: what is written then is lost without an error the first time."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
