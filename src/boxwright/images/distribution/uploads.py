"""Uploads of blobs: at once when they are small, in chunks otherwise, going on where the registry says that it is."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urljoin

from boxwright.errdefs import InvalidParameter

from . import http
from .errors import Refused, Unreachable
from .shared import in_thread

if TYPE_CHECKING:
    from .push import Target

# Of one request of an upload, bytes: what breaks off is sent again from its beginning.
CHUNK = 32 << 20
_PIECE = 256 << 10
_OCTETS = "application/octet-stream"


class Blob(NamedTuple):
    """Bytes of an open file, and what they are."""

    fd: int
    digest: str
    size: int


async def upload(target: "Target", blob: Blob, progress: Callable[[int], None]) -> None:
    """Send a blob to the repository.

    Raises Refused, Unreachable.
    """
    for attempt in range(http.TRIES):
        try:
            await _session(target, blob, progress)
            return
        except Unreachable as error:
            if not error.again or attempt == http.TRIES - 1:
                raise
        except Refused as error:
            # 404 and 416: the registry has lost the upload, or its count; from the start, then.
            if error.status not in (404, 416) or attempt == http.TRIES - 1:
                raise
        await http.rest(http.pause(attempt))


async def _session(target: "Target", blob: Blob, progress: Callable[[int], None]) -> None:
    call, scopes = target.registry.call, target.scopes
    answer = await call("POST", target.url("blobs/uploads/"), scopes, {"Content-Length": "0"}, ok=(202,))
    smallest = answer.headers.get("OCI-Chunk-Min-Length", "")
    chunk = max(CHUNK, int(smallest)) if smallest.isdigit() and len(smallest) < 12 else CHUNK
    location = _location(answer)
    position = 0
    while blob.size - position > chunk:
        answer = await _chunk(target, location, blob, position, chunk, progress)
        location, position = _location(answer), _taken(answer, position + chunk)
    rest = blob.size - position
    headers = {"Content-Type": _OCTETS, "Content-Length": str(rest)}
    if position:
        headers["Content-Range"] = f"{position}-{blob.size - 1}"
    joint = "&" if "?" in location else "?"
    await call(
        "PUT",
        f"{location}{joint}{urlencode({'digest': blob.digest})}",
        scopes,
        headers,
        lambda: _pieces(blob.fd, position, rest, progress),
        ok=(201, 204),
        tries=1,  # what it has of a part of it, it says at `location` only
    )


async def _chunk(
    target: "Target", location: str, blob: Blob, position: int, length: int, progress: Callable[[int], None]
) -> http.Answer:
    """Send one chunk; when that fails, ask the registry how far it came."""
    call, scopes = target.registry.call, target.scopes
    headers = {
        "Content-Type": _OCTETS,
        "Content-Length": str(length),
        "Content-Range": f"{position}-{position + length - 1}",
    }
    try:
        return await call(
            "PATCH",
            location,
            scopes,
            headers,
            lambda: _pieces(blob.fd, position, length, progress),
            ok=(202, 204),
            tries=1,
        )
    except Unreachable as error:
        if not error.again:
            raise
        await http.rest(http.pause(0))
        return await call("GET", location, scopes, ok=(204, 202))


def _location(answer: http.Answer) -> str:
    location = answer.headers.get("Location")
    if not location:
        raise Unreachable("POST", answer.url, "the registry did not say where the upload goes on", False)
    return urljoin(answer.url, location)


def _taken(answer: http.Answer, expected: int) -> int:
    """How many bytes the registry has, by its `Range: 0-LAST`."""
    last = answer.headers.get("Range", "").rpartition("-")[2]
    if not last.isdigit() or len(last) > 18:
        return expected
    # "0-0" is how registries say that there is nothing, too: it is sent again then, and refused if it was one byte.
    return min(expected, int(last) + 1) if int(last) else 0


async def _pieces(fd: int, position: int, length: int, progress: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    end = position + length
    while position < end:
        piece = await in_thread(os.pread, fd, min(_PIECE, end - position), position)
        if not piece:
            raise InvalidParameter("the file that is sent has become shorter")
        yield piece
        position += len(piece)
        progress(position)
        await asyncio.sleep(0)
