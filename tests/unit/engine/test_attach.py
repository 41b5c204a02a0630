"""The hub's relay between a client's stream and the shim's end of a socket pair."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from boxwright.engine.attach import Pair
from boxwright.engine.detachkeys import Escape

DEADLINE = 10.0


class Client:
    """The client's side: what it types is put into `typed` (b"" half-closes), what it sees is in `seen`."""

    def __init__(self) -> None:
        self.typed: asyncio.Queue[bytes] = asyncio.Queue()
        self.seen = b""
        self.closed = asyncio.Event()

    async def open(self, multiplexed: bool) -> None: ...

    async def read(self, n: int) -> bytes:
        return await self.typed.get()

    def write(self, data: bytes) -> None:
        self.seen += data

    async def drain(self) -> None:
        if self.closed.is_set():
            raise ConnectionError

    async def close(self) -> None: ...


def relayed(work: Callable[[Pair, Client, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        pair, client = Pair(True, True, True, mux=False), Client()
        shim = socket.socket(fileno=pair.hand_over().fd)
        shim.setblocking(False)
        try:
            await asyncio.wait_for(work(pair, client, shim), DEADLINE)
        finally:
            pair.close()
            shim.close()

    asyncio.run(run())


def test_half_close_ends_the_input_only() -> None:
    async def work(pair: Pair, client: Client, shim: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        relay = asyncio.ensure_future(pair.relay(client, None))
        client.typed.put_nowait(b"hello")
        assert await loop.sock_recv(shim, 100) == b"hello"
        client.typed.put_nowait(b"")
        assert await loop.sock_recv(shim, 100) == b""
        await loop.sock_sendall(shim, b"answer")
        shim.close()
        assert await relay is False
        assert client.seen == b"answer"

    relayed(work)


def test_detach_keys_end_it_and_what_came_before_is_passed_on() -> None:
    async def work(pair: Pair, client: Client, shim: socket.socket) -> None:
        client.typed.put_nowait(b"ls\x10")
        client.typed.put_nowait(b"\x11more")
        assert await pair.relay(client, Escape(b"\x10\x11")) is True
        assert await asyncio.get_running_loop().sock_recv(shim, 100) == b"ls"

    relayed(work)


def test_a_client_that_leaves_ends_it() -> None:
    async def work(pair: Pair, client: Client, shim: socket.socket) -> None:
        relay = asyncio.ensure_future(pair.relay(client, None))
        client.closed.set()
        assert await relay is False

    relayed(work)


def test_output_before_the_end_is_never_lost() -> None:
    async def work(pair: Pair, client: Client, shim: socket.socket) -> None:
        total = 3 << 20
        relay = asyncio.ensure_future(pair.relay(client, None))
        await asyncio.get_running_loop().sock_sendall(shim, b"x" * total)
        shim.close()
        await relay
        assert len(client.seen) == total

    relayed(work)


def test_input_that_nobody_reads_does_not_hold_the_end_up() -> None:
    async def work(pair: Pair, client: Client, shim: socket.socket) -> None:
        for _ in range(64):
            client.typed.put_nowait(b"x" * 65536)
        relay = asyncio.ensure_future(pair.relay(client, None))
        await asyncio.get_running_loop().sock_sendall(shim, b"bye")
        shim.close()
        await relay
        assert client.seen == b"bye"

    relayed(work)
