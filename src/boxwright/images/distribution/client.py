"""One registry as one client sees it: found, logged in to, asked."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
import msgspec

from boxwright.config import Settings
from boxwright.errdefs import System

from . import hosts, http
from .auth import NOBODY, Challenge, Credentials, TokenAnswer, challenges
from .errors import Refused, Unreachable
from .hosts import Endpoint
from .http import Answer, Data, Headers, Http

LARGEST_DOCUMENT = 4 << 20  # of manifests, tag lists and the like, bytes
LARGEST_TOKEN = 1 << 20
CLIENT_ID = "boxwright"
# A token that does not say is good for a minute (Docker's protocol); it is renewed a little early.
_TOKEN_LIFE, _TOKEN_EARLY = 60.0, 5.0


class _Token(NamedTuple):
    header: str
    until: float  # of time.monotonic()


class Registry:
    """An endpoint with a client's credentials.  A value without resources: connections are the pool's."""

    def __init__(self, pool: Http, endpoint: Endpoint, tls: ssl.SSLContext, who: Credentials) -> None:
        self.endpoint = endpoint
        self._http = pool
        self._tls = tls
        self._who = who
        self._challenges: list[Challenge] = []
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._renewing = asyncio.Lock()

    def url(self, path: str) -> str:
        """Of a path below /v2/."""
        return f"{self.endpoint.base}/v2/{path}"

    async def ping(self) -> None:
        """Learn whether there is a registry, and how it wants to be asked.  Raises Refused, Unreachable."""
        url = self.url("")
        async with self._http.send("GET", url, self._tls, {}, {}) as response:
            if response.status == 401:
                self._challenges = challenges(response.headers.getall("WWW-Authenticate", []))
            elif response.status != 200:
                raise await http.refusal(response)

    async def login(self) -> str:
        """Check the credentials; returns an identity token, or "".  Raises Refused, Unreachable."""
        url = self.url("")
        identity = ""
        if (bearer := self._challenge("bearer")) is not None:
            answer = await self._fetch_token(bearer, [], offline=True)
            identity = answer.refresh_token
            header = f"Bearer {answer.token or answer.access_token}"
        else:
            header = self._who.basic
        async with self._http.send("GET", url, self._tls, {}, {"Authorization": header} if header else {}) as response:
            if response.status != 200:
                refused = await http.refusal(response)
                text = f"login attempt to {url} failed with status: {response.status} {response.reason}"
                raise Refused(response.status, refused.code, text)
        return identity

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Headers | None = None,
        data: Data | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request with the client's authorization; the answer may have any status.

        scopes: "repository:library/busybox:pull", …: what it needs, should the registry give out tokens.
        """
        plain = not self.endpoint.verify
        for first in (True, False):
            authorization = await self._authorization(method, url, scopes)
            secret = {"Authorization": authorization} if authorization and self._own(url) else {}
            async with self._http.send(method, url, self._tls, headers or {}, secret, data, plain) as response:
                if response.status != 401 or not first:
                    yield response
                    return
                # A token that has run out, or the first word of who wants to know.
                self._challenges = challenges(response.headers.getall("WWW-Authenticate", [])) or self._challenges
                self._tokens.pop(tuple(scopes), None)
                if not self._challenges:
                    yield response
                    return

    async def call(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Headers | None = None,
        data: Data | None = None,
        *,
        ok: Sequence[int] = (200,),
        what: str = "the answer",
        tries: int = http.TRIES,
    ) -> Answer:
        """A request with a small answer, asked again when the registry is busy or the connection breaks.

        Raises Refused for a status that is not in `ok`, Unreachable.
        """
        for attempt in range(tries):
            last = attempt == tries - 1
            try:
                async with self.open(method, url, scopes, headers, data) as response:
                    if response.status in ok:
                        body = await http.read(response, LARGEST_DOCUMENT, what)
                        return Answer(response.status, response.headers, body, str(response.url))
                    refused = await http.refusal(response)
                    if response.status not in http.AGAIN or last:
                        raise refused
                    seconds = http.pause(attempt, response.headers)
            except Unreachable as error:
                if not error.again or last:
                    raise
                seconds = http.pause(attempt)
            await http.rest(seconds)
        raise AssertionError("the last try returns or raises")

    def _own(self, url: str) -> bool:
        """Whether the URL is of the host that the credentials are for."""
        ours, theirs = urlsplit(self.endpoint.base), urlsplit(url)
        return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)

    def _challenge(self, scheme: str) -> Challenge | None:
        return next((found for found in self._challenges if found.scheme == scheme), None)

    async def _authorization(self, method: str, url: str, scopes: Sequence[str]) -> str:
        """The Authorization header, "" when none is asked for."""
        if self._who.registry_token:
            return f"Bearer {self._who.registry_token}"
        if (bearer := self._challenge("bearer")) is not None:
            async with self._renewing:  # one of many layers asks for all
                token = self._tokens.get(tuple(scopes))
                if token is None or token.until < time.monotonic():
                    token = self._token(await self._fetch_token(bearer, scopes))
                    self._tokens[tuple(scopes)] = token
                return token.header
        if self._challenge("basic") is not None:
            if not self._who.basic:
                raise NoCredentials(method, url)
            return self._who.basic
        return ""

    def _token(self, answer: TokenAnswer) -> _Token:
        life = float(answer.expires_in) if 0 < answer.expires_in < 1e9 else _TOKEN_LIFE
        return _Token(f"Bearer {answer.token or answer.access_token}", time.monotonic() + life - _TOKEN_EARLY)

    async def _fetch_token(self, challenge: Challenge, scopes: Sequence[str], offline: bool = False) -> TokenAnswer:
        realm = urljoin(self.url(""), challenge.parameters.get("realm", ""))
        if urlsplit(realm).scheme not in ("http", "https"):
            raise Unreachable("GET", realm, "no realm specified for token auth challenge", False)
        who = self._who
        if realm.startswith("http:") and self.endpoint.base.startswith("https:") and self.endpoint.verify:
            who = NOBODY  # a password does not leave TLS because a registry says so
        service = challenge.parameters.get("service", "")
        wanted = list(scopes) or [s for s in [challenge.parameters.get("scope", "")] if s]
        refused: Refused | None = None
        for attempt in range(http.TRIES):
            method, url, headers, data = _token_request(realm, service, wanted, who, offline)
            secret = {"Authorization": who.basic} if who.basic and not who.identity_token else {}
            try:
                async with self._http.send(method, url, self._tls, headers, secret, data) as response:
                    if response.status == 200:
                        return _decode_token(url, await http.read(response, LARGEST_TOKEN, "the token"))
                    refused = await http.refusal(response)
                    if response.status not in http.AGAIN:
                        break
                    seconds = http.pause(attempt, response.headers)
            except Unreachable as error:
                if not error.again or attempt == http.TRIES - 1:
                    raise
                seconds = http.pause(attempt)
            await http.rest(seconds)
        assert refused is not None
        raise refused


class NoCredentials(Refused):
    """The registry wants a user and a password, and the client gave none."""

    def __init__(self, method: str, url: str) -> None:
        super().__init__(401, "UNAUTHORIZED", "")
        self.args = (f'{method.capitalize()} "{url}": no basic auth credentials',)


def _token_request(
    realm: str, service: str, scopes: Sequence[str], who: Credentials, offline: bool
) -> tuple[str, str, Headers, Data | None]:
    """Method, URL, headers and body: a GET with Basic, or OAuth2's POST when the client has a refresh token."""
    if who.identity_token:
        form = {"grant_type": "refresh_token", "refresh_token": who.identity_token, "client_id": CLIENT_ID}
        body = urlencode({**form, "service": service, "scope": " ".join(scopes)}).encode()
        return "POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, lambda: body
    query = [("service", service)] if service else []
    query += [("scope", scope) for scope in scopes]
    if who.username:
        query.append(("account", who.username))
    if offline:
        query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
    joint = "&" if urlsplit(realm).query else "?"
    return "GET", f"{realm}{joint}{urlencode(query)}" if query else realm, {}, None


def _decode_token(url: str, body: bytes) -> TokenAnswer:
    try:
        answer = msgspec.json.decode(body, type=TokenAnswer)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unreachable("GET", url, f"unable to decode token response: {error}", False) from None
    token = answer.token or answer.access_token
    if not token:
        raise Unreachable("GET", url, "authorization server did not include a token in the response", False)
    if not (token.isascii() and token.isprintable()):
        raise Unreachable("GET", url, "the token is none", False)
    return answer


async def connect(
    pool: Http, settings: Settings, domain: str, who: Credentials, mirrors: bool = False
) -> AsyncGenerator[Registry, None]:
    """The endpoints of a registry that answer, mirrors first; whoever is content with one asks for no more.

    A mirror gets no credentials: they are the registry's.  Raises Unreachable or Refused of the last one when none
    answers, System for bad certificates on this host.
    """
    failure: Unreachable | Refused | None = None
    for endpoint in await hosts.endpoints(settings, domain, mirrors):
        tls = await asyncio.to_thread(hosts.tls_context, settings, endpoint)
        registry = Registry(pool, endpoint, tls, NOBODY if endpoint.mirror else who)
        try:
            await registry.ping()
        except (Unreachable, Refused) as error:
            # Why TLS did not work says more than what came of plain HTTP, where there is TLS.
            if failure is None or not (isinstance(failure, Unreachable) and failure.spoke_tls):
                failure = error
            continue
        yield registry
        if not endpoint.mirror:
            return
    if failure is not None:
        raise failure
    raise System(f"no endpoint for registry {domain}")


async def bare(pool: Http, settings: Settings, host: str) -> Registry:
    """A host that is asked something else than what registries answer, by nobody in particular."""
    endpoint = Endpoint(f"https://{host}", True, False)
    return Registry(pool, endpoint, await asyncio.to_thread(hosts.tls_context, settings, endpoint), NOBODY)
