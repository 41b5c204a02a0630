"""The fluentd driver: the forward protocol's messages in MessagePack, over TCP, TLS or a Unix socket.

https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1
"""

import base64
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping

from boxwright.errdefs import InvalidParameter
from boxwright.logger import addresses
from boxwright.logger.addresses import SECURE
from boxwright.logger.link import Link
from boxwright.logger.options import flag, parse_size
from boxwright.logger.remote import Record, Source
from boxwright.logger.validation import seconds

DEFAULT_BUFFER = 1 << 20  # records that wait in asynchronous mode
DEFAULT_RETRIES = (1 << 31) - 1
GROWTH, LONGEST_WAIT = 1.5, 60.0  # of the pause between attempts; seconds
ACK_SECONDS = 30.0
# Of each record; its others are its container's.
_WRITTEN = frozenset({"log", "source", "partial_message", "partial_id", "partial_ordinal", "partial_last"})
CLOSE_SECONDS = 5.0  # for what still waits in asynchronous mode


class Fluentd:
    """See `remote.Driver`.

    In asynchronous mode a thread connects and sends, and what does not fit the buffer is lost; otherwise a receiver
    that is away is waited for, as dockerd does.
    """

    def __init__(self, config: Mapping[str, str], source: Source) -> None:
        address = addresses.fluentd(config.get("fluentd-address", ""))
        self._link = Link(address, ssl.create_default_context() if address.scheme == SECURE else None)
        self._tag = text(source.tag)
        # An image chooses its labels: they name neither another container nor what is written with each record.
        fixed = {"container_id": source.id, "container_name": f"/{source.name.lstrip('/')}"}
        for key, value in source.attrs.items():
            if key not in _WRITTEN:
                fixed.setdefault(key, value)
        self._fixed = list(fixed.items())
        self._fields = b"".join(text(key) + text(value) for key, value in self._fixed)
        self._exact = flag(config, "fluentd-sub-second-precision", False)
        self._acknowledged = flag(config, "fluentd-request-ack", False)
        self._wait = seconds("fluentd-retry-wait", config.get("fluentd-retry-wait") or "1s")
        self._retries = int(config.get("fluentd-max-retries") or DEFAULT_RETRIES)
        limit = config.get("fluentd-buffer-limit")
        in_background = flag(config, "fluentd-async", False) or flag(config, "fluentd-async-connect", False)
        self._queue = Background(self, parse_size(limit, 1024) if limit else DEFAULT_BUFFER) if in_background else None

    def connect(self) -> None:
        """See `remote.Driver`."""
        if self._queue is None:
            self._link.connect()

    def send(self, records: list[Record]) -> int:
        """See `remote.Driver`."""
        if self._queue is not None:
            return self._queue.put(records)
        self.deliver(records)
        return 0

    def deliver(self, records: list[Record]) -> None:
        """Send, with as many attempts as were asked for.  Raises OSError."""
        wait = self._wait
        for attempt in range(self._retries + 1):
            try:
                self._deliver(records)
            except OSError:
                if attempt == self._retries:
                    raise
                time.sleep(wait)
                wait = min(wait * GROWTH, LONGEST_WAIT)
            else:
                return

    def _deliver(self, records: list[Record]) -> None:
        if not self._acknowledged:
            self._link.send(b"".join([self.render(record) for record in records]))
            return
        for record in records:
            chunk = base64.b64encode(os.urandom(16))
            self._link.send(self.render(record, chunk))
            if chunk not in self._link.receive(4096, ACK_SECONDS):
                self._link.close()
                raise ConnectionError("fluentd: no acknowledgement")

    def render(self, record: Record, chunk: bytes = b"") -> bytes:
        """[tag, time, record] with, if asked for, the option by which it is acknowledged."""
        fields = text("source") + text(record.stream) + text("log") + text(record.text) + self._fields
        count = 2 + len(self._fixed)
        if part := record.partial:
            count += 4
            fields += text("partial_message") + text("true") + text("partial_id") + text(part.id)
            fields += text("partial_ordinal") + text(str(part.ordinal))
            fields += text("partial_last") + text("true" if part.last else "false")
        option = b"\x81" + text("chunk") + text(chunk.decode()) if chunk else b""
        head = b"\x94" if chunk else b"\x93"
        return head + self._tag + self._time(record.time) + mapping(count) + fields + option

    def _time(self, now: int) -> bytes:
        second, fraction = divmod(now, 1_000_000_000)
        if self._exact:  # EventTime: extension 0 of eight bytes
            return b"\xd7\0" + second.to_bytes(4, "big") + fraction.to_bytes(4, "big")
        return b"\xce" + second.to_bytes(4, "big")

    def close(self) -> None:
        """See `remote.Driver`."""
        if self._queue is not None:
            self._queue.close()
        self._link.close()


class Background:
    """Records that a thread delivers; `limit` of them may wait."""

    def __init__(self, owner: Fluentd, limit: int) -> None:
        self._owner, self._limit = owner, limit
        self._waiting: deque[Record] = deque()
        self._change, self._closing, self._lost = threading.Condition(), False, 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, records: list[Record]) -> int:
        """Take them; how many were lost, of these and of those before."""
        with self._change:
            room = max(0, self._limit - len(self._waiting))
            self._waiting.extend(records[:room])
            self._change.notify()
            lost, self._lost = self._lost + max(0, len(records) - room), 0
        return lost

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closing)
                batch = [self._waiting[n] for n in range(min(len(self._waiting), 1000))]
            if not batch:
                return
            try:
                self._owner.deliver(batch)
            except OSError:
                self._lost += len(batch)
            with self._change:
                for _ in batch:
                    self._waiting.popleft()

    def close(self) -> None:
        """Deliver what waits, for a while."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(CLOSE_SECONDS)


def text(value: str) -> bytes:
    """A MessagePack string."""
    data = value.encode("utf-8", "replace")
    size = len(data)
    if size < 32:
        return bytes((0xA0 | size,)) + data
    if size < 1 << 8:
        return b"\xd9" + size.to_bytes(1, "big") + data
    if size < 1 << 16:
        return b"\xda" + size.to_bytes(2, "big") + data
    return b"\xdb" + size.to_bytes(4, "big") + data


def mapping(count: int) -> bytes:
    """The head of a MessagePack map."""
    if count < 16:
        return bytes((0x80 | count,))
    if count < 1 << 16:
        return b"\xde" + count.to_bytes(2, "big")
    raise InvalidParameter(f"{count} fields are too many for one record")
