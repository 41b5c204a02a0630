"""One request, as the routes see it."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from boxwright.errdefs import InvalidParameter, TooLarge
from boxwright.types import Model, lenient

from . import responses
from .errors import RequestTimeout
from .query import Query
from .versions import Version

if TYPE_CHECKING:
    from .authorization import Case
    from .backend import Backend
    from .hijack import Stream
    from .protocol import Connection

T = TypeVar("T", bound=Model)

# A JSON body in bytes: a container's configuration with every list full stays well below.
MAX_BODY = 4 * 1024 * 1024
# Seconds for a whole JSON body, and for the next piece of an archive.
BODY_DEADLINE = 30.0
PIECE_DEADLINE = 120.0

_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Call:
    """A request with its API version, path parameters and query; `name` is the path's only parameter."""

    __slots__ = ("_body", "backend", "case", "connection", "name", "query", "request", "started", "version")

    def __init__(
        self,
        backend: "Backend",
        request: web.BaseRequest,
        connection: "Connection",
        version: Version,
        name: str,
        query: Query,
    ) -> None:
        self.backend = backend
        self.request = request
        self.connection = connection
        self.version = version
        self.name = name
        self.query = query
        self.started: web.StreamResponse | None = None
        # What authorization plugins were shown: the body, None for one that they could not be; and who they are.
        self._body: bytes | None = None
        self.case: Case | None = None

    # The request's body

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body; raises `TooLarge` past `limit` bytes and `RequestTimeout` when it comes too slowly."""
        if self._body is not None:
            return self._body
        body = await self._read(limit)
        if body and self.case is not None:
            # CVE-2024-41110: nothing is acted upon that a plugin has not seen.
            _check_json(self.request.headers.get("Content-Type", ""))
            raise InvalidParameter("the request's body could not be shown to the authorization plugins")
        return body

    async def shown_body(self) -> bytes:
        """The body for authorization plugins: a JSON one whole, b"" for a stream, and for /auth (a password)."""
        media = self.request.headers.get("Content-Type", "").split(";", 1)[0].strip().lower()
        if media != "application/json":
            return b""
        self._body = await self._read(MAX_BODY)
        return b"" if self.request.path.endswith("/auth") else self._body

    async def _read(self, limit: int) -> bytes:
        length = self.request.content_length
        if length is not None and length > limit:
            raise TooLarge(f"request body too large: limit is {limit} bytes")
        content = self.request.content
        if content.is_eof() and not content.total_bytes:
            return b""
        self._continue()
        if not content.is_eof():
            try:
                async with asyncio.timeout(BODY_DEADLINE):
                    return await self._gather(limit)
            except TimeoutError:
                raise RequestTimeout from None
        return await self._gather(limit)

    async def _gather(self, limit: int) -> bytes:
        whole = bytearray()
        while piece := await self.request.content.readany():
            whole += piece
            if len(whole) > limit:
                raise TooLarge(f"request body too large: limit is {limit} bytes")
        return bytes(whole)

    async def json(self, model: type[T]) -> T | None:
        """The body as `model`; None when there is no body.  Raises `InvalidParameter` in dockerd's words."""
        body = await self.body()
        given = self.request.headers.get("Content-Type", "")
        if given or body:
            _check_json(given)
        return lenient.decode(body, model) if body else None

    async def required_json(self, model: type[T]) -> T:
        """The same where a body has to be."""
        found = await self.json(model)
        if found is None:
            raise InvalidParameter("invalid JSON: got EOF while reading request body")
        return found

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body of an archive, piece by piece, without end."""
        if self._body is not None:
            yield self._body
            return
        self._continue()
        while True:
            try:
                async with asyncio.timeout(PIECE_DEADLINE):
                    piece = await self.request.content.readany()
            except TimeoutError:
                raise RequestTimeout from None
            if not piece:
                return
            yield piece

    def _continue(self) -> None:
        expected = self.request.headers.get("Expect")
        if expected is None:
            return
        if expected.lower() != "100-continue":
            raise RequestPayloadError(f"unknown expectation {expected[:40]!r}")
        if self.request.transport is not None:
            self.request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # The answer

    async def streaming(
        self, content_type: str, cancel: bool = True, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        """An answer whose body comes in time: its head is sent now.

        With `cancel` the calling task is cancelled when the client goes, since it serves nobody then.
        """
        if cancel:
            self.connection.cancel_when_gone()
        response = web.StreamResponse(headers={**responses.HEADERS, "Content-Type": content_type, **(headers or {})})
        if self.request.version >= (1, 1):
            response.enable_chunked_encoding()
        if self.case is not None:
            await self.case.answer(200, response.headers)
        self.started = response
        await response.prepare(self.request)
        return response

    def stream(self) -> "Stream":
        """The hijacked connection of this request."""
        return self.connection.hijack(self.version, self.case)


def _check_json(content_type: str) -> None:
    media = content_type.split(";", 1)[0].strip()
    if not media:
        raise InvalidParameter(f"malformed Content-Type header ({content_type}): mime: no media type")
    if not _MEDIA_TYPE.fullmatch(media):
        raise InvalidParameter(f"malformed Content-Type header ({content_type[:100]})")
    if media.lower() != "application/json":
        raise InvalidParameter(f"unsupported Content-Type header ({content_type[:100]}): must be 'application/json'")
