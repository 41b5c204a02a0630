"""What a Dockerfile's author may not get out of the host that builds it."""

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from boxwright.builder.dockerfile import mounts
from boxwright.builder.dockerfile.errors import Wrong
from boxwright.images import download


def test_passwords_of_the_host_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ADD https://internal/…` must not speak with what the engine's user has in a .netrc; a redirect neither."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login root password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    seen: list[str | None] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        if request.path == "/first":
            return web.Response(status=302, headers={"Location": "/second"})
        return web.Response(body=b"data")

    async def work() -> download.Fetched:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            fd = os.open(tmp_path / "fetched", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                return await download.fetch(f"http://127.0.0.1:{port}/first", fd)
            finally:
                os.close(fd)
        finally:
            await runner.cleanup()

    assert asyncio.run(work()).size == 4
    assert seen == [None, None]


@pytest.mark.parametrize("url", ["file:///etc/shadow", "ftp://127.0.0.1/x", "/etc/shadow", "unix:///run/docker.sock"])
def test_only_http_is_fetched(url: str) -> None:
    with pytest.raises(Exception, match="unsupported scheme"):
        asyncio.run(download.fetch(url, -1))


@pytest.mark.parametrize("number", ["4294967295", "4294967296", "9999999999", "-1", "0x0"])
def test_owners_of_a_cache_stay_in_range(number: str) -> None:
    with pytest.raises(Wrong, match=f"invalid value {number} for uid"):
        mounts.parse(f"type=cache,target=/c,uid={number}", lambda text: text)
