"""A connection that stops being HTTP: the byte stream of attach and exec.

`Early` gathers what arrives behind the head of a request that may be hijacked; when the engine has accepted it,
`Stream.open` answers 101 UPGRADED (or 200 to clients that do not ask for an upgrade) and the bytes flow.
"""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Mapping
from typing import Protocol

from . import mediatypes
from .versions import Version

# Input that the engine has not read yet; beyond it the transport is paused.
HIGH_WATER = 256 * 1024

# docker-py loses bytes that arrive in one read with the head, so output waits until the client has taken the head
# (Unix sockets: the outgoing queue is empty), for at most this many seconds.
HEAD_FLUSH_TIMEOUT = 0.25

# How long input that a client left behind when it closed is still worth reading out, in seconds.
FAREWELL = 5.0


class Connection(Protocol):
    """What a stream needs of the HTTP protocol under it."""

    transport: asyncio.Transport | None

    async def _drain_helper(self) -> None: ...


class Case(Protocol):
    """Who has to agree before the answer's head goes out (`authorization.Case`)."""

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None: ...


class Early:
    """Input that came behind a hijackable request, and the end of it; becomes the stream's input buffer."""

    __slots__ = ("_arrived", "_connection", "_paused", "data", "ended", "hung_up")

    def __init__(self, connection: Connection) -> None:
        self.data = bytearray()
        self.ended = False
        self.hung_up = False
        self._connection = connection
        self._arrived: asyncio.Future[None] | None = None
        self._paused = False

    def feed(self, data: bytes) -> None:
        """Input arrived."""
        self.data += data
        transport = self._connection.transport
        if len(self.data) >= HIGH_WATER and not self._paused and transport is not None:
            self._paused = True
            transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """The client will send nothing more."""
        self.ended = True
        self._wake()

    async def take(self, n: int) -> bytes:
        """At most `n` bytes, as soon as there are any; b"" at the end."""
        while not self.data and not self.ended:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        taken = bytes(self.data[:n])
        del self.data[:n]
        transport = self._connection.transport
        if self._paused and len(self.data) < HIGH_WATER // 2 and transport is not None:
            self._paused = False
            transport.resume_reading()
        return taken

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


class Stream:
    """A hijacked connection, as the engine sees it.

    read: at most n bytes, b"" at the client's half-close.  write: queue output (dropped once the client is gone).
    drain: wait until the client has taken enough; raises ConnectionError when it is gone.
    close_write: half-close.  close: end the connection when everything has been sent.
    closed: set when the client is gone for good and its last input has been read.
    """

    def __init__(
        self, connection: Connection, early: Early, head: bytes, version: Version, case: Case | None = None
    ) -> None:
        """`head` is the answer's head up to, and without, the content type, which only `open` can tell."""
        self._connection = connection
        self._input = early
        self._head = head
        self._version = version
        self._case = case
        self._held: bytearray | None = None
        self._flush: asyncio.Task[None] | None = None
        self.opened = False
        self.closed = asyncio.Event()

    async def open(self, multiplexed: bool) -> None:
        """Send the head; what is written next follows once the client has taken it."""
        content_type = mediatypes.content_type(multiplexed, self._version)
        if self._case is not None:
            await self._case.answer(int(self._head[9:12]), {"Content-Type": content_type})
        self.opened = True
        transport = self._connection.transport
        if transport is None:
            self.closed.set()
            return
        transport.write(self._head + f"Content-Type: {content_type}\r\n\r\n".encode())
        self._held = bytearray()
        self._flush = asyncio.get_running_loop().create_task(self._flush_head(transport))

    async def read(self, n: int) -> bytes:
        """At most `n` bytes of the client's input; b"" at its half-close."""
        data = await self._input.take(n)
        if self._input.hung_up and not self._input.data:
            self.closed.set()
        return data

    def write(self, data: bytes) -> None:
        """Queue output."""
        if self._held is not None:
            self._held += data
        elif (transport := self._connection.transport) is not None:
            transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough of what is queued; raises ConnectionError when it is gone."""
        if self._flush is not None:
            await asyncio.shield(self._flush)
        await self._connection._drain_helper()

    async def close_write(self) -> None:
        """End the output; input goes on."""
        if self._flush is not None:
            await asyncio.shield(self._flush)
        transport = self._connection.transport
        if transport is not None and transport.can_write_eof():
            transport.write_eof()

    async def close(self) -> None:
        """End the connection, after what is queued; does nothing to a request that was refused before `open`."""
        if not self.opened:
            return
        if self._flush is not None:
            await asyncio.shield(self._flush)
        if (transport := self._connection.transport) is not None:
            transport.close()

    def hung_up(self) -> None:
        """Both directions are down; input that is still here is read out first, for a while."""
        self._input.hung_up = True
        if self._input.data:
            asyncio.get_running_loop().call_later(FAREWELL, self.closed.set)
        else:
            self.closed.set()

    def lost(self) -> None:
        """The connection is gone."""
        self._input.end()
        self.closed.set()

    async def _flush_head(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HEAD_FLUSH_TIMEOUT
        delay = 0.0
        while _unsent(transport) and loop.time() < deadline:
            await asyncio.sleep(delay)
            delay = min(0.005, delay + 0.0001)
        held, self._held, self._flush = self._held, None, None
        if held and self._connection.transport is not None:
            self._connection.transport.write(bytes(held))


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes of output that the client has not taken: ours, then the kernel's (SIOCOUTQ, the same as TIOCOUTQ)."""
    if transport.is_closing():
        return 0
    if queued := transport.get_write_buffer_size():
        return queued
    sock = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])
