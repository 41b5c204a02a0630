"""Exec sessions."""

from aiohttp import web

from boxwright import types

from .. import responses
from ..call import Call
from ..router import Route


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/exec"""
    config = await call.required_json(types.ExecConfig)
    if call.version < (1, 42):
        config.console_size = None
    return responses.json(await call.backend.exec_create(call.name, config), 201)


async def start(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/start: detached, or hijacked."""
    config = await call.json(types.ExecStartConfig) or types.ExecStartConfig()
    size = config.console_size if call.version >= (1, 42) else None
    if size == (0, 0):
        size = None
    stream = None if config.detach else call.stream()
    await call.backend.exec_start(call.name, config.detach, config.tty, size, stream)
    return responses.empty(200) if config.detach else responses.Hijacked()


async def resize(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/resize"""
    height, width = call.query.size("h", "height"), call.query.size("w", "width")
    await call.backend.exec_resize(call.name, height, width)
    return responses.empty(200)


async def kill(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/kill: ours, not Docker's."""
    await call.backend.exec_kill(call.name, call.query.text("signal") or None)
    return responses.empty()


async def inspect(call: Call) -> web.StreamResponse:
    """GET /exec/{id}/json"""
    return responses.json(call.backend.exec_inspect(call.name))


ROUTES = [
    Route("POST", "/containers/{name}/exec", create),
    Route("POST", "/exec/{id}/start", start),
    Route("POST", "/exec/{id}/resize", resize),
    Route("POST", "/exec/{id}/kill", kill),
    Route("GET", "/exec/{id}/json", inspect),
]
