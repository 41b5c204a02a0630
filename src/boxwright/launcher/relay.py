"""What carries IPv6 to a container's published ports: a child of its shim, as docker-proxy is one of dockerd.

    client ── [::]:8080 ──► relay ── 172.17.0.2:80 ──► container

The packet filter translates IPv4 to IPv4 only, and a container has no IPv6 address.  So the relay listens, and passes
on what comes: connections in both directions with their half-closes, datagrams with a session for each client.  It
works as nobody, without a capability, once its ports are bound, and ends with the shim: it sees the end of a socket.
Light imports only.
"""

import errno
import os
import resource
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SHUT_WR,
    SO_ERROR,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from time import monotonic_ns, sleep

from boxwright.launcher import packets, starter
from boxwright.launcher.loop import ERR, HUP, IN, OUT, Loop
from boxwright.linux import process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

MOST = 1000  # connections, and as many sessions of datagrams; a client more waits in the kernel's queue
PIECE = 64 << 10  # bytes read at once, and held for a side that does not read
IDLE_NS = 90_000_000_000  # before a session of datagrams is forgotten, as docker-proxy's
LOOK_NS = 10_000_000_000
PATIENCE_NS = 1_000_000_000  # for a port that is still taken
REST_NS = 50_000_000  # before a client is taken again, when there were too many
NOBODY = 65534
_BACKLOG = 1024
_KINDS = {"tcp": SOCK_STREAM, "udp": SOCK_DGRAM}
_READY = "ready"
_FLAGS = SOCK_NONBLOCK | SOCK_CLOEXEC


class Relay:
    """The child, as its shim holds it.  ready: it listens."""

    __slots__ = ("_loop", "_pidfd", "_said", "_sock", "ready")

    def __init__(self, loop: Loop, ports: "list[list[Any]]", said: "Callable[[str], None]") -> None:
        """Fork it.  ports: [protocol, host address, host port, container's address, container's port] each.

        said: called with "" once it listens, with the reason when it cannot, or ends before it is closed.
        Raises OSError.
        """
        self._loop, self._said, self.ready = loop, said, False
        self._sock, theirs = packets.pair()
        try:
            pid = os.fork()
            if not pid:
                _child(theirs, ports)
        finally:
            theirs.close()
        self._pidfd = os.pidfd_open(pid)
        loop.watch(self._sock.fileno(), IN, self._heard)

    def close(self) -> None:
        """End it: nothing more is carried."""
        if self._pidfd >= 0:
            signals.send(self._pidfd, signals.SIGKILL)
            self._forget()

    def _heard(self, _: int) -> None:
        try:
            why = self._sock.recv(1 << 12, MSG_DONTWAIT).decode("utf-8", "replace")
        except BlockingIOError:
            return
        except OSError:
            why = ""
        if why == _READY:
            self.ready = True
            self._said("")
            return
        self.close()
        self._said(why or "the relay of its ports on IPv6 has ended")

    def _forget(self) -> None:
        self._loop.forget(self._sock.fileno())
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        self._sock.close()


def _child(sock: "socket", ports: "list[list[Any]]") -> "NoReturn":
    try:
        keep = sock.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, packets.HIGHEST_FD)
        starter.set_name(b"boxwright-relay")
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        loop = Loop()
        try:
            for port in ports:
                _listen(loop, *port)
        except OSError as failure:
            reason = (failure.strerror or "").lower()
            text = f"failed to bind host port for [{port[1]}]:{port[2]}:{port[3]}:{port[4]}/{port[0]}: {reason}"
            sock.send(text.encode(), MSG_NOSIGNAL)
            os._exit(1)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        process.set_no_new_privileges()
        sock.send(_READY.encode(), MSG_NOSIGNAL)
        # The shim says nothing: what is to be read is its end.
        loop.watch(keep, IN, lambda mask: os._exit(0))
        loop.run()
    finally:
        os._exit(1)


def _listen(loop: Loop, protocol: str, host_ip: str, host_port: int, address: str, port: int) -> None:
    sock = socket(AF_INET6, _KINDS[protocol] | _FLAGS)
    sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
    if protocol == "tcp":
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    _bind(sock, host_ip, host_port)
    if protocol == "udp":
        Sessions(loop, sock, (address, port))
        return
    sock.listen(_BACKLOG)
    Door(loop, sock, (address, port))


def _bind(sock: socket, host_ip: str, host_port: int) -> None:
    """The engine has just seen that the port is free: who has it now may be a relay that is about to end."""
    deadline = monotonic_ns() + PATIENCE_NS
    while True:
        try:
            sock.bind((host_ip, host_port))
            return
        except OSError as failure:
            if failure.errno != errno.EADDRINUSE or monotonic_ns() > deadline:
                raise
        sleep(0.01)


class Door:
    """A listening socket: takes connections, as long as there are not too many."""

    __slots__ = ("_loop", "_sock", "_target", "count")

    def __init__(self, loop: Loop, sock: socket, target: tuple[str, int]) -> None:
        self._loop, self._sock, self._target = loop, sock, target
        self.count = 0
        loop.watch(sock.fileno(), IN, self._knock)

    def _knock(self, mask: int) -> None:
        if self.count >= MOST:
            self._rest()
            return
        client = None
        try:
            fd, _ = self._sock._accept()  # type: ignore[attr-defined]
            client = socket(AF_INET6, SOCK_STREAM, 0, fd)
            client.setblocking(False)
            server = socket(AF_INET, SOCK_STREAM | _FLAGS)
        except OSError as failure:
            if client is not None:
                client.close()
            if failure.errno not in (errno.EAGAIN, errno.ECONNABORTED):  # no descriptor or memory for it
                self._rest()
            return
        self.count += 1
        Connection(self._loop, client, server, self._target, self._ended)

    def _rest(self) -> None:
        """Take none for a while."""
        self._loop.change(self._sock.fileno(), 0)
        self._loop.at(monotonic_ns() + REST_NS, self._go_on)

    def _go_on(self) -> None:
        self._loop.change(self._sock.fileno(), IN)

    def _ended(self) -> None:
        self.count -= 1


class Connection:
    """A client and the container: what one sends, the other gets."""

    __slots__ = ("_client", "_connected", "_ended", "_loop", "_over", "_server", "_waiting", "_wanted")

    def __init__(
        self, loop: Loop, client: socket, server: socket, target: tuple[str, int], ended: "Callable[[], None]"
    ) -> None:
        self._loop, self._client, self._server, self._ended = loop, client, server, ended
        self._connected = False
        # By the side that is read: what the other has yet to take, and whether this one has sent its end.
        self._waiting = {client: b"", server: b""}
        self._over = {client: False, server: False}
        self._wanted = {client: 0, server: 0}
        server.connect_ex(target)
        self._want(server, client, OUT)

    def _happened(self, sock: socket, other: socket, mask: int) -> None:
        wanted = self._wanted[sock]
        try:
            if not self._connected:
                if sock.getsockopt(SOL_SOCKET, SO_ERROR):
                    raise ConnectionError  # the container refuses
                self._connected = True
            else:
                if wanted & IN and mask & (IN | HUP | ERR):
                    self._carry(sock, other)
                if wanted & OUT and mask & (OUT | HUP | ERR):
                    self._push(other, sock)
        except OSError:
            self._close()
            return
        if all(self._over.values()) and not any(self._waiting.values()):
            self._close()
            return
        for one, two in ((sock, other), (other, sock)):
            reads = not self._waiting[one] and not self._over[one]
            self._want(one, two, (IN if reads else 0) | (OUT if self._waiting[two] else 0))

    def _want(self, sock: socket, other: socket, events: int) -> None:
        """Watch for these events.  With none not at all: a hang-up that nobody can act upon would come for ever."""
        before, self._wanted[sock] = self._wanted[sock], events
        if before and events:
            self._loop.change(sock.fileno(), events)
        elif events:
            self._loop.watch(sock.fileno(), events, lambda mask: self._happened(sock, other, mask))
        elif before:
            self._loop.forget(sock.fileno())

    def _carry(self, sock: socket, other: socket) -> None:
        """From `sock` to `other`."""
        try:
            data = sock.recv(PIECE)
        except BlockingIOError:
            return
        self._waiting[sock], self._over[sock] = data, not data
        self._push(sock, other)

    def _push(self, sock: socket, other: socket) -> None:
        """What came from `sock` and waits, and its end after that."""
        if data := self._waiting[sock]:
            try:
                self._waiting[sock] = data[other.send(data, MSG_NOSIGNAL) :]
            except BlockingIOError:
                return
        if self._over[sock] and not self._waiting[sock]:
            other.shutdown(SHUT_WR)

    def _close(self) -> None:
        for sock in (self._client, self._server):
            self._loop.forget(sock.fileno())
            sock.close()
        self._ended()


class Sessions:
    """A socket for datagrams, and for each client one towards the container, so that answers find their way."""

    __slots__ = ("_known", "_loop", "_sock", "_target")

    def __init__(self, loop: Loop, sock: socket, target: tuple[str, int]) -> None:
        self._loop, self._sock, self._target = loop, sock, target
        # By the client's address, the one that was longest silent first.
        self._known: dict[Any, tuple[socket, int]] = {}
        loop.watch(sock.fileno(), IN, self._asked)

    def _asked(self, mask: int) -> None:
        try:
            data, client = self._sock.recvfrom(PIECE)
            self._session(client).send(data, MSG_NOSIGNAL)
        except OSError:
            pass  # a datagram may be lost

    def _session(self, client: "Any") -> socket:
        known = self._known.pop(client, None)
        if known is None:
            if len(self._known) >= MOST:
                self._forget(next(iter(self._known)))
            sock = socket(AF_INET, SOCK_DGRAM | _FLAGS)
            sock.connect(self._target)
            self._loop.watch(sock.fileno(), IN, lambda mask: self._answered(client, sock))
            if not self._known:
                self._loop.at(monotonic_ns() + LOOK_NS, self._look)
        else:
            sock = known[0]
        self._known[client] = sock, monotonic_ns()
        return sock

    def _answered(self, client: "Any", sock: socket) -> None:
        try:
            data = sock.recv(PIECE)
            self._known[client] = self._known.pop(client)[0], monotonic_ns()
            self._sock.sendto(data, MSG_NOSIGNAL, client)
        except OSError:
            pass  # nobody listens in the container, as an ICMP message says; or one that cannot be sent now

    def _look(self) -> None:
        """Forget who has been silent for long."""
        latest = monotonic_ns() - IDLE_NS
        for client in [client for client, (_, when) in self._known.items() if when < latest]:
            self._forget(client)
        if self._known:
            self._loop.at(monotonic_ns() + LOOK_NS, self._look)

    def _forget(self, client: "Any") -> None:
        sock, _ = self._known.pop(client)
        self._loop.forget(sock.fileno())
        sock.close()
