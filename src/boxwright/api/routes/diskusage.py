"""`docker system df`."""

from aiohttp import web

from boxwright.errdefs import InvalidParameter

from .. import responses
from ..call import Call
from ..router import Route

KINDS = ("container", "image", "volume", "build-cache")


async def df(call: Call) -> web.StreamResponse:
    """GET /system/df; `type` came with API 1.42 and may be repeated."""
    kinds = call.query.all("type") if call.version >= (1, 42) else []
    for kind in kinds:
        if kind not in KINDS:
            raise InvalidParameter(f"unknown object type: {kind[:100]}")
    return responses.json(await call.backend.disk_usage(kinds or KINDS))


ROUTES = [Route("GET", "/system/df", df)]
