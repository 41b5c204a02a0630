"""Files from URLs: ADD https://…, contexts that are named by one, `docker import URL`."""

import asyncio
import email.utils
import hashlib
import os
import posixpath
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from boxwright.errdefs import InvalidParameter, System
from boxwright.images import spool

if TYPE_CHECKING:
    import aiohttp

_CONNECT = 30.0  # seconds, and between two pieces
_CHUNK = 1 << 20


class Fetched(NamedTuple):
    """What came: bytes, the file's name in the URL ("" when it has none), its time (seconds; -1 unknown)."""

    size: int
    name: str
    mtime: int


def is_url(text: str) -> bool:
    """Whether a source of ADD is one."""
    return text.lower().startswith(("http://", "https://"))


@asynccontextmanager
async def opened(url: str) -> "AsyncGenerator[aiohttp.ClientResponse]":
    """The answer of the URL's server; its body is read in the block.  Raises InvalidParameter, System (the server)."""
    # Only requests with URLs need the client.
    import ssl

    import aiohttp

    from boxwright.images.distribution.errors import unreachable
    from boxwright.images.distribution.http import proxy

    if not is_url(url):
        raise InvalidParameter(f"unsupported scheme of a remote source: {url[:200]}")
    _check_address(url)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_CONNECT)
    tls = await asyncio.to_thread(ssl.create_default_context)  # aiohttp's own has no certificates: `cli/leanimport.py`
    try:
        async with (
            # Not trust_env: it takes passwords out of a .netrc, too, and they are none of the Dockerfile's.
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, headers={"Accept-Encoding": "identity"}, proxy=proxy(url), ssl=tls) as response,
        ):
            if response.status >= 400:
                raise System(f"failed to GET {url} with status {response.status} {response.reason}")
            yield response
    except (aiohttp.ClientError, TimeoutError, ValueError, TypeError) as error:
        raise System(str(unreachable("Get", url, error))) from error


def _check_address(url: str) -> None:
    """Refuse what no server can be found by: that is the client's mistake."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidParameter(f"invalid URL {url[:200]}: {error}") from error
    if not host or not host.isprintable() or " " in host:
        raise InvalidParameter(f"invalid URL {url[:200]}: no host in it")


async def fetch(url: str, fd: int) -> Fetched:
    """Write what the URL gives to the file `fd`.  Raises InvalidParameter, System (the server), TooLarge."""
    async with opened(url) as response:
        size = await spool.receive(response.content.iter_chunked(_CHUNK), fd)
        said = response.headers.get("Last-Modified")
        modified = email.utils.parsedate_to_datetime(said).timestamp() if said else -1
    name = posixpath.basename(unquote(urlsplit(url).path))
    return Fetched(size, "" if name in (".", "..") or "\0" in name else name, int(modified))


async def check(fd: int, wanted: str) -> None:
    """Compare the file with the digest that --checksum names.  Raises InvalidParameter."""
    algorithm, _, value = wanted.partition(":")
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise InvalidParameter(f"unsupported checksum algorithm in --checksum={wanted[:100]}")
    found = await asyncio.to_thread(_digest, fd, algorithm)
    if found != value:
        raise InvalidParameter(f"digest mismatch {algorithm}:{found}: {wanted[:200]}")


def _digest(fd: int, algorithm: str) -> str:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, algorithm).hexdigest()
