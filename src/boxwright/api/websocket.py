"""Attach over a WebSocket: the engine's stream on top of binary messages."""

import asyncio
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from .call import Call

# One message of a client; the library's default is 4 MiB.
MAX_MESSAGE = 1024 * 1024


class WebSocketStream:
    """The same verbs as `hijack.Stream`; a close frame is the half-close, the end of the connection the hang-up."""

    def __init__(self, call: "Call") -> None:
        self._call = call
        self._left = b""
        self._queued: list[bytes] = []
        self._sender: asyncio.Task[None] | None = None
        self.response = web.WebSocketResponse(max_msg_size=MAX_MESSAGE)
        self.opened = False
        self.closed = asyncio.Event()

    async def open(self, multiplexed: bool) -> None:
        """Answer the handshake; frames are not used over WebSockets."""
        await self.response.prepare(self._call.request)
        self.opened = True

    async def read(self, n: int) -> bytes:
        """At most `n` bytes of input; b"" once the client has sent its close frame or is gone."""
        while not self._left:
            message = await self.response.receive()
            if message.type is WSMsgType.TEXT:
                self._left = message.data.encode()
            elif message.type is WSMsgType.BINARY:
                self._left = message.data
            else:
                self.closed.set()
                return b""
        taken, self._left = self._left[:n], self._left[n:]
        return taken

    def write(self, data: bytes) -> None:
        """Queue output; messages go out in the background."""
        self._queued.append(data)
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def drain(self) -> None:
        """Wait until everything is sent; raises ConnectionError when the client is gone."""
        if self._sender is not None:
            await asyncio.shield(self._sender)
        if self.closed.is_set():
            raise ConnectionResetError("the client is gone")

    async def _send(self) -> None:
        try:
            while self._queued:
                queued, self._queued = self._queued, []
                await self.response.send_bytes(b"".join(queued))
        except ConnectionError:
            self.closed.set()
        finally:
            self._sender = None

    async def close_write(self) -> None:
        """A WebSocket has one close for both directions."""
        await self.close()

    async def close(self) -> None:
        """Send what is queued and the close frame; does nothing to a request that was refused before `open`."""
        if self._sender is not None:
            await asyncio.shield(self._sender)
        if self.opened and not self.response.closed:
            await self.response.close()
