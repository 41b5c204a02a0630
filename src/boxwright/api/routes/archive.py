"""Files of a container: `docker cp`."""

import base64

import msgspec
from aiohttp import web

from boxwright.errdefs import InvalidParameter

from .. import responses
from ..backend import Json
from ..call import Call
from ..router import Route

HEADER = "X-Docker-Container-Path-Stat"


def _path(call: Call) -> str:
    path = call.query.text("path")
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    return path


def _encoded(stat: Json) -> str:
    shown = {key: _text(value) if isinstance(value, str) else value for key, value in stat.items()}
    return base64.b64encode(msgspec.json.encode(shown)).decode()


def _text(value: str) -> str:
    """File names are bytes; what is no UTF-8 in them cannot be shown."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


async def head(call: Call) -> web.StreamResponse:
    """HEAD /containers/{name}/archive"""
    stat = await call.backend.path_stat(call.name, _path(call))
    response = responses.empty(200)
    response.headers[HEADER] = _encoded(stat)
    return response


async def get(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/archive"""
    async with call.backend.archive_read(call.name, _path(call)) as (stat, pieces):
        response = await call.streaming("application/x-tar", headers={HEADER: _encoded(stat)})
        async for piece in pieces:
            await response.write(piece)
    await response.write_eof()
    return response


async def put(call: Call) -> web.StreamResponse:
    """PUT /containers/{name}/archive"""
    query = call.query
    await call.backend.archive_write(
        call.name, _path(call), call.pieces(), query.flag("noOverwriteDirNonDir"), query.flag("copyUIDGID")
    )
    return responses.empty(200)


ROUTES = [
    Route("GET", "/containers/{name}/archive", get),
    Route("HEAD", "/containers/{name}/archive", head),
    Route("PUT", "/containers/{name}/archive", put),
]
