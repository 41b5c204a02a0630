"""`docker attach` and the streams of `docker run`: a hub between the client's hijacked stream and the shim.

The hub makes a socket pair and gives one end to the shim, at once or in the start message: attach comes before start,
and the client's early input waits in the socket.  The shim frames the output, so that the hub only moves bytes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from boxwright.engine import detachkeys, logs
from boxwright.engine.state import Status
from boxwright.errdefs import Conflict
from boxwright.execdriver import AttachRequest

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

CHUNK = 65536


class Stream(Protocol):
    """A client's hijacked connection, as `api/hijack.py` makes it."""

    closed: asyncio.Event

    async def open(self, multiplexed: bool) -> None:
        """Answer the request: from here on the connection carries the stream."""

    async def read(self, n: int) -> bytes:
        """At most n bytes; b"" at the client's half-close."""

    def write(self, data: bytes) -> None:
        """Queue output."""

    async def drain(self) -> None:
        """Wait until the client has taken enough of what is queued."""

    async def close(self) -> None:
        """End the connection once what is queued has been sent."""


@dataclass(slots=True)
class AttachOptions:
    """Which streams, whether to follow them, whether the log comes first, and the keys that end it ("" default)."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stream: bool = False
    logs: bool = False
    detach_keys: str = ""


async def attach(eng: Engine, name: str, options: AttachOptions, stream: Stream) -> None:
    """Attach the client to container `name`; returns when the container ends, the client leaves or detaches.

    Raises NotFound, Conflict (paused, restarting) and InvalidParameter before the stream is opened.
    """
    container = eng.store.get(name)
    if container.state.status is Status.PAUSED:
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    if container.state.status is Status.RESTARTING:
        raise Conflict(f"container {container.id} is restarting, wait until the container is running")
    keys = detachkeys.parse(options.detach_keys)
    tty = container.config.tty
    whole = options.logs and options.stream and not tty and logs.can_follow(container)
    typing = options.stdin and container.config.open_stdin
    seeing = not whole
    pair = Pair(typing, options.stdout and seeing, options.stderr and seeing, mux=not tty)
    try:
        if options.stream:
            await _connect(container, pair)
        await stream.open(not tty)
        if options.logs and not whole:
            await _from_log(eng, container, options, stream)
        if options.stream:
            eng.announce(container, "attach")
            output = _from_log(eng, container, options, stream, follow=True) if whole else None
            if await pair.relay(stream, detachkeys.Escape(keys) if tty and options.stdin else None, output):
                eng.announce(container, "detach")
    except ConnectionError:
        pass  # the client left while its past was told
    finally:
        container.live.withdraw(pair.request)
        pair.close()
        await stream.close()


async def _connect(container: Container, pair: Pair) -> None:
    """Give the shim's end away: to the shim that runs, or to the start to come."""
    running = container.running
    if running is None:
        container.live.pending.append(pair.hand_over())
        return
    try:
        await running.attach(pair.hand_over())
    except Conflict:
        pass  # it ended meanwhile: the driver has closed its end, and the stream ends like one attached just before


async def _from_log(
    eng: Engine, container: Container, options: AttachOptions, stream: Stream, follow: bool = False
) -> None:
    """Output out of the log.  Followed, it goes on without a gap or a line told twice, a line at a time."""
    wanted = logs.LogOptions(stdout=options.stdout, stderr=options.stderr, follow=follow)
    async for piece in logs.logs(eng, container.id, wanted):
        if piece:
            stream.write(piece)
            await stream.drain()


class Pair:
    """A socket pair: `request` carries the shim's end, this object relays the other one to a client."""

    __slots__ = ("_handed_over", "_sock", "request")

    def __init__(self, stdin: bool, stdout: bool, stderr: bool, mux: bool) -> None:
        self._sock, other = socket.socketpair()
        self._sock.setblocking(False)
        self.request = AttachRequest(other.detach(), stdin=stdin, stdout=stdout, stderr=stderr, mux=mux)
        self._handed_over = False

    def hand_over(self) -> AttachRequest:
        """The request, whose descriptor is the receiver's from now on."""
        self._handed_over = True
        return self.request

    def close(self) -> None:
        """Close this side; the shim then drops the client."""
        self._sock.close()
        if not self._handed_over:
            os.close(self.hand_over().fd)

    async def relay(
        self,
        stream: Stream,
        escape: detachkeys.Escape | None,
        source: Coroutine[Any, Any, None] | None = None,
    ) -> bool:
        """Move bytes until the shim closes its end, the client leaves or types the detach keys.

        source: writes the output to the stream, where that is not the shim's; its end is then the end.
        Returns True for a detach.  The client's half-close ends only the input.
        """
        output = asyncio.ensure_future(source or self._output(stream))
        gone = asyncio.ensure_future(stream.closed.wait())
        tasks: set[asyncio.Future[Any]] = {output, gone}
        typed: asyncio.Future[bool] | None = None
        if self.request.stdin:
            typed = asyncio.ensure_future(self._input(stream, escape))
            tasks.add(typed)
        try:
            while True:
                done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if typed in done and typed is not None and typed.result():
                    return True
                if output in done:
                    output.result()
                    return False
                if gone in done:
                    return False
                tasks = waiting
        finally:
            for task in (output, gone, typed):
                if task is not None:
                    task.cancel()

    async def _output(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._sock, CHUNK):
                stream.write(data)
                await stream.drain()
        except OSError:
            pass  # the shim died, or the client did: either way the stream is over

    async def _input(self, stream: Stream, escape: detachkeys.Escape | None) -> bool:
        loop = asyncio.get_running_loop()
        detached = False
        try:
            while not detached and (data := await stream.read(CHUNK)):
                if escape is not None:
                    data, detached = escape.feed(data)
                await loop.sock_sendall(self._sock, data)
            if escape is not None and not detached:
                await loop.sock_sendall(self._sock, escape.rest())
            if not detached:
                self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False  # nobody reads any longer; the output says when it is over
        return detached
