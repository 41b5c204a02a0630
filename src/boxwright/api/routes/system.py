"""The engine itself: ping, version, info, events."""

from aiohttp import web

from .. import responses
from ..call import Call
from ..router import Route

# Builder-Version 1: the client's own builder talks to POST /build, not BuildKit to /grpc.
PING = {
    "Builder-Version": "1",
    "Swarm": "inactive",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
}


async def ping(call: Call) -> web.StreamResponse:
    """GET /_ping"""
    return responses.text("OK", headers=PING)


async def ping_head(call: Call) -> web.StreamResponse:
    """HEAD /_ping"""
    return responses.text("", headers=PING)


async def info(call: Call) -> web.StreamResponse:
    """GET /info"""
    return responses.json(await call.backend.info())


async def version(call: Call) -> web.StreamResponse:
    """GET /version"""
    return responses.json(await call.backend.version())


async def metrics(call: Call) -> web.StreamResponse:
    """GET /metrics: Prometheus' text format; ours, on dockerd it has an address of its own."""
    body = await call.backend.metrics()
    return responses.text(body.decode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def events(call: Call) -> web.StreamResponse:
    """GET /events: what is remembered since `since`, then what happens until `until`."""
    query = call.query
    subscription = call.backend.events(query.filters(), query.time_ns("since"), query.time_ns("until"))
    try:
        response = await call.streaming("application/json")
        async for event in subscription:
            await response.write(responses.line(event))
    finally:
        subscription.close()
    return response


async def plugins(call: Call) -> web.StreamResponse:
    """GET /plugins: there are none."""
    call.query.filters()
    return responses.json([])


METRICS = [Route("GET", "/metrics", metrics)]

ROUTES = [
    *METRICS,
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping_head),
    Route("GET", "/info", info),
    Route("GET", "/version", version),
    Route("GET", "/events", events),
    Route("GET", "/plugins", plugins),
]
