"""`docker logs`: what the log driver stored, framed for the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote_plus

from boxwright.engine import logdest
from boxwright.errdefs import InvalidParameter
from boxwright.logger import reader

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

_FRAME_HEADS = {"stdout": b"\x01\0\0\0", "stderr": b"\x02\0\0\0"}


class Wanted(Protocol):
    """Which part of a log: since and until in nanoseconds since the epoch or None, tail -1 for everything."""

    @property
    def stdout(self) -> bool: ...
    @property
    def stderr(self) -> bool: ...
    @property
    def since(self) -> int | None: ...
    @property
    def until(self) -> int | None: ...
    @property
    def timestamps(self) -> bool: ...
    @property
    def details(self) -> bool: ...
    @property
    def tail(self) -> int: ...
    @property
    def follow(self) -> bool: ...


@dataclass(slots=True)
class LogOptions:
    """`Wanted` with its defaults."""

    stdout: bool = False
    stderr: bool = False
    since: int | None = None
    until: int | None = None
    timestamps: bool = False
    details: bool = False
    tail: int = -1
    follow: bool = False


async def logs(eng: Engine, name: str, options: Wanted) -> AsyncIterator[bytes]:
    """The log of container `name` in pieces, framed unless it has a terminal; with `follow` until the container ends.

    The first piece is empty: the log is open then, and is told whole also when the container is removed.
    Raises NotFound, InvalidParameter (no stream chosen), NotImplemented_ (a driver that cannot be read) at the first
    step.
    """
    container = eng.store.get(name)
    if not (options.stdout or options.stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    path, form = logdest.kept_at(eng, container)
    ended = asyncio.Event()
    over = container.live.over
    follow = options.follow and over is not None and not over.done()
    if follow and over is not None:
        over.add_done_callback(lambda _: ended.set())
    tty = container.config.tty
    asked = reader.Options(options.since, options.until, options.tail, follow, options.stdout, options.stderr)
    prefix = _details(logdest.attributes(container)) if options.details else b""
    async for records in reader.read(path, asked, ended, form):
        yield _encode(records, options.timestamps, prefix, framed=not tty)


def can_follow(container: Container) -> bool:
    """Whether the container runs and its log can be read."""
    return container.running is not None and logdest.is_kept(container)


def _encode(records: Iterable[reader.Record], timestamps: bool, prefix: bytes, framed: bool) -> bytes:
    """One piece of output for a batch of records."""
    if not framed and not timestamps and not prefix:
        return b"".join(record.line for record in records)
    out = bytearray()
    for stream, time, line in records:
        stamp = reader.fixed(time).encode() + b" " if timestamps else b""
        if framed:
            out += _FRAME_HEADS[stream] + (len(stamp) + len(prefix) + len(line)).to_bytes(4, "big")
        out += stamp
        out += prefix
        out += line
    return bytes(out)


def _details(attrs: dict[str, str]) -> bytes:
    """Attributes as `--details` shows them before each line."""
    return ",".join(f"{quote_plus(key)}={quote_plus(attrs[key])}" for key in sorted(attrs)).encode() + b" "
