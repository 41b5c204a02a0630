"""Host ports: which container has which, and a socket on each so that no other program takes it.

The table `network_ports` tells our own containers apart; a bound socket of the engine does so for foreign programs, and
keeps the kernel from giving the port to an outgoing connection.  The socket never listens: until the container's
packet filter element is there, a client is refused, as it should be.
"""

import errno
import socket
from collections.abc import Iterable

from boxwright.db.connection import Database
from boxwright.errdefs import System
from boxwright.network.endpoint import Published
from boxwright.network.options import Binding, ephemeral_range

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


class PortMapper:
    """Allocates host ports; call `allocate` and `free` inside a database transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._held: dict[str, list[socket.socket]] = {}
        self._next: dict[str, int] = {}
        self._ephemeral: tuple[int, int] | None = None  # read by the first use, in the engine's namespace

    def allocate(self, endpoint: str, address: str, bindings: Iterable[Binding]) -> list[Published]:
        """Take a host port for each binding.  Raises System with Docker's texts, and then holds nothing.

        address: the container's, for the error's text.
        """
        published: dict[Binding, Published] = {}
        wanted = list(dict.fromkeys(bindings))
        held = self._held.setdefault(endpoint, [])
        # The transaction that we are part of may fail later for a reason of its own.
        self._db.on_rollback(lambda: self.let_go(endpoint))
        try:
            for binding in sorted(wanted, key=_freedom):
                port, sock = self._take(binding, address)
                if sock is not None:
                    held.append(sock)
                published[binding] = Published(binding.protocol, binding.host_ip, port, binding.container_port)
                sql = "INSERT INTO network_ports (protocol, port, host_ip, endpoint) VALUES (?, ?, ?, ?)"
                self._db.execute(sql, (binding.protocol, port, binding.host_ip, endpoint))
        except BaseException:
            self.let_go(endpoint)
            raise
        return [published[binding] for binding in wanted]

    def free(self, endpoint: str) -> None:
        """Give the endpoint's ports back."""
        self._db.execute("DELETE FROM network_ports WHERE endpoint = ?", (endpoint,))

    def hold(self, endpoint: str, published: Iterable[Published]) -> list[str]:
        """Reserve ports again after a restart; returns a line for each that another program has taken meanwhile."""
        lost = []
        held = self._held.setdefault(endpoint, [])
        for p in published:
            try:
                if (sock := _bind(p.protocol, p.host_ip, p.host_port)) is not None:
                    held.append(sock)
            except OSError as error:
                lost.append(f"{p.host_ip}:{p.host_port}/{p.protocol}: {error.strerror}")
        return lost

    def let_go(self, endpoint: str) -> None:
        """Close the endpoint's sockets."""
        for sock in self._held.pop(endpoint, ()):
            sock.close()

    def close(self) -> None:
        """Close every socket."""
        for endpoint in list(self._held):
            self.let_go(endpoint)

    def _take(self, binding: Binding, address: str) -> tuple[int, socket.socket | None]:
        if binding.host_high == 0:
            return self._take_any(binding)
        failure: System | None = None
        for port in range(binding.host_low, binding.host_high + 1):
            try:
                return port, self._try(binding, port, address)
            except System as error:
                failure = failure or error
        if binding.host_low != binding.host_high:
            raise System("all ports are allocated") from failure
        assert failure is not None
        raise failure

    def _try(self, binding: Binding, port: int, address: str) -> socket.socket | None:
        if self._taken(binding, port):
            raise System(f"Bind for {binding.host_ip}:{port} failed: port is already allocated")
        try:
            return _bind(binding.protocol, binding.host_ip, port)
        except OSError as error:
            reason = _GO_TEXTS.get(error.errno or 0, str(error.strerror).lower())
            what = f"{binding.host_ip}:{port}:{address}:{binding.container_port}/{binding.protocol}"
            raise System(f"failed to bind host port for {what}: {reason}") from error

    def _take_any(self, binding: Binding) -> tuple[int, socket.socket | None]:
        """The next ephemeral port that is free, cyclically, so that a port is not reused at once."""
        low, high = self._ephemeral = self._ephemeral or ephemeral_range()
        count = high - low + 1
        start = self._next.get(binding.protocol, low)
        for step in range(count):
            port = low + (start - low + step) % count
            if self._taken(binding, port):
                continue
            try:
                sock = _bind(binding.protocol, binding.host_ip, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise System(f"failed to bind host port for {binding.host_ip}:{port}: {error.strerror}") from error
            self._next[binding.protocol] = port + 1
            return port, sock
        raise System("all ports are allocated")

    def _taken(self, binding: Binding, port: int) -> bool:
        sql = "SELECT host_ip FROM network_ports WHERE protocol = ? AND port = ?"
        rows = self._db.query(sql, (binding.protocol, port))
        return any("0.0.0.0" in (ip, binding.host_ip) or ip == binding.host_ip for (ip,) in rows)


def _freedom(binding: Binding) -> int:
    """How much choice there is: fixed ports are taken before a range or "any" could take them away."""
    return 65536 if binding.host_high == 0 else binding.host_high - binding.host_low


# The words of Go's syscall package, which is what Docker's clients know.
_GO_TEXTS = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "cannot assign requested address",
    errno.EACCES: "permission denied",
}


def _bind(protocol: str, host_ip: str, port: int) -> socket.socket | None:
    """A bound socket, or None where the kernel has no sockets of this protocol (sctp is a module)."""
    kind, number = _KINDS[protocol]
    try:
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC, number)
    except OSError:
        if protocol == "sctp":
            return None
        raise
    try:
        if protocol == "udp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody reads it
            sock.bind((host_ip, port))
        else:
            # Connections of a server that has just ended (TIME_WAIT) are no obstacle; taking the option back makes
            # the kernel refuse the port to others that set it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host_ip, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        sock.close()
        raise
    return sock
