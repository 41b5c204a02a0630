"""Long answers: archives, and progress streams: JSON lines while an operation runs, its failure as the last of them.

As long as nothing has been said, a failure still gets a status of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from aiohttp import web

from . import errors, responses
from .call import Call

Emit = Callable[[dict[str, Any]], None]


async def progress(call: Call, operation: Callable[[Emit], Awaitable[Any]], cancel: bool = False) -> web.StreamResponse:
    """Run `operation(emit)` and send what it emits.

    cancel: a client that hangs up ends the operation.  Without, its input ends then, and what that means is for it to
    decide.
    """
    said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    if cancel:
        call.connection.cancel_when_gone()
    work = asyncio.ensure_future(operation(said.put_nowait))
    work.add_done_callback(lambda _: said.put_nowait(None))
    response: web.StreamResponse | None = None
    try:
        while (message := await said.get()) is not None:
            response = response or await _begin(call)
            await _write(response, message)
    except asyncio.CancelledError:
        if cancel:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        raise
    failure = work.exception()
    if failure is not None and response is None:
        raise failure
    response = response or await _begin(call)
    if failure is not None:
        _, text = errors.answer(failure)
        await _write(response, {"errorDetail": {"message": text}, "error": text})
    return response


async def archive(call: Call, pieces: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Send an archive.  What fails before its first piece gets a status of its own; later the body has no end."""
    try:
        first = await anext(pieces)
        response = await call.streaming("application/x-tar")
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
    finally:
        await pieces.aclose()
    return response


async def _begin(call: Call) -> web.StreamResponse:
    return await call.streaming("application/json", cancel=False)


async def _write(response: web.StreamResponse, message: dict[str, Any]) -> None:
    try:
        await response.write(responses.line(message))
    except ConnectionError:
        return  # nobody listens any longer; the operation is not affected
