"""Attach over a WebSocket, with aiohttp's own client."""

import asyncio

import aiohttp
from api.conftest import ServedFake


def test_attach(fake: ServedFake) -> None:
    async def talk() -> None:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(fake.path)) as session,
            session.ws_connect("http://docker/containers/box/attach/ws?stream=1&stdin=1") as socket,
        ):
            assert (await socket.receive_bytes(timeout=5)) == b"hello\n"
            await socket.send_bytes(b"binary")
            assert (await socket.receive_bytes(timeout=5)) == b"binary"
            await socket.send_str("text")
            assert (await socket.receive_bytes(timeout=5)) == b"text"
            await socket.close()

    asyncio.run(talk())
    fake.until(fake.backend.stream_ended)


def test_a_client_that_leaves(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(
            b"GET /containers/box/attach/ws?stream=1&stdin=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert client.head().status == 101
        assert client.exactly(8) == b"\x82\x06hello\n"
    fake.until(fake.backend.stream_ended)


def test_refusal(fake: ServedFake) -> None:
    with fake.client() as client:
        assert client.request("GET", "/containers/nope/attach/ws").message == "No such container: nope"
