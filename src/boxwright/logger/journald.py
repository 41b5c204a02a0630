"""The journald driver: its native protocol, with a sealed memfd for an entry that is too long for a datagram.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

import errno
import fcntl
import os

from boxwright.logger.addresses import Address
from boxwright.logger.link import Link
from boxwright.logger.packing import write_all
from boxwright.logger.remote import Record, Source
from boxwright.logger.timestamps import rfc3339nano

SOCKET = "/run/systemd/journal/socket"
_PRIORITY = {"stdout": "6", "stderr": "3"}
# An image chooses its labels.  Fields by which journald and journalctl tell whose a message is, when root sends it
# (systemd.journal-fields(7); `journalctl --unit`), and those that are written with each record, are not among them.
_RESERVED = frozenset({"MESSAGE", "MESSAGE_ID", "PRIORITY", "UNIT", "USER_UNIT"})
_RESERVED_PREFIXES = ("CONTAINER_PARTIAL_", "COREDUMP_", "OBJECT_", "SYSLOG_")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Journald:
    """See `remote.Driver`."""

    def __init__(self, source: Source, path: str = SOCKET) -> None:
        self._link = Link(Address("unixgram", path=path))
        fields = {
            "CONTAINER_ID": source.id[:12], "CONTAINER_ID_FULL": source.id, "CONTAINER_NAME": source.name,
            "CONTAINER_TAG": source.tag, "IMAGE_NAME": source.image, "SYSLOG_IDENTIFIER": source.tag,
        }  # fmt: skip
        for key, value in source.attrs.items():
            name = field_name(key)
            if name and name not in fields and not is_reserved(name):
                fields[name] = value
        self._fields = b"".join(field(name, value.encode("utf-8", "replace")) for name, value in fields.items())

    def connect(self) -> None:
        """See `remote.Driver`."""
        try:
            self._link.connect()
        except OSError as failure:
            raise OSError(failure.errno or 0, "journald is not enabled on this host") from failure

    def send(self, records: list[Record]) -> int:
        """See `remote.Driver`."""
        for record in records:
            entry = self.render(record)
            try:
                self._link.send(entry)
            except OSError as failure:
                if failure.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._send_long(entry)
        return 0

    def _send_long(self, entry: bytes) -> None:
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            write_all(fd, entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self._link.send_fd(fd)
        finally:
            os.close(fd)

    def render(self, record: Record) -> bytes:
        """One entry."""
        entry = field("MESSAGE", record.line) + field("PRIORITY", _PRIORITY[record.stream].encode()) + self._fields
        # Journald's own time is that of arrival, which may be later.
        entry += field("SYSLOG_TIMESTAMP", rfc3339nano(record.time).encode())
        if part := record.partial:
            entry += field("CONTAINER_PARTIAL_ID", part.id.encode())
            entry += field("CONTAINER_PARTIAL_ORDINAL", b"%d" % part.ordinal)
            entry += field("CONTAINER_PARTIAL_LAST", b"true" if part.last else b"false")
            if not part.last:
                entry += field("CONTAINER_PARTIAL_MESSAGE", b"true")
        return entry

    def close(self) -> None:
        """See `remote.Driver`."""
        self._link.close()


def field(name: str, value: bytes) -> bytes:
    """One field: with its length when it has a newline."""
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def is_reserved(name: str) -> bool:
    """Whether no label or variable may have this field."""
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


def field_name(key: str) -> str:
    """A label's or variable's name as journald takes it: A to Z, digits and underscores, none of them first."""
    upper = "".join(c.upper() if c.isascii() and c.isalnum() else "_" for c in key)
    return upper.lstrip("_0123456789")[:64]
