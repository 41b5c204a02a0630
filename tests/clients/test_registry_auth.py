"""Who one is to a registry: tokens, refresh tokens, passwords that stay with their host, redirects."""

import base64
import os
from collections.abc import Iterator
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from support.engine import Engine
from support.hostile_registry import (
    HostileRegistry,
    failure,
    ranged,
)
from support.pulls import LARGE, SMALL, gone, pull, pulled, refused

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture
def registry() -> Iterator[HostileRegistry]:
    with HostileRegistry() as made:
        yield made


class Tokens:
    """A token server in front of a registry: users and refresh tokens in, tokens out."""

    def __init__(self, registry: HostileRegistry, life: int = 300) -> None:
        self.registry, self.life = registry, life
        self.given: set[str] = set()
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        registry.hook = self

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            form = parse_qs(await request.text()) if request.method == "POST" else parse_qs(request.query_string)
            who = request.headers.get("Authorization", "")
            self.asked.append((request.method, form, who))
            good = form.get("refresh_token") == ["fresh"] or who == basic("me", "good")
            if not good:
                return web.json_response({"details": "incorrect username or password"}, status=401)
            token = os.urandom(8).hex()
            self.given.add(token)
            answer = {"token": token, "expires_in": self.life}
            return web.json_response(answer | ({"refresh_token": "fresh"} if "offline_token" in form else {}))
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in self.given:
            return None
        challenge = f'Bearer realm="http://{self.registry.address}/token",service="the \\"registry\\"",scope="x:y:z"'
        return failure(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def test_tokens(engine: Engine, registry: HostileRegistry) -> None:
    registry.image("a/b", "1", [SMALL])
    server = Tokens(registry)
    status, said = pull(engine, registry, "a/b:1", username="me", password="bad")
    # Not 401: the CLI would ask for a name and a password.
    assert (status, said[0]["message"]) == (500, "unauthorized: incorrect username or password")
    assert pull(engine, registry, "a/b:1")[0] == 500
    with gone(engine, f"{registry.address}/a/b:1"):
        server.asked.clear()
        pulled(engine, registry, "a/b:1", username="me", password="good")
    [(method, form, who)] = server.asked  # one token for all of a pull
    assert (method, who) == ("GET", basic("me", "good"))
    assert form == {"service": ['the "registry"'], "scope": ["repository:a/b:pull"], "account": ["me"]}


def test_refresh_tokens(engine: Engine, registry: HostileRegistry) -> None:
    registry.image("a/b", "1", [SMALL])
    server = Tokens(registry)
    who = {"username": "me", "password": "good", "serveraddress": registry.address}
    answer = engine.api("POST", "/auth", who)
    assert answer.json == {"Status": "Login Succeeded", "IdentityToken": "fresh"}
    refusal = engine.api("POST", "/auth", {**who, "password": "bad"})
    assert (refusal.status, refusal.message) == (401, "unauthorized: incorrect username or password")
    server.asked.clear()
    with gone(engine, f"{registry.address}/a/b:1"):
        pulled(engine, registry, "a/b:1", identitytoken="fresh")
    [(method, form, authorization)] = server.asked
    assert (method, authorization) == ("POST", "")
    assert form["grant_type"] == ["refresh_token"] and form["scope"] == ["repository:a/b:pull"]


def test_a_token_that_has_run_out_is_renewed(engine: Engine, registry: HostileRegistry) -> None:
    registry.image("a/b", "1", [SMALL, LARGE])
    server = Tokens(registry)

    async def hook(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" in request.path and len(server.asked) == 1:
            server.given.clear()  # before its time
        return await server(request)

    registry.hook = hook
    with gone(engine, f"{registry.address}/a/b:1"):
        pulled(engine, registry, "a/b:1", username="me", password="good")
    assert len(server.asked) > 1


def test_a_huge_token_is_not_read(engine: Engine, registry: HostileRegistry) -> None:
    async def hook(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return web.json_response({"token": "x" * (2 << 20)})
        challenge = f'Bearer realm="http://{registry.address}/token"'
        return failure(401, "UNAUTHORIZED", "no", WWW_Authenticate=challenge)

    registry.hook = hook
    assert "the token is larger than 1048576 bytes" in refused(engine, registry, "a:1")


def test_credentials_stay_with_their_host(engine: Engine, registry: HostileRegistry) -> None:
    registry.image("a", "1", [SMALL])
    with HostileRegistry() as storage:

        async def store(request: web.Request) -> web.StreamResponse | None:
            return ranged(request, registry.blobs[request.path.removeprefix("/store/")])

        async def hook(request: web.Request) -> web.StreamResponse | None:
            if request.headers.get("Authorization") != basic("me", "good"):
                return failure(401, "UNAUTHORIZED", "who?", WWW_Authenticate='Basic realm="r"')
            if "/blobs/" in request.path:
                return web.Response(
                    status=307,
                    headers={"Location": f"http://{storage.address}/store/{request.path.rpartition('/')[2]}?sig=%2B"},
                )
            return None

        storage.hook, registry.hook = store, hook
        with gone(engine, f"{registry.address}/a:1"):
            pulled(engine, registry, "a:1", username="me", password="good")
        assert storage.seen and not any("Authorization" in headers for _, _, headers in storage.seen)
        assert all(path.endswith("?sig=%2B") for _, path, _ in storage.seen)  # signed: as it is


def test_redirects_have_an_end(engine: Engine, registry: HostileRegistry) -> None:
    async def hook(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=302, headers={"Location": request.path}) if "manifests" in request.path else None

    registry.hook = hook
    assert "stopped after 10 redirects" in refused(engine, registry, "a:1")
