"""Host ports: which container has which, and a socket on each so that no other program takes it.

The table `network_ports` tells our own containers apart; a bound socket of the engine does so for foreign programs, and
keeps the kernel from giving the port to an outgoing connection.  The socket never listens: until the container's
packet filter element is there, a client is refused, as it should be.

A port on IPv6 is only tried here: the container's relay (`launcher/relay.py`) binds it at the start, and keeps it when
the engine ends.
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
        self._ipv6: bool | None = None
        self._ephemeral: tuple[int, int] | None = None  # read by the first use, in the engine's namespace

    def allocate(self, endpoint: str, address: str, bindings: Iterable[Binding]) -> list[Published]:
        """Take a host port for each binding.  Raises System with Docker's texts, and then holds nothing.

        address: the container's, for the error's text.
        """
        published: dict[Binding, list[Published]] = {}
        wanted = list(dict.fromkeys(bindings))
        held = self._held.setdefault(endpoint, [])
        # The transaction that we are part of may fail later for a reason of its own.
        self._db.on_rollback(lambda: self.let_go(endpoint))
        try:
            for binding in sorted(wanted, key=_freedom):
                hosts = self._hosts(binding)
                port, sock = self._take(binding, hosts, address)
                if sock is not None:
                    held.append(sock)
                published[binding] = [Published(binding.protocol, host, port, binding.container_port) for host in hosts]
                sql = "INSERT INTO network_ports (protocol, port, host_ip, endpoint) VALUES (?, ?, ?, ?)"
                for host in hosts:
                    self._db.execute(sql, (binding.protocol, port, host, endpoint))
        except BaseException:
            self.let_go(endpoint)
            raise
        return [port for binding in wanted for port in published[binding]]

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

    def _hosts(self, binding: Binding) -> list[str]:
        """The host addresses of a binding; on a host without IPv6 it is on IPv4 alone, as with dockerd."""
        if not binding.both:
            return [binding.host_ip]
        if self._ipv6 is None:
            self._ipv6 = _has_ipv6()
        return [binding.host_ip, "::"] if self._ipv6 else [binding.host_ip]

    def _take(self, binding: Binding, hosts: list[str], address: str) -> tuple[int, socket.socket | None]:
        if binding.host_high == 0:
            return self._take_any(binding, hosts)
        failure: System | None = None
        for port in range(binding.host_low, binding.host_high + 1):
            try:
                return port, self._try(binding, hosts, port, address)
            except System as error:
                failure = failure or error
        if binding.host_low != binding.host_high:
            raise System("all ports are allocated") from failure
        assert failure is not None
        raise failure

    def _try(self, binding: Binding, hosts: list[str], port: int, address: str) -> socket.socket | None:
        for host in hosts:
            if self._taken(binding.protocol, host, port):
                raise System(f"Bind for {host}:{port} failed: port is already allocated")
        host = ""
        try:
            for host in reversed(hosts):
                sock = _bind(binding.protocol, host, port)
        except OSError as error:
            reason = _GO_TEXTS.get(error.errno or 0, str(error.strerror).lower())
            shown = f"[{host}]" if ":" in host else host
            what = f"{shown}:{port}:{address}:{binding.container_port}/{binding.protocol}"
            raise System(f"failed to bind host port for {what}: {reason}") from error
        return sock

    def _take_any(self, binding: Binding, hosts: list[str]) -> tuple[int, socket.socket | None]:
        """The next ephemeral port that is free, cyclically, so that a port is not reused at once."""
        low, high = self._ephemeral = self._ephemeral or ephemeral_range()
        count = high - low + 1
        start = self._next.get(binding.protocol, low)
        for step in range(count):
            port = low + (start - low + step) % count
            if any(self._taken(binding.protocol, host, port) for host in hosts):
                continue
            try:
                for host in reversed(hosts):
                    sock = _bind(binding.protocol, host, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise System(f"failed to bind host port for {binding.host_ip}:{port}: {error.strerror}") from error
            self._next[binding.protocol] = port + 1
            return port, sock
        raise System("all ports are allocated")

    def _taken(self, protocol: str, host_ip: str, port: int) -> bool:
        rows = self._db.query("SELECT host_ip FROM network_ports WHERE protocol = ? AND port = ?", (protocol, port))
        every = "::" if ":" in host_ip else "0.0.0.0"
        held = [ip for (ip,) in rows if (":" in ip) == (":" in host_ip)]
        return any(every in (ip, host_ip) or ip == host_ip for ip in held)


def _freedom(binding: Binding) -> int:
    """How much choice there is: fixed ports are taken before a range or "any" could take them away."""
    return 65536 if binding.host_high == 0 else binding.host_high - binding.host_low


# The words of Go's syscall package, which is what Docker's clients know.
_GO_TEXTS = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "cannot assign requested address",
    errno.EACCES: "permission denied",
}


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def _bind(protocol: str, host_ip: str, port: int) -> socket.socket | None:
    """A bound socket; None for IPv6, whose port is only tried, and where the kernel has no sctp (a module)."""
    if ":" in host_ip:
        with socket.socket(socket.AF_INET6, _KINDS[protocol][0] | socket.SOCK_CLOEXEC) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host_ip, port))
        return None
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
