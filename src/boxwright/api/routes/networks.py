"""Networks."""

from aiohttp import web

from boxwright import types

from .. import responses
from ..call import Call
from ..router import Route


async def listing(call: Call) -> web.StreamResponse:
    """GET /networks"""
    return responses.json(await call.backend.networks(call.query.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    """GET /networks/{id}"""
    return responses.json(await call.backend.network_inspect(call.name))


async def create(call: Call) -> web.StreamResponse:
    """POST /networks/create"""
    return responses.json(await call.backend.network_create(await call.required_json(types.NetworkCreateRequest)), 201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /networks/{id}"""
    await call.backend.network_remove(call.name)
    return responses.empty()


async def connect(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/connect"""
    await call.backend.network_connect(call.name, await call.required_json(types.NetworkConnectRequest))
    return responses.empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/disconnect"""
    await call.backend.network_disconnect(call.name, await call.required_json(types.NetworkDisconnectRequest))
    return responses.empty(200)


async def prune(call: Call) -> web.StreamResponse:
    """POST /networks/prune"""
    return responses.json(await call.backend.networks_prune(call.query.filters()))


ROUTES = [
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("GET", "/networks", listing),
    Route("GET", "/networks/", listing),
    Route("GET", "/networks/{id}", inspect),
    Route("POST", "/networks/{id}/connect", connect),
    Route("POST", "/networks/{id}/disconnect", disconnect),
    Route("DELETE", "/networks/{id}", remove),
]
