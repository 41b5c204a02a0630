"""The gelf driver: Graylog Extended Log Format 1.1, in chunked and compressed datagrams or ended by NUL over TCP."""

import os
import time
import zlib
from collections.abc import Mapping

from boxwright.logger import addresses
from boxwright.logger.link import Link
from boxwright.logger.remote import Record, Source, compact

CHUNK = 1420  # bytes of a datagram, as go-gelf sends over a WAN
_CHUNK_HEAD = 12
MOST_CHUNKS = 128
_CHUNK_MAGIC = b"\x1e\x0f"
_LEVEL = {"stdout": 6, "stderr": 3}
_WBITS = {"gzip": zlib.MAX_WBITS | 16, "zlib": zlib.MAX_WBITS}


class Gelf:
    """See `remote.Driver`."""

    def __init__(self, config: Mapping[str, str], source: Source) -> None:
        address = addresses.gelf(config.get("gelf-address", ""))
        self._link, self._udp = Link(address), address.scheme == "udp"
        self._compression = config.get("gelf-compression-type", "gzip")
        self._level = int(config.get("gelf-compression-level", "1"))
        self._attempts = int(config.get("gelf-tcp-max-reconnect", "3"))
        self._delay = int(config.get("gelf-tcp-reconnect-delay", "1"))
        extra = {
            "_container_id": source.id, "_container_name": source.name, "_image_id": source.image_id,
            "_image_name": source.image, "_command": source.command, "_tag": source.tag, "_created": source.created,
        }  # fmt: skip
        for key, value in source.attrs.items():  # an image chooses its labels: what is said above stays, and
            name = key if key.startswith("_") else f"_{key}"
            if name != "_id":  # is refused by receivers, with the whole message
                extra.setdefault(name, value)
        self._head = {"version": "1.1", "host": source.hostname}
        self._extra = extra

    def connect(self) -> None:
        """See `remote.Driver`."""
        self._link.connect()

    def send(self, records: list[Record]) -> int:
        """See `remote.Driver`.  An empty line is nothing to Graylog, which refuses it: it is left out."""
        messages = [self.render(record) for record in records if record.line]
        if not self._udp:
            self._stream(b"".join([message + b"\0" for message in messages]))
            return 0
        lost = 0
        for message in messages:
            chunks = self.datagrams(message)
            lost += not chunks
            for chunk in chunks:
                self._link.send(chunk)
        return lost

    def _stream(self, data: bytes) -> None:
        """Send, with as many further attempts as were asked for."""
        for attempt in range(self._attempts + 1):
            try:
                self._link.send(data)
            except OSError:
                if attempt == self._attempts:
                    raise
                time.sleep(self._delay)
            else:
                return

    def render(self, record: Record) -> bytes:
        """One message."""
        fields = {
            **self._head,
            "short_message": record.text,
            "timestamp": record.time // 1_000_000 / 1000,
            "level": _LEVEL[record.stream],
        }
        return compact(fields | self._extra)

    def datagrams(self, message: bytes) -> list[bytes]:
        """`message` compressed and cut; none when it would take more chunks than GELF has numbers for."""
        if self._compression != "none":
            packer = zlib.compressobj(self._level, zlib.DEFLATED, _WBITS[self._compression])
            message = packer.compress(message) + packer.flush()
        if len(message) <= CHUNK:
            return [message]
        size = CHUNK - _CHUNK_HEAD
        parts = [message[start : start + size] for start in range(0, len(message), size)]
        if len(parts) > MOST_CHUNKS:
            return []
        head = _CHUNK_MAGIC + os.urandom(8)
        return [head + bytes((number, len(parts))) + part for number, part in enumerate(parts)]

    def close(self) -> None:
        """See `remote.Driver`."""
        self._link.close()
