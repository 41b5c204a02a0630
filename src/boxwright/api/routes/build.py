"""Builds, as the docker CLI without buildx and docker-py ask for them."""

import base64
import binascii
import contextlib
from typing import Any, TypeVar

from aiohttp import web

from boxwright import types
from boxwright.errdefs import InvalidParameter, NotImplemented_
from boxwright.images.distribution import auth
from boxwright.types import lenient
from boxwright.types.build import BuildOptions

from .. import responses
from ..call import Call
from ..query import Query
from ..router import Route

T = TypeVar("T")

_MOST_TAGS = 100
_MOST_NAMES = 1000  # of arguments, labels, images to take from


async def build(call: Call) -> web.StreamResponse:
    """POST /build: the context in, messages out.  It ends with the client that asked for it."""
    options = _options(call)
    call.connection.cancel_when_gone()
    response: web.StreamResponse | None = None
    async with contextlib.aclosing(call.backend.build(options, call.pieces())) as messages:
        async for message in messages:
            response = response or await call.streaming("application/json")
            await response.write(responses.line(message))
    return response or await call.streaming("application/json")


async def cancel(call: Call) -> web.StreamResponse:
    """POST /build/cancel"""
    if not (build_id := call.query.text("id")):
        raise InvalidParameter("build ID not provided")
    call.backend.build_cancel(build_id)
    return responses.empty(200)


async def prune(call: Call) -> web.StreamResponse:
    """POST /build/prune"""
    for name in ("keep-storage", "reserved-space", "max-used-space", "min-free-space"):
        call.query.integer(name)
    return responses.json(await call.backend.build_prune(call.query.flag("all"), call.query.filters()))


def _options(call: Call) -> BuildOptions:
    query = call.query
    _refuse(query)
    return BuildOptions(
        tags=_bounded("t", [tag for tag in query.all("t") if tag], _MOST_TAGS),
        dockerfile=query.text("dockerfile") or "Dockerfile",
        remote=query.text("remote"),
        target=query.text("target"),
        platform=query.text("platform") if call.version >= (1, 32) else "",
        build_id=query.text("buildid"),
        no_cache=query.flag("nocache"),
        pull=query.flag("pull"),
        quiet=query.flag("q"),
        keep=not query.flag("rm", True) and not query.flag("forcerm"),
        force_remove=query.flag("forcerm"),
        aux=call.version >= (1, 30),
        squash=query.flag("squash"),
        cache_from=_bounded("cachefrom", _texts(query, "cachefrom"), _MOST_NAMES),
        build_args=_map(query, "buildargs"),
        labels={name: value or "" for name, value in _map(query, "labels").items()},
        memory=query.integer("memory", 0) or 0,
        memory_swap=query.integer("memswap", 0) or 0,
        cpu_shares=query.integer("cpushares", 0) or 0,
        cpu_period=query.integer("cpuperiod", 0) or 0,
        cpu_quota=query.integer("cpuquota", 0) or 0,
        cpuset_cpus=query.text("cpusetcpus"),
        cpuset_mems=query.text("cpusetmems"),
        cgroup_parent=query.text("cgroupparent"),
        shm_size=query.integer("shmsize", 0) or 0,
        ulimits=tuple(_ulimits(query)),
        network_mode=query.text("networkmode"),
        extra_hosts=tuple(query.all("extrahosts")),
        security_opt=tuple(query.all("securityopt")),
        registries=_registries(call.request.headers.get("X-Registry-Config", "")),
    )


def _refuse(query: Query) -> None:
    """What no classic builder, or not this one, does."""
    version = query.text("version") or "1"
    if version not in ("1", "2"):
        raise InvalidParameter(f'invalid version {version[:100]}: only "1" (the classic builder) is served')
    if version == "2":
        raise NotImplemented_("BuildKit is not implemented yet by boxwright: build with DOCKER_BUILDKIT=0")
    if query.text("outputs") not in ("", "[]", "null"):
        raise NotImplemented_("outputs of a build need BuildKit, which is not implemented yet by boxwright")
    if query.text("isolation").lower() not in ("", "default"):
        raise InvalidParameter(f"isolation {query.text('isolation')[:100]} is not supported on linux")


def _parsed(query: Query, name: str) -> Any:
    text = query.text(name)
    if not text:
        return None
    try:
        return lenient.parse(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"error reading {name}: {error}") from None


def _map(query: Query, name: str) -> dict[str, str | None]:
    found = _parsed(query, name)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(value is None or isinstance(value, str) for value in found.values()):
        raise InvalidParameter(f"error reading {name}: a JSON object of strings is expected")
    return dict(zip(_bounded(name, list(found), _MOST_NAMES), found.values(), strict=True))


def _texts(query: Query, name: str) -> list[str]:
    found = _parsed(query, name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise InvalidParameter(f"error reading {name}: a JSON list of strings is expected")
    return [value for value in found if value]


def _registries(header: str) -> dict[str, Any]:
    """X-Registry-Config: base64 of JSON; as dockerd does, what cannot be read is nothing."""
    if len(header) > auth.LONGEST_HEADER:
        raise InvalidParameter("invalid X-Registry-Config header: it is too long")
    with contextlib.suppress(binascii.Error, ValueError, InvalidParameter):
        found = lenient.parse(base64.b64decode(header.replace("-", "+").replace("_", "/"), validate=True))
        if isinstance(found, dict):
            return found
    return {}


def _ulimits(query: Query) -> list[types.Ulimit]:
    found = _parsed(query, "ulimits")
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > _MOST_NAMES:
        raise InvalidParameter("error reading ulimits: a JSON list is expected")
    return [lenient.convert(item, types.Ulimit) for item in found]


def _bounded(name: str, values: list[T], most: int) -> tuple[T, ...]:
    if len(values) > most:
        raise InvalidParameter(f"more than {most} values of {name}")
    return tuple(values)


ROUTES = [
    Route("POST", "/build/cancel", cancel),
    Route("POST", "/build/prune", prune),
    Route("POST", "/build", build),
]
