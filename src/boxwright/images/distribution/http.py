"""HTTP to registries: one pool of connections for the engine, redirects, time limits, and answers that are bounded."""

import asyncio
import email.utils
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

import boxwright

from . import errors
from .errors import Unreachable

Data = Callable[[], bytes | AsyncGenerator[bytes, None]]
Headers = Mapping[str, str]

CONNECT_TIMEOUT = 30.0  # seconds
# Without a byte, seconds: a registry may think for a while before it takes an upload.
STALL_TIMEOUT = 60.0
MOST_REDIRECTS = 10
LARGEST_REFUSAL = 64 << 10
# Tries of what is asked without a body of its own, and the longest pause between two, seconds.
TRIES = 5
LONGEST_PAUSE = 60.0
_FIRST_PAUSE = 0.25
_READ_BUFFER = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
AGAIN = (408, 429, 500, 502, 503, 504)
_ERRORS = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Answer(NamedTuple):
    """A whole answer.  url: of the request that it is to, after redirects."""

    status: int
    headers: Headers
    body: bytes
    url: str


class Http:
    """The engine's side of all connections to registries; opened by the first request."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The pool."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=10),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # digests are of the bytes as they are
                read_bufsize=_READ_BUFFER,
                # The addresses that storage services redirect to are long.
                max_line_size=64 << 10,
                max_field_size=64 << 10,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=STALL_TIMEOUT),
                headers={"User-Agent": f"boxwright/{boxwright.__version__}"},
            )
        return self._session

    async def close(self) -> None:
        """Close what is open; requests under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        tls: ssl.SSLContext,
        headers: Headers,
        secret: Headers,
        data: Data | None = None,
        plain: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, redirects followed; the answer may have any status, and its body is not read yet.

        secret: headers for the host of `url` only; other hosts that it redirects to do not get them.
        plain: whether a redirect may lead from TLS to none.  Raises Unreachable.
        """
        origin, encrypted = _origin(url), url.startswith("https:")
        for _ in range(MOST_REDIRECTS + 1):
            own = dict(headers)
            if _origin(url) == origin:
                own.update(secret)
            async with self._one(method, url, tls, own, data) as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTS or not target or (method not in ("GET", "HEAD") and (
                    response.status not in (307, 308)
                )):  # fmt: skip
                    yield response
                    return
            url = urljoin(url, target)
            if urlsplit(url).scheme not in ("http", "https") or (encrypted and url.startswith("http:") and not plain):
                raise Unreachable(method, url, "the redirect leaves TLS", False)
        raise Unreachable(method, url, f"stopped after {MOST_REDIRECTS} redirects", False)

    @asynccontextmanager
    async def _one(
        self, method: str, url: str, tls: ssl.SSLContext, headers: Headers, data: Data | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            request = self.session().request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=data() if data else None,
                ssl=tls,
                proxy=proxy(url),
                allow_redirects=False,
            )
            response = await request
        except _ERRORS as error:
            raise errors.unreachable(method, url, error) from error
        async with response:
            yield response


def proxy(url: str) -> str | None:
    """The proxy that the engine's environment names for this URL (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    known = getproxies_environment()
    if parts.scheme not in known or proxy_bypass(parts.netloc, known):
        return None
    return known[parts.scheme]


async def read(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The whole body.  Raises Unreachable past `limit` bytes and when it breaks off."""
    method, url = response.method, str(response.url)
    if method == "HEAD":
        return b""
    if (response.content_length or 0) > limit:
        raise Unreachable(method, url, f"{what} is larger than {limit} bytes", False)
    whole = bytearray()
    try:
        async for piece in response.content.iter_any():
            whole += piece
            if len(whole) > limit:
                raise Unreachable(method, url, f"{what} is larger than {limit} bytes", False)
    except _ERRORS as error:
        raise errors.unreachable(method, url, error) from error
    return bytes(whole)


async def refusal(response: aiohttp.ClientResponse) -> errors.Refused:
    """The error that an answer stands for, its body read as far as it is small."""
    try:
        body = await read(response, LARGEST_REFUSAL, "the error")
    except Unreachable:
        body = b""
    return errors.refused(response.status, body)


def pause(attempt: int, headers: Headers | None = None) -> float:
    """Seconds to wait after the failed attempt `attempt` (0 the first); what the registry asks for counts, bounded."""
    asked = (headers or {}).get("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():
        return min(float(asked[:9]), LONGEST_PAUSE)
    if asked:
        try:
            moment = email.utils.parsedate_to_datetime(asked).timestamp()
            return min(max(0.0, moment - time.time()), LONGEST_PAUSE)
        except (ValueError, TypeError, OverflowError):
            pass  # nobody says that it is a date
    return float(min(_FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.75, 1.25))


async def rest(seconds: float) -> None:
    """Wait between two attempts."""
    await asyncio.sleep(seconds)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default
