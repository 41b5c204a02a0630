"""Where a log driver sends to: addresses as Docker writes them."""

import os
from typing import NamedTuple
from urllib.parse import urlsplit

from boxwright.errdefs import InvalidParameter

SECURE = "tcp+tls"
SYSLOG_PORT, FLUENTD_PORT = 514, 24224
UNIX = ("unix", "unixgram")


class Address(NamedTuple):
    """scheme: unix (stream, then datagram), unixgram, udp, tcp, tcp+tls; path: of a Unix socket."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def syslog(text: str) -> Address | None:
    """None for the host's own socket.  Raises InvalidParameter."""
    if not text:
        return None
    scheme, colon, _ = text.partition("://")
    if not colon:
        raise InvalidParameter(f"syslog-address should be in form proto://address, got {text}")
    if scheme in UNIX:
        path = urlsplit(text).path
        if not os.path.exists(path):
            raise InvalidParameter(f"stat {path}: no such file or directory")
        return Address(scheme, path=path)
    if scheme not in ("udp", "tcp", SECURE):
        raise InvalidParameter(f"unsupported scheme: '{scheme}'")
    host, port = _host_and_port("syslog-address", text, SYSLOG_PORT)
    return Address(scheme, host, port)


def gelf(text: str) -> Address:
    """Raises InvalidParameter."""
    if not text:
        raise InvalidParameter("gelf-address is a required parameter")
    scheme, colon, _ = text.partition("://")
    if not colon:
        raise InvalidParameter(f"gelf-address should be in form proto://address, got {text}")
    if scheme not in ("udp", "tcp"):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP")
    host, port = _host_and_port("gelf-address", text, 0)
    if not port:
        raise InvalidParameter("gelf: please provide gelf-address as proto://host:port")
    return Address(scheme, host, port)


def fluentd(text: str) -> Address:
    """Raises InvalidParameter."""
    if not text:
        return Address("tcp", "127.0.0.1", FLUENTD_PORT)
    scheme, colon, _ = text.partition("://")
    if not colon:
        scheme, text = "tcp", f"tcp://{text}"
    if scheme == "unix":
        path = urlsplit(text).path
        if not path:
            raise InvalidParameter(f"invalid fluentd-address {text}: path is empty")
        return Address("unix", path=path)
    if scheme not in ("tcp", "tls"):
        raise InvalidParameter(f"unsupported scheme: '{scheme}'")
    host, port = _host_and_port("fluentd-address", text, FLUENTD_PORT)
    return Address(SECURE if scheme == "tls" else scheme, host, port)


def _host_and_port(option: str, text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidParameter(f"invalid {option} {text}: {error}") from None
    if parts.path not in ("", "/") or parts.query or parts.username is not None:
        raise InvalidParameter(f"invalid {option} {text}: only a host and a port can be given")
    return host or "127.0.0.1", default if port is None else port
