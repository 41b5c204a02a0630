"""Volumes."""

from aiohttp import web

from boxwright import types
from boxwright.errdefs import Unavailable

from .. import responses
from ..call import Call
from ..router import Route
from .unsupported import NO_SWARM


async def create(call: Call) -> web.StreamResponse:
    """POST /volumes/create"""
    body = await call.required_json(types.VolumeCreateRequest)
    if body.cluster_volume_spec is not None:
        raise Unavailable(NO_SWARM)
    return responses.json(await call.backend.volume_create(body), 201)


async def listing(call: Call) -> web.StreamResponse:
    """GET /volumes"""
    return responses.json(await call.backend.volumes(call.query.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    """GET /volumes/{name}"""
    return responses.json(await call.backend.volume_inspect(call.name))


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /volumes/{name}"""
    await call.backend.volume_remove(call.name, call.query.flag("force"))
    return responses.empty()


async def prune(call: Call) -> web.StreamResponse:
    """POST /volumes/prune: only anonymous volumes since API 1.42, unless the filter `all` is true."""
    filters = call.query.filters()
    if call.version < (1, 42):
        filters["all"] = ["true"]
    return responses.json(await call.backend.volumes_prune(filters))


ROUTES = [
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes", listing),
    Route("GET", "/volumes/{name}", inspect),
    Route("DELETE", "/volumes/{name}", remove),
]
