"""Where the API is reached: Unix sockets, TCP under TLS, and plain TCP for those who must."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence

from . import listeners, protocol
from .app import App
from .hangup import HangupWatch
from .listeners import DEFAULT_GROUP, Listener, Remote

__all__ = ["DEFAULT_GROUP", "Remote", "Serving", "loop_factory", "serve"]

BACKLOG = 1024
# Seconds that requests under way are given when the server closes.
GRACE = 5.0

_log = logging.getLogger(__name__)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, asyncio otherwise; for `asyncio.Runner(loop_factory=…)`."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class Serving:
    """A running server: `addresses` are the hosts as they were bound, `warnings` what /info should say of them."""

    def __init__(self, manager: protocol.Server, watch: HangupWatch) -> None:
        self.addresses: list[str] = []
        self.warnings: list[str] = []
        self._manager = manager
        self._watch = watch
        self._servers: list[asyncio.Server] = []
        self._sockets: list[tuple[str, int]] = []

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._manager.connections)

    async def listen(self, listener: Listener, context: ssl.SSLContext | None) -> None:
        """Serve one more socket, which is this object's from now on; TCP under `context` when there is one."""
        loop = asyncio.get_running_loop()
        sock = listener.sock
        if listener.path:
            self._sockets.append((listener.path, os.stat(listener.path).st_ino))
        if listener.unix:
            self._servers.append(await loop.create_unix_server(self._manager, sock=sock, backlog=BACKLOG))
        else:
            self._judge(listener, context)
            listeners.detect_the_dead(sock)
            factory = self._manager.remote(context)
            self._servers.append(await loop.create_server(factory, sock=sock, backlog=BACKLOG))
        self.addresses.append(listener.address)

    def _judge(self, listener: Listener, context: ssl.SSLContext | None) -> None:
        where = listener.address.removeprefix("tcp://")
        if context is None and not listener.loopback:
            self._warn(f"API is accessible on http://{where} without encryption.")
        elif context is not None and context.verify_mode is not ssl.CERT_REQUIRED:
            self._warn(f"API is accessible on https://{where} without TLS client verification.")

    def _warn(self, what: str) -> None:
        self.warnings.append(
            f"WARNING: {what}\n         Access to the remote API is equivalent to root access on the host."
        )
        _log.warning("%s", self.warnings[-1])

    async def close(self, grace: float = GRACE) -> None:
        """Accept no more, end streams, let requests under way end for `grace` seconds, then close what is left."""
        for server in self._servers:
            server.close()
        for path, inode in self._sockets:
            listeners.remove_file(path, inode)
        for connection in self._manager.connections:
            if isinstance(connection, protocol.Connection):
                connection.end_streams()
        self._manager.pre_shutdown()
        await self._manager.shutdown(grace)
        self._watch.close()


async def serve(
    app: App,
    hosts: Sequence[str],
    group: str | None = None,
    remote: Remote | None = None,
    activated: dict[str, list[socket.socket]] | None = None,
) -> Serving:
    """Serve `app` at every host (`unix:///path`, `tcp://address:port`, `fd://`); returns once all accept.

    group: who may use the Unix sockets; None is "docker" where that exists.  remote: how TCP is served; None is plain,
    on loopback.  activated: systemd's sockets (`listeners.take_activated`).
    """
    loop = asyncio.get_running_loop()
    remote = remote or Remote()
    watch = HangupWatch(loop)
    manager = protocol.Server(
        app.handle,
        loop=loop,
        access_log=None,
        watch=watch,
        tcp_keepalive=False,
        auto_decompress=False,
        lingering_time=2.0,
        max_line_size=protocol.MAX_HEAD,
        max_field_size=protocol.MAX_HEAD,
        max_headers=protocol.MAX_FIELDS,
    )
    serving = Serving(manager, watch)
    try:
        for host in hosts:
            bound = listeners.bind(host, group, remote, activated or {"*": []})
            try:
                while bound:
                    await serving.listen(bound[0], remote.context)
                    del bound[0]
            finally:
                for listener in bound:
                    listener.sock.close()
    except BaseException:
        await serving.close(0.0)
        raise
    return serving
