"""What the drivers that send records elsewhere share: records out of reads, counting, the cache beside them."""

import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from boxwright.logger.lines import Partial, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.logger.options import Writer


class Source(NamedTuple):
    """Whose log it is.

    tag: with its template resolved; attrs: of the options labels and env.  created: RFC 3339.
    """

    id: str
    name: str
    image: str
    image_id: str
    command: str
    created: str
    hostname: str
    tag: str
    attrs: dict[str, str]


class Record(NamedTuple):
    """One line, without its newline, or one part of one; time in ns since the epoch."""

    stream: str
    time: int
    line: bytes
    partial: Partial | None

    @property
    def text(self) -> str:
        """The line as text."""
        return self.line.decode("utf-8", "replace")


class Driver(Protocol):
    """Where records go.  `send` may wait; both raise OSError."""

    def connect(self) -> None:
        """Reach the receiver, as far as its protocol can tell."""

    def send(self, records: list[Record]) -> int:
        """Deliver; how many were lost without an error that ends all."""

    def close(self) -> None: ...


class Assembler:
    """Records out of what reads gave, the parts of long lines numbered."""

    def __init__(self) -> None:
        self._pending: dict[str, bytes] = {}
        self._parts: dict[str, Partial] = {}

    def feed(self, stream: str, data: bytes, now: int) -> list[Record]:
        """The records that are whole now."""
        data = self._pending.get(stream, b"") + data
        found, start = pieces(data, 0)
        self._pending[stream] = data[start:]
        records: list[Record] = []
        for piece in found:
            if not piece.endswith(b"\n"):
                records.append(Record(stream, now, piece, self._part(stream, False)))
                continue
            lines = piece[:-1].split(b"\n")
            if stream in self._parts:
                records.append(Record(stream, now, lines.pop(0), self._part(stream, True)))
            records += [Record(stream, now, line, None) for line in lines]
        return records

    def flush(self, stream: str, now: int) -> list[Record]:
        """What waits for a newline that will not come."""
        pending = self._pending.pop(stream, b"")
        if not pending:
            return []
        partial = self._part(stream, True) if stream in self._parts else None
        return [Record(stream, now, pending, partial)]

    def streams(self) -> list[str]:
        """Those with something that waits."""
        return list(self._pending)

    def _part(self, stream: str, last: bool) -> Partial:
        before = self._parts.pop(stream, None)
        part = Partial(before.id, before.ordinal + 1, last) if before else Partial(os.urandom(32).hex(), 1, last)
        if not last:
            self._parts[stream] = part
        return part


class RemoteWriter:
    """Sends what `write` is given through `driver`; `cache` gets it first."""

    ready = True

    def __init__(self, driver: Driver, cache: "Writer | None" = None) -> None:
        self._driver, self._cache, self._lines = driver, cache, Assembler()
        self._lost, self._why = 0, ""

    @property
    def dropped(self) -> int:
        """Records lost so far."""
        return self._lost

    @property
    def error(self) -> str:
        """Why, the last time."""
        return self._why

    def write(self, stream: str, data: bytes, now: int = 0) -> None:
        """See `options.Writer`; this one may wait for the receiver."""
        now = now or time.time_ns()
        if self._cache is not None:
            self._cache.write(stream, data, now)
        self._send(self._lines.feed(stream, data, now))

    def flush(self, stream: str) -> None:
        """See `options.Writer`."""
        if self._cache is not None:
            self._cache.flush(stream)
        self._send(self._lines.flush(stream, time.time_ns()))

    def close(self) -> None:
        """Send what waits, then disconnect."""
        for stream in self._lines.streams():
            self.flush(stream)
        self._driver.close()
        if self._cache is not None:
            self._cache.close()

    def finish(self, done: Callable[[], None]) -> None:
        """Close, then `done`."""
        self.close()
        done()

    def _send(self, records: list[Record]) -> None:
        if not records:
            return
        try:
            lost = self._driver.send(records)
            if lost:
                self._why = "refused by the receiver's socket"
        except OSError as failure:
            lost, self._why = len(records), failure.strerror or str(failure)
        self._lost += lost


def compact(value: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
