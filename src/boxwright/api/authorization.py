"""Authorization plugins: each is asked before a request is carried out, and again before its answer goes out.

Docker's protocol (AuthZPlugin.AuthZReq, AuthZPlugin.AuthZRes).  Two advisories (CVE-2024-41110, CVE-2026-34040) are
about a plugin that is shown no body, or a cut one, and lets pass what it would have refused.  Here the rule is kept at
the one place where bodies are read (`Call.body`): what a plugin was not shown whole is not handed to a route.

- A JSON body is read before anybody is asked, up to the limit that every JSON body has (413 beyond).
- A body of another type is a stream (an archive) that is not shown; a route that wants JSON refuses it.
- A plugin that fails, is silent or is not there has denied.
- What it is shown is the path that is routed, in one spelling: no percent-encoding hides an endpoint.
"""

import asyncio
import base64
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiohttp import web

from boxwright.errdefs import Forbidden, NotFound, System
from boxwright.plugins import Plugin

from .router import decode_path

if TYPE_CHECKING:
    from .call import Call

# Bytes of an answer that plugins are shown whole; a longer one is not sent at all.
MAX_ANSWER = 16 * 1024 * 1024
_SAFE = "/:@!$&'()*+,;=~-._"


class Authorization:
    """The plugins of one engine, by the names in its settings."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._plugins: dict[str, Plugin] = {}

    def replace(self, names: Sequence[str]) -> None:
        """Ask these from now on."""
        self._names = names

    @property
    def plugins(self) -> list[Plugin]:
        """Those that are asked, in order."""
        return [self._plugins.setdefault(name, Plugin(name, "authz")) for name in dict.fromkeys(self._names)]

    async def aclose(self) -> None:
        """Disconnect from all of them."""
        await asyncio.gather(*(plugin.close() for plugin in self._plugins.values()))

    async def examine(self, call: "Call") -> "Case | None":
        """Ask about a request; raises Forbidden when one denies, System when one fails.  None without plugins."""
        plugins = self.plugins
        if not plugins:
            return None
        body = await call.shown_body()
        case = Case(plugins, _request(call, body))
        await case.ask("AuthZPlugin.AuthZReq", case.request)
        return case


class Case:
    """One request and the plugins that were asked about it: a reload changes nothing for it any more."""

    def __init__(self, plugins: list[Plugin], request: dict[str, Any]) -> None:
        self._plugins = plugins
        self.request = request

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Ask about the answer, last plugin first; a stream is asked about before its head, without a body."""
        if len(body) > MAX_ANSWER:
            raise System(f"the answer is longer than the {MAX_ANSWER} bytes that authorization plugins are shown")
        asked = {**self.request, "ResponseStatusCode": status, "ResponseHeaders": dict(headers)}
        if body:
            asked["ResponseBody"] = base64.b64encode(body).decode()
        await self.ask("AuthZPlugin.AuthZRes", asked, reverse=True)

    async def ask(self, method: str, question: dict[str, Any], reverse: bool = False) -> None:
        """Raises Forbidden and System in dockerd's words."""
        for plugin in reversed(self._plugins) if reverse else self._plugins:
            try:
                said = await plugin.call(method, question)
            except (NotFound, System) as error:
                raise System(f"plugin {plugin.name} failed with error: {error}") from error
            if failed := said.get("Err"):
                raise System(f"plugin {plugin.name} failed with error: {failed}")
            if said.get("Allow") is not True:
                raise Forbidden(f"authorization denied by plugin {plugin.name}: {said.get('Msg') or ''}")


def _request(call: "Call", body: bytes) -> dict[str, Any]:
    request = call.request
    target, question, query = request.raw_path.partition("?")
    found: dict[str, Any] = {
        "RequestMethod": request.method,
        "RequestUri": quote(decode_path(target), safe=_SAFE) + question + query,
        "RequestHeaders": _headers(request),
    }
    if body:
        found["RequestBody"] = base64.b64encode(body).decode()
    user, certificate = _client(request)
    if user:
        found |= {"User": user, "UserAuthNMethod": "TLS"}
    if certificate:
        found["RequestPeerCertificates"] = [base64.b64encode(certificate.encode()).decode()]
    return found


def _headers(request: web.BaseRequest) -> dict[str, str]:
    """The headers without credentials for registries, which are none of a plugin's business (as dockerd does)."""
    hidden = ("x-registry-config", "x-registry-auth")
    return {name: value for name, value in request.headers.items() if name.lower() not in hidden}


def _client(request: web.BaseRequest) -> tuple[str, str]:
    """(common name, PEM) of the client's certificate; empty without TLS."""
    engine = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
    if engine is None or not (raw := engine.getpeercert(binary_form=True)):
        return "", ""
    subject = (engine.getpeercert() or {}).get("subject", ())
    names = [value for part in subject for name, value in part if name == "commonName"]
    return (names[0] if names else ""), ssl.DER_cert_to_PEM_cert(raw)
