"""The listening sockets of the API: Unix sockets, TCP with TLS or without, and what systemd has opened (`fd://`)."""

import fcntl
import grp
import logging
import os
import socket
import ssl
import stat
from collections.abc import MutableMapping
from ipaddress import ip_address
from typing import NamedTuple

from boxwright.errdefs import Conflict, InvalidParameter

DEFAULT_GROUP = "docker"
PLAIN_PORT, TLS_PORT = 2375, 2376
# The first descriptor that systemd passes (sd_listen_fds(3)).
FIRST_FD = 3

_log = logging.getLogger(__name__)


class Remote(NamedTuple):
    """How TCP is served: under TLS with `context`, or plain; plain to other machines only when it is `forced`."""

    context: ssl.SSLContext | None = None
    forced: bool = False


class Listener(NamedTuple):
    """One bound socket.  address: the host as it was bound.  path: a Unix socket's file that is ours to remove."""

    sock: socket.socket
    address: str
    path: str = ""

    @property
    def unix(self) -> bool:
        """Whether the kernel says who the client is."""
        return self.sock.family == socket.AF_UNIX

    @property
    def loopback(self) -> bool:
        """Whether no other machine reaches it."""
        return self.unix or _loopback(self.sock.getsockname()[0])


def _loopback(name: str) -> bool:
    return ip_address(name.partition("%")[0]).is_loopback


def bind(host: str, group: str | None, remote: Remote, activated: dict[str, list[socket.socket]]) -> list[Listener]:
    """The sockets of one `-H`; raises `InvalidParameter` for one that cannot be, `Conflict` for one in use.

    activated: systemd's, by name and by number.
    """
    scheme, found, rest = host.partition("://")
    if scheme == "unix" and found:
        return [Listener(_unix(rest, group), host, rest)]
    if scheme == "tcp" and found:
        sock = _tcp(rest, remote)
        return [Listener(sock, _address(sock))]
    if scheme == "fd" and found:
        listeners = [Listener(sock, _address(sock)) for sock in _activated(rest, activated)]
        for listener in listeners:
            if not listener.loopback:
                _check_plain(listener.address, remote)
        return listeners
    raise InvalidParameter(
        f"invalid host {host!r}: unix:///path, tcp://address:port, and fd:// for systemd's sockets are served"
    )


def _check_plain(host: str, remote: Remote) -> None:
    if remote.context is None and not remote.forced:
        raise InvalidParameter(
            f"invalid host {host}: only loopback addresses are served without TLS, because whoever reaches the API owns"
            " this machine; use --tlsverify, or force it by --tls=false"
        )


def take_activated(environment: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """The sockets that systemd passed to this process, by name and by number; "*" has all of them.

    Once: the variables are taken out of `environment` and the descriptors are closed on execve, so that nothing that
    is executed later believes them its own.  Raises `InvalidParameter` for a count that is none.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {"*": []}
    if pid != str(os.getpid()) or not count:
        return found
    if not count.isdigit() or int(count) > 1024:
        raise InvalidParameter(f"invalid LISTEN_FDS: {count!r}")
    for index in range(int(count)):
        fd = FIRST_FD + index
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        sock = socket.socket(fileno=fd)
        for key in {"*", str(fd), names[index] if index < len(names) and names[index] else "*"}:
            found.setdefault(key, []).append(sock)
    return found


def _activated(wanted: str, activated: dict[str, list[socket.socket]]) -> list[socket.socket]:
    if not activated["*"]:
        raise InvalidParameter("no sockets found via socket activation: make sure the service was started by systemd")
    if (found := activated.get(wanted or "*")) is None:
        raise InvalidParameter(f"failed to find a socket-activated file descriptor: fd://{wanted}")
    for sock in found:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
            raise InvalidParameter(f"fd://{wanted}: descriptor {sock.fileno()} is no stream socket")
    return found


def _address(sock: socket.socket) -> str:
    bound = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix://{bound}"
    name, port = bound[:2]
    return f"tcp://[{name}]:{port}" if ":" in name else f"tcp://{name}:{port}"


def _tcp(address: str, remote: Remote) -> socket.socket:
    """A bound TCP socket; no name and no port stand for localhost and dockerd's port."""
    name, colon, port = address.rstrip("/").rpartition(":")
    if not colon or port.endswith("]"):
        name, port = address.rstrip("/"), ""
    try:
        ip = ip_address(name.strip("[]") if name not in ("", "localhost") else "127.0.0.1")
        number = int(port) if port else PLAIN_PORT if remote.context is None else TLS_PORT
        if not 0 <= number <= 65535:
            raise ValueError(number)
    except ValueError:
        raise InvalidParameter(f"invalid host tcp://{address}: an IP address and a port are needed") from None
    if not ip.is_loopback:
        _check_plain(f"tcp://{address}", remote)
    sock = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if ip.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(ip), number))
    except OSError as error:
        sock.close()
        raise Conflict(f"can't create tcp listener {address}: {error.strerror}") from error
    return sock


def detect_the_dead(sock: socket.socket) -> None:
    """Have the kernel find out that a client is gone which sent nothing for a minute; accepted sockets inherit it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _unix(path: str, group: str | None) -> socket.socket:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid host unix://{path}: the path has to be absolute")
    gid = _group(group)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Through the directory's descriptor: sun_path ends at 108 bytes, data roots need not.
        short = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        _remove_stale(short, path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The kernel gives the file the socket's own mode: there is no moment at which others could connect.
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(short)
            os.chown(short, -1, gid)
            os.chmod(short, 0o660)
        except BaseException:
            sock.close()
            raise
    finally:
        os.close(directory)
    return sock


def _remove_stale(short: str, path: str) -> None:
    """Take away a socket on which nobody listens any longer."""
    try:
        if not stat.S_ISSOCK(os.lstat(short).st_mode):
            raise Conflict(f"{path} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(short)
        except ConnectionRefusedError:
            os.unlink(short)
            return
        except FileNotFoundError:
            return
    raise Conflict(f"{path} is in use by another engine")


def remove_file(path: str, inode: int) -> None:
    """Remove a Unix socket's file if it is still the one that was bound."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        return


def _group(name: str | None) -> int:
    try:
        return grp.getgrnam(name or DEFAULT_GROUP).gr_gid
    except KeyError:
        if name and name.isdigit():
            return int(name)
        if name:
            raise InvalidParameter(f"group {name} not found") from None
    _log.info("group %s not found: the socket belongs to the engine's own group", DEFAULT_GROUP)
    return os.getegid()
