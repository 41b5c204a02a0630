"""Endpoints that are known and not served: each is refused by the name of what it does, never "page not found"."""

from collections.abc import Iterator

from aiohttp import web

from boxwright.errdefs import NotFound, NotImplemented_, Unavailable

from ..call import Call
from ..router import Handler, Route

NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
NOT_IN_SWARM = "This node is not part of a swarm"

LATER = {
    "copying files by the endpoint of API 1.23": ["POST /containers/{name}/copy"],
    "checkpoint": [
        "GET /containers/{name}/checkpoints",
        "POST /containers/{name}/checkpoints",
        "DELETE /containers/{name}/checkpoints/{checkpoint}",
    ],
    "BuildKit session": ["POST /session", "POST /grpc"],
    "attestations of an image": ["GET /images/{name}/attestations"],
    "plugin": ["GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create"],
}

# There are no plugins, so none has this name; `docker inspect` asks for one last of all.
PLUGIN = [
    "GET /plugins/{name}/json",
    "DELETE /plugins/{name}",
    *(f"POST /plugins/{{name}}/{verb}" for verb in ("enable", "disable", "upgrade", "push", "set")),
]

SWARM = [
    "GET /swarm",
    "POST /swarm/update",
    "GET /swarm/unlockkey",
    "POST /swarm/unlock",
    *(f"GET /{kind}" for kind in ("nodes", "services", "tasks", "secrets", "configs")),
    *(f"GET /{kind}/{{id}}" for kind in ("nodes", "services", "tasks", "secrets", "configs")),
    *(f"DELETE /{kind}/{{id}}" for kind in ("nodes", "services", "secrets", "configs")),
    *(f"POST /{kind}/create" for kind in ("services", "secrets", "configs")),
    *(f"POST /{kind}/{{id}}/update" for kind in ("nodes", "services", "secrets", "configs")),
    *(f"GET /{kind}/{{id}}/logs" for kind in ("services", "tasks")),
]


def _later(what: str) -> Handler:
    async def refuse(call: Call) -> web.StreamResponse:
        raise NotImplemented_(f"{what} is not implemented yet by boxwright")

    return refuse


async def _no_plugin(call: Call) -> web.StreamResponse:
    raise NotFound(f'plugin "{call.name}" not found')


async def _no_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(NO_SWARM)


async def _never(call: Call) -> web.StreamResponse:
    raise Unavailable("swarm mode is not supported by boxwright")


async def _no_cluster_volume(call: Call) -> web.StreamResponse:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def _not_in_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(NOT_IN_SWARM)


def _routes() -> Iterator[Route]:
    for what, endpoints in LATER.items():
        for endpoint in endpoints:
            yield _route(endpoint, _later(what))
    for endpoint in PLUGIN:
        yield _route(endpoint, _no_plugin)
    for what in ("init", "join"):
        yield Route("POST", f"/swarm/{what}", _never)
    yield Route("POST", "/swarm/leave", _not_in_swarm)
    yield Route("PUT", "/volumes/{name}", _no_cluster_volume)
    # Logs and updates before the patterns that take everything.
    for endpoint in sorted(SWARM, key=len, reverse=True):
        yield _route(endpoint, _no_swarm)


def _route(endpoint: str, handler: Handler) -> Route:
    method, _, pattern = endpoint.partition(" ")
    return Route(method, pattern, handler)


ROUTES = list(_routes())
