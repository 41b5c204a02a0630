"""The API as one function from request to answer: checks, version, route, and the errors of all of them."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from boxwright.errdefs import Forbidden, InvalidParameter

from . import errors, responses, versions
from .authorization import Authorization
from .backend import Backend
from .call import Call
from .protocol import Connection
from .query import Query
from .router import Handler, Route, Router, decode_path
from .routes import every_route


class App:
    """Answers requests by calling the backend."""

    def __init__(
        self,
        backend: Backend,
        authorization: Authorization | None = None,
        routes: Sequence[Route] | None = None,
    ) -> None:
        """routes: the table, when it is not the whole API."""
        self._backend = backend
        self._authorization = authorization
        self._router = Router(every_route() if routes is None else list(routes))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; raises nothing but CancelledError, and ConnectionError when the client is gone."""
        connection = cast(Connection, request.protocol)
        call: Call | None = None
        response: web.StreamResponse
        try:
            call, handler = self._route(request, connection)
            if self._authorization is not None:
                call.case = await self._authorization.examine(call)
            response = await handler(call)
            if call.case is not None and isinstance(response, web.Response):
                body = response.body if isinstance(response.body, bytes) else b""
                await call.case.answer(response.status, response.headers, body)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            response = _failed(call, error)
        finally:
            connection.served()
        if self._backend.experimental and not response.prepared:
            response.headers["Docker-Experimental"] = "true"
        if connection.early is not None and not isinstance(response, responses.Hijacked) and not connection.release():
            response.force_close()
        return response

    def _route(self, request: web.BaseRequest, connection: Connection) -> tuple[Call, Handler]:
        _check_sender(request)
        target, _, query = request.raw_path.partition("?")
        version, path = versions.split(decode_path(target))
        handler, parameters = self._router.find(request.method, path)
        name = next(iter(parameters.values()), "")
        return Call(self._backend, request, connection, version, name, Query(query)), handler


def _failed(call: Call | None, error: Exception) -> web.StreamResponse:
    status, message = errors.answer(error)
    started = call.started if call is not None else None
    if started is None:
        return responses.error(status, message)
    # The head is out: the client learns of the failure by a body without its end.  Closed here, because aiohttp answers
    # every exception of a handler with a head of its own, which would be taken for a part of the body.
    if call is not None and call.connection.transport is not None:
        call.connection.transport.close()
    raise ConnectionAbortedError(message) from error


def _check_sender(request: web.BaseRequest) -> None:
    """Refuse what a web page of someone else makes a browser send, and requests that do not say for whom they are."""
    headers = request.headers
    hosts = headers.getall(hdrs.HOST, ())
    if len(hosts) != 1 and (hosts or request.version >= (1, 1)):
        raise InvalidParameter("a request needs one Host header")
    site, origin = headers.get("Sec-Fetch-Site"), headers.get(hdrs.ORIGIN)
    if site in ("cross-site", "same-site"):
        raise Forbidden("cross-origin requests are refused")
    if origin is not None and (not hosts or urlsplit(origin).netloc != hosts[0]):
        raise Forbidden("cross-origin requests are refused")
    if (site is not None or origin is not None) and not _is_address(hosts[0] if hosts else ""):
        # A name can be made to point here by whoever owns it (DNS rebinding), and is then the page's own origin.
        raise Forbidden("browsers are served under this machine's address or as localhost only")


def _is_address(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost"
    return True
