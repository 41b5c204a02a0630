"""aiohttp's connection, corrected where Docker's clients need more than HTTP.

- A client may half-close and still read: that must not close the connection.
- Attach and exec turn the connection into a byte stream, at once or after the answer's head.
- Heads are gathered here first, bounded in size and time, before the parser sees them.
- Errors of the parser are answered as JSON.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from boxwright.errdefs import InvalidParameter

from . import responses, tls
from .doors import Door
from .hangup import HangupWatch
from .hijack import Case, Early, Stream
from .versions import Version

# Go's limit, which Docker has: request line and all header fields together.
MAX_HEAD = 1024 * 1024
MAX_FIELDS = 256
MAX_CONNECTIONS = 4096
# Seconds from the first byte of a head to its last.
HEAD_DEADLINE = 10.0

_HEAD_END = b"\r\n\r\n"
_HIJACKABLE = re.compile(rb"POST [^ \r\n?]*/(?:containers/[^ \r\n?]*/attach|exec/[^ \r\n?/]*/start)[? ]")
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:[ \t]*(?:tcp|h2c)[ \t]*(?=\r\n)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*([0-9]{1,10})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)

# Heads of the answers to a request that asks for the upgrade, and to one of an old client that does not.
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" + responses.HEAD_LINES
PLAIN = b"HTTP/1.1 200 OK\r\n" + responses.HEAD_LINES

_log = logging.getLogger(__name__)


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_answered",
        "_body_left",
        "_door",
        "_head",
        "_head_timer",
        "_last_payload",
        "_later",
        "_streaming",
        "_watch",
        "_watched",
        "early",
        "stream",
        "upgrade",
    )

    def __init__(
        self,
        manager: "Server",
        *,
        loop: asyncio.AbstractEventLoop,
        watch: HangupWatch,
        door: Door | None = None,
        **limits: Any,
    ) -> None:
        """door: of the socket that plain TCP came through; None for Unix sockets, and under TLS, which has counted."""
        super().__init__(manager, loop=loop, **limits)
        self._door = door
        self._watch = watch
        self._watched = -1
        self._head = bytearray()
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_payload: Any = None
        self._body_left = 0
        self._answered = 0
        self._later = bytearray()
        self._streaming: asyncio.Task[Any] | None = None
        self.early: Early | None = None
        self.stream: Stream | None = None
        self.upgrade = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came; one too many is told so and sent away."""
        super().connection_made(transport)
        full = self._door is not None and not self._door.enter(self)
        if full or (self._manager is not None and len(self._manager.connections) > MAX_CONNECTIONS):
            self._refuse(503, "too many connections")
        elif transport.get_extra_info("peername"):  # TCP: who connects and says nothing is no client of ours
            self._head_timer = self._loop.call_later(HEAD_DEADLINE, self._head_late)

    # Input

    def data_received(self, data: bytes) -> None:
        """Bytes arrived: a stream's input, a part of a head, or what the parser is waiting for."""
        if self.early is not None:
            self._behind_hijackable(data)
            return
        if data and self._answered < self._request_count and self._body_complete():
            self._pipelined(data)
            return
        if data and (self._head or self._between_requests()):
            whole = self._gather(data)
            if whole is None:
                return
            if whole.startswith(b"POST ") and _HIJACKABLE.match(whole):
                self._hijackable(whole)
                return
            data = whole
        self._parse(data)

    def _between_requests(self) -> bool:
        return self._answered == self._request_count and self._body_complete()

    def _body_complete(self) -> bool:
        return not self._upgraded and (self._last_payload is None or self._last_payload.is_eof())

    def _pipelined(self, data: bytes) -> None:
        """Keep what comes before its turn: it has to be looked at like every start of a request."""
        self._later += data
        if len(self._later) >= MAX_HEAD and self.transport is not None:
            self.transport.pause_reading()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer, then take up what came meanwhile."""
        result = await super().finish_response(request, resp, start_time)
        self._answered += 1
        if request.content.exception() is not None:
            # The body went wrong: there is no rest of it to wait for, and nothing can follow it.
            request.content.feed_eof()
            self.close()
        if self._later and self.transport is not None:
            later, self._later = self._later, bytearray()
            if len(later) >= MAX_HEAD:
                self.transport.resume_reading()
            self.data_received(bytes(later))
        return result

    def _gather(self, data: bytes) -> bytes | None:
        """The bytes from the start of a head on, once the head is whole."""
        if not self._head and not (data := data.lstrip(b"\r\n")):
            return None  # RFC 9112 2.2: an empty line before a request is ignored
        seen = max(0, len(self._head) - 3)
        if self._head:
            self._head += data
            data = bytes(self._head) if self._head.find(_HEAD_END, seen) >= 0 else b""
        elif _HEAD_END not in data:
            self._head += data
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(HEAD_DEADLINE, self._head_late)
            data = b""
        if data:
            self._head.clear()
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            if data.find(_HEAD_END) <= MAX_HEAD:
                return data
        if len(self._head) > MAX_HEAD or data:
            self._refuse(431, "request header fields too large")
        return None

    def _head_late(self) -> None:
        self._refuse(408, "the head of the request was not complete in time")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without a request, and close."""
        self._head.clear()
        if self.transport is not None:
            self.transport.write(responses.raw_error(status, message))
        self.force_close()

    def _parse(self, data: bytes) -> None:
        count = self._request_count
        super().data_received(data)
        if self._request_count == count:
            return
        if self._last_payload is not None and not self._last_payload.is_eof():
            # Nothing can follow a body that has not ended but the parser's refusal of it, of which it tells no reader.
            self._last_payload.set_exception(RequestPayloadError("invalid chunk"))
        self._last_payload = self._messages[-1][1]

    def _hijackable(self, whole: bytes) -> None:
        """A request that may turn into a stream: the parser gets its head and body and nothing behind them."""
        end = whole.index(_HEAD_END) + len(_HEAD_END)
        head, rest = whole[:end], whole[end:]
        if _CHUNKED.search(head):
            self._parse(whole)
            return
        length = _LENGTH.search(head)
        self._body_left = int(length[1]) if length else 0
        self.early = Early(self)
        # The parser stops at an upgrade, before the body or after it depending on its version: it need not know.
        head, asked = _UPGRADE.subn(b"", head)
        self.upgrade = asked > 0
        self._parse(head)
        self._behind_hijackable(rest)

    def _behind_hijackable(self, data: bytes) -> None:
        if self._body_left:
            body, data = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(body)
            self._parse(body)
        if data and self.early is not None:
            self.early.feed(data)

    # Hijacking

    def hijack(self, version: Version, case: Case | None = None) -> Stream:
        """The stream of the request that is being handled; nothing is sent before `Stream.open`."""
        if self.early is None:
            raise InvalidParameter("this request cannot be hijacked")
        self.stream = Stream(self, self.early, UPGRADED if self.upgrade else PLAIN, version, case)
        self._notice_hangup()
        return self.stream

    def release(self) -> bool:
        """The request was answered as plain HTTP.  Returns whether the connection can carry another one."""
        early, self.early, self.stream, self.upgrade = self.early, None, None, False
        return early is None or not (early.data or early.ended)

    # The end of the input, and of the connection

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client half-closed: true keeps the other direction."""
        if self.stream is not None or self.early is not None:
            if self.early is not None:
                self.early.end()
            if self._body_left and self._last_payload is not None:
                self._last_payload.set_exception(RequestPayloadError("unexpected EOF"))
            return True
        if self._answered == self._request_count or self._upgraded:
            return None  # idle, or a WebSocket, which has its own close
        if self._last_payload is not None and not self._last_payload.is_eof():
            self._last_payload.set_exception(RequestPayloadError("unexpected EOF"))
        self.close()
        self._notice_hangup()
        return True

    def cancel_when_gone(self) -> None:
        """Cancel the task that calls this when the client goes: it serves nobody then."""
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        self._streaming = asyncio.current_task()
        self._notice_hangup()

    def served(self) -> None:
        """The request has been answered."""
        self._streaming = None

    def end_streams(self) -> None:
        """The server closes: what would never end by itself is ended."""
        if self._streaming is not None:
            self._streaming.cancel()
        if self.stream is not None:
            self.stream.lost()

    def _notice_hangup(self) -> None:
        if self._watched < 0 and self.transport is not None:
            self._watched = self.transport.get_extra_info("socket").fileno()
            self._watch.watch(self._watched, self._hung_up)

    def _hung_up(self) -> None:
        if self.stream is not None:
            self.stream.hung_up()
        elif self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone: streams end, what changes something goes on."""
        if self._watched >= 0:
            self._watch.forget(self._watched, self._hung_up)
            self._watched = -1
        if self._door is not None:
            self._door.leave(self)
        if self._head_timer is not None:
            self._head_timer.cancel()
        if self.early is not None:
            self.early.end()
        if self.stream is not None:
            self.stream.lost()
        if self._streaming is not None:
            self._streaming.cancel()
        super().connection_lost(exc)

    # Errors

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what the parser refused."""
        _log.debug("malformed request: %s", message, exc_info=exc)
        response = responses.error(status, f"malformed request: {(message or str(exc)).strip().splitlines()[0][:200]}")
        response.force_close()
        return response


class Server(web.Server):
    """Makes a `Connection` for each client."""

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def remote(self, context: ssl.SSLContext | None) -> Callable[[], asyncio.Protocol]:
        """The protocol factory of one TCP socket: plain, or under TLS."""
        door = Door()
        if context is None:
            return lambda: Connection(self, loop=self._loop, door=door, **self._kwargs)
        return lambda: tls.Layer(context, self, door)
