"""Containers: create, list, inspect and the verbs of their life."""

import contextlib

import msgspec
from aiohttp import web

from boxwright import types
from boxwright.engine import telemetry
from boxwright.errdefs import InvalidParameter

from .. import compat, responses
from ..call import Call
from ..progress import archive
from ..router import Route


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/create"""
    body = await call.required_json(types.CreateRequest)
    config = body.config()
    if config == types.ContainerConfig():
        raise InvalidParameter("config cannot be empty in order to create a container")
    host_config = body.host_config or types.HostConfig()
    networking = body.networking_config or types.NetworkingConfig()
    compat.create(call.version, config, host_config, networking)
    platform = call.query.text("platform") if call.version >= (1, 41) else ""
    made = await call.backend.create(call.query.text("name") or None, config, host_config, networking, platform)
    return responses.json(made, 201)


async def listing(call: Call) -> web.StreamResponse:
    """GET /containers/json"""
    query = call.query
    limit = query.integer("limit", 0) or 0
    found = await call.backend.containers(
        query.flag("all") or limit > 0, max(limit, 0), query.flag("size"), query.filters()
    )
    return responses.json(found)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/json"""
    return responses.json(await call.backend.inspect(call.name, call.query.flag("size")))


async def start(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/start; a HostConfig in the body is taken from old clients, an empty one is none."""
    _traced(call)
    host_config = await call.json(types.HostConfig)
    if host_config is not None and _asks_for_nothing(host_config):
        host_config = None
    if host_config is not None:
        compat.host_config(call.version, host_config)
    await call.backend.start(call.name, host_config)
    return responses.empty()


def _asks_for_nothing(host_config: types.HostConfig) -> bool:
    given, usual = msgspec.structs.astuple(host_config), msgspec.structs.astuple(types.HostConfig())
    return all(not value or value == default for value, default in zip(given, usual, strict=True))


async def stop(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/stop"""
    await call.backend.stop(call.name, _signal(call), call.query.integer("t"))
    return responses.empty()


async def restart(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/restart"""
    _traced(call)
    await call.backend.restart(call.name, _signal(call), call.query.integer("t"))
    return responses.empty()


def _traced(call: Call) -> None:
    """A client that traces (the docker CLI does) says which of its spans asks: the start becomes a part of it."""
    telemetry.parent.set(call.request.headers.get("traceparent", ""))


def _signal(call: Call) -> str | None:
    # The parameter came to stop and restart with API 1.42.
    return call.query.text("signal") or None if call.version >= (1, 42) else None


async def kill(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/kill"""
    await call.backend.kill(call.name, call.query.text("signal") or None)
    return responses.empty()


async def pause(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/pause"""
    await call.backend.pause(call.name)
    return responses.empty()


async def unpause(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/unpause"""
    await call.backend.unpause(call.name)
    return responses.empty()


async def rename(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/rename"""
    await call.backend.rename(call.name, call.query.text("name"))
    return responses.empty()


async def resize(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/resize"""
    height, width = call.query.size("h", "height"), call.query.size("w", "width")
    await call.backend.resize(call.name, height, width)
    return responses.empty(200)


async def top(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/top"""
    return responses.json(await call.backend.top(call.name, call.query.text("ps_args", "-ef")))


async def stats(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/stats: one answer, or one a second until the container is removed."""
    query = call.query
    stream = query.flag("stream", True)
    one_shot = query.flag("one-shot") and call.version >= (1, 41)
    call.connection.cancel_when_gone()
    async with contextlib.aclosing(call.backend.stats(call.name, stream, one_shot)) as figures:
        first = await anext(figures, None)
        if first is None:
            return responses.empty(200)  # it was removed before there were figures
        if not stream:
            return responses.json(first)
        response = await call.streaming("application/json")
        await response.write(responses.line(first))
        async for following in figures:
            await response.write(responses.line(following))
    return response


async def update(call: Call) -> web.StreamResponse:
    """POST /containers/{name}/update"""
    wanted = await call.required_json(types.UpdateRequest)
    compat.update(call.version, wanted)
    return responses.json(await call.backend.update(call.name, wanted))


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /containers/{name}"""
    query = call.query
    await call.backend.remove(call.name, query.flag("force"), query.flag("v"), query.flag("link"))
    return responses.empty()


async def changes(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/changes"""
    return responses.json(await call.backend.changes(call.name) or None)


async def export(call: Call) -> web.StreamResponse:
    """GET /containers/{name}/export"""
    return await archive(call, call.backend.export(call.name))


async def prune(call: Call) -> web.StreamResponse:
    """POST /containers/prune"""
    return responses.json(await call.backend.containers_prune(call.query.filters()))


ROUTES = [
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/json", listing),
    Route("GET", "/containers/{name}/json", inspect),
    Route("POST", "/containers/{name}/start", start),
    Route("POST", "/containers/{name}/stop", stop),
    Route("POST", "/containers/{name}/restart", restart),
    Route("POST", "/containers/{name}/kill", kill),
    Route("POST", "/containers/{name}/pause", pause),
    Route("POST", "/containers/{name}/unpause", unpause),
    Route("POST", "/containers/{name}/rename", rename),
    Route("POST", "/containers/{name}/resize", resize),
    Route("GET", "/containers/{name}/top", top),
    Route("GET", "/containers/{name}/stats", stats),
    Route("POST", "/containers/{name}/update", update),
    Route("GET", "/containers/{name}/changes", changes),
    Route("GET", "/containers/{name}/export", export),
    Route("DELETE", "/containers/{name}", remove),
]
