"""Containers: what answers in time — logs, attach, wait."""

from aiohttp import web

from boxwright.errdefs import InvalidParameter

from .. import mediatypes, responses
from ..backend import AttachQuery, LogQuery
from ..call import Call
from ..router import Route
from ..websocket import WebSocketStream


async def logs(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/logs"""
    query = call.query
    wanted = LogQuery(
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        since=query.time_ns("since"),
        until=query.time_ns("until"),
        timestamps=query.flag("timestamps"),
        details=query.flag("details"),
        tail=_tail(query.text("tail")),
        follow=query.flag("follow"),
    )
    if not (wanted.stdout or wanted.stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    tty = call.backend.tty(call.name)
    call.connection.cancel_when_gone()
    pieces = aiter(call.backend.logs(call.name, wanted))
    # Not before the log is open: a client that has the head may remove the container, as docker-py's `run` does.
    piece = await anext(pieces, b"")
    response = await call.streaming(mediatypes.content_type(not tty, call.version))
    if piece:
        await response.write(piece)
    async for piece in pieces:
        await response.write(piece)
    return response


def _tail(text: str) -> int:
    # Docker takes what is not a number, "all" among it, for everything.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _attach_query(call: Call) -> AttachQuery:
    query = call.query
    return AttachQuery(
        stdin=query.flag("stdin"),
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        stream=query.flag("stream"),
        logs=query.flag("logs"),
        detach_keys=query.text("detachKeys"),
    )


async def attach(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/attach"""
    await call.body()
    await call.backend.attach(call.name, _attach_query(call), call.stream())
    return responses.Hijacked()


async def attach_websocket(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/attach/ws: the same without frames, over a WebSocket."""
    query = _attach_query(call)
    if call.version < (1, 42):
        # Older clients could not choose: all streams are attached.
        query = query._replace(stdin=True, stdout=True, stderr=True, stream=True)
    call.connection.cancel_when_gone()
    stream = WebSocketStream(call)
    await call.backend.attach(call.name, query, stream)
    return stream.response


async def wait(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/wait: the head is the sign that the waiter is registered."""
    waiter = call.backend.wait(call.name, call.query.text("condition") if call.version >= (1, 30) else "")
    try:
        response = await call.streaming("application/json")
        await response.write_eof(responses.line(await waiter.result()))  # with its end: one packet, one wake-up
    finally:
        waiter.close()
    return response


ROUTES = [
    Route("GET", "/containers/{name}/logs", logs),
    Route("POST", "/containers/{name}/attach", attach),
    Route("GET", "/containers/{name}/attach/ws", attach_websocket),
    Route("POST", "/containers/{name}/wait", wait),
]
