"""Leases, which are ours: a lease is open as long as its connection, and containers can be bound to it."""

import asyncio
import json

from aiohttp import web

from ..call import Call
from ..router import Route

# A line is sent so often, in seconds: only a write shows that a TCP client has gone without a word.
PULSE = 20.0


async def hold(call: Call) -> web.StreamResponse:
    """POST /boxwright/leases: `{"Id": …}`, then an empty line now and then, for as long as the client stays."""
    lease, connection = call.backend.lease_open(call.query.text("id"))
    try:
        response = await call.streaming("application/json")
        await response.write(json.dumps({"Id": lease}).encode() + b"\n")
        while True:
            await asyncio.sleep(PULSE)
            await response.write(b"\n")
    finally:
        call.backend.lease_close(lease, connection)


ROUTES = [Route("POST", "/boxwright/leases", hold)]
