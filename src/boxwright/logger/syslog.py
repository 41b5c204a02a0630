"""The syslog driver: RFC 5424, RFC 3164 or the local socket's form, over Unix sockets, UDP, TCP and TLS."""

import errno
import os
import ssl
import time
from collections.abc import Callable, Mapping

from boxwright.logger import addresses
from boxwright.logger.addresses import SECURE, Address
from boxwright.logger.link import Link
from boxwright.logger.remote import Record, Source
from boxwright.logger.validation import facility

LOCAL_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")
_SEVERITY = {"stdout": 6, "stderr": 3}  # informational, error
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Syslog:
    """See `remote.Driver`."""

    def __init__(self, config: Mapping[str, str], source: Source) -> None:
        address = addresses.syslog(config.get("syslog-address", "")) or _local_socket()
        secure = address.scheme == SECURE
        self._link = Link(address, _context(config) if secure else None)
        self._priority = facility(config.get("syslog-facility", "")) << 3
        wanted = config.get("syslog-format", "")
        # RFC 5425: over TLS a message is preceded by its length; elsewhere it ends with the newline.
        self._counted = secure and wanted.startswith("rfc5424")
        self._format = _FORMATS[wanted](source, os.getpid())

    def connect(self) -> None:
        """See `remote.Driver`."""
        self._link.connect()

    def send(self, records: list[Record]) -> int:
        """See `remote.Driver`."""
        self._link.connect()
        messages = [self.render(record) for record in records]
        if not self._link.is_datagram:
            self._link.send(b"".join(messages))
            return 0
        lost = 0
        for message in messages:
            try:
                self._link.send(message)
            except OSError as failure:
                if failure.errno != errno.EMSGSIZE:
                    raise
                lost += 1
        return lost

    def render(self, record: Record) -> bytes:
        """One message, framed."""
        head = self._format(self._priority | _SEVERITY[record.stream], record.time)
        message = head + record.line + b"\n"
        return b"%d %s" % (len(message), message) if self._counted else message

    def close(self) -> None:
        """See `remote.Driver`."""
        self._link.close()


def _local_socket() -> Address:
    for path in LOCAL_SOCKETS:
        if os.path.exists(path):
            return Address("unix", path=path)
    raise OSError(errno.ENOENT, "Unix syslog delivery error")


def _context(config: Mapping[str, str]) -> ssl.SSLContext:
    """Raises OSError for files that cannot be read."""
    context = ssl.create_default_context(cafile=config.get("syslog-tls-ca-cert") or None)
    if "syslog-tls-skip-verify" in config:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := config.get("syslog-tls-cert"):
        context.load_cert_chain(certificate, config.get("syslog-tls-key") or None)
    return context


def _unix(source: Source, pid: int) -> Callable[[int, int], bytes]:
    tag = f"{source.tag}[{pid}]: "
    return lambda priority, now: f"<{priority}>{_stamp(now)} {tag}".encode()


def _rfc3164(source: Source, pid: int) -> Callable[[int, int], bytes]:
    tag = f"{source.hostname} {source.tag}[{pid}]: "
    return lambda priority, now: f"<{priority}>{_stamp(now)} {tag}".encode()


def _rfc5424(source: Source, pid: int) -> Callable[[int, int], bytes]:
    rest = f"{source.hostname} {source.tag} {pid} {source.tag} - "
    return lambda priority, now: f"<{priority}>1 {_iso(now, '')} {rest}".encode()


def _rfc5424micro(source: Source, pid: int) -> Callable[[int, int], bytes]:
    rest = f"{source.hostname} {source.tag} {pid} {source.tag} - "
    return lambda priority, now: f"<{priority}>1 {_iso(now, f'.{now // 1000 % 1_000_000:06d}')} {rest}".encode()


def _stamp(now: int) -> str:
    """RFC 3164's time, in the host's zone; English whatever the locale."""
    t = time.localtime(now // 1_000_000_000)
    return f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


def _iso(now: int, fraction: str) -> str:
    t = time.localtime(now // 1_000_000_000)
    minutes = t.tm_gmtoff // 60
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}" if minutes else "Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", t) + fraction + zone


_FORMATS = {"": _unix, "rfc3164": _rfc3164, "rfc5424": _rfc5424, "rfc5424micro": _rfc5424micro}
