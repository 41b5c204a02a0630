"""The shim's side of its connection to an engine: packets in, packets out, never waiting for either."""

import os
from time import monotonic_ns

from boxwright.launcher import packets
from boxwright.launcher.loop import IN, OUT
from boxwright.launcher.outbox import Outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Iterable
    from typing import Any

    from boxwright.launcher.loop import Loop

WAITING = 256  # messages kept for an engine that does not read; one that lets more pile up is taken for dead


class Control:
    """One connection.

    received: called with each message and its descriptors (the callee's).
    closed: called once when the engine is gone.
    """

    __slots__ = ("_closed", "_generation", "_loop", "_out", "_received", "alive", "sock")

    def __init__(
        self,
        loop: "Loop",
        sock: "socket",
        received: "Callable[[dict[str, Any], list[int]], None]",
        closed: "Callable[[Control], None]",
    ) -> None:
        sock.setblocking(False)
        self._loop, self.sock, self._received, self._closed = loop, sock, received, closed
        self._generation = -1
        self._out = Outbox(sock)
        self.alive = True
        loop.watch(sock.fileno(), IN, self._ready)

    def adopt_generation(self, generation: int) -> None:
        """Stamp every message from now on with the container's start number."""
        self._generation = generation

    def send(self, kind: str, fields: "dict[str, Any]", fds: "Iterable[int]" = (), body: bytes = b"") -> None:
        """Send or queue a message; descriptors are duplicated only when it has to wait."""
        if not self.alive:
            return
        data, passed, memfd = packets.encode({"type": kind, "generation": self._generation, **fields}, fds, body)
        try:
            if len(self._out) >= WAITING:
                self.close()
            elif (why := self._out.post(data, passed)) is not None:
                self._wait(why)
        except OSError:
            self.close()
        finally:
            if memfd >= 0:
                os.close(memfd)

    def close(self) -> None:
        """Disconnect and say so, once."""
        if not self.alive:
            return
        self.alive = False
        self._loop.forget(self.sock.fileno())
        self._loop.cancel(self._flush)
        self.sock.close()
        self._out.drop()
        self._closed(self)

    def take_socket(self) -> "socket | None":
        """The socket, for another life of this process; None when the engine is gone or has not read all."""
        if not self.alive or self._out:
            return None
        self.alive = False
        self._loop.forget(self.sock.fileno())
        return self.sock

    def _ready(self, mask: int) -> None:
        if mask & OUT:
            self._flush()
        while self.alive and mask & ~OUT:
            try:
                got = packets.receive(self.sock)
            except BlockingIOError:
                return
            except packets.Cut as cut:
                got = _without_descriptors(cut)
            except (ValueError, OSError):
                got = None
            if got is None:
                self.close()
                return
            self._received(*got)

    def _flush(self) -> None:
        try:
            if (why := self._out.flush()) is not None:
                self._wait(why)
            else:
                self._loop.change(self.sock.fileno(), IN)
        except OSError:
            self.close()

    def _wait(self, failure: OSError) -> None:
        """Send again when the engine has read, or, short of memory, in a moment."""
        if isinstance(failure, BlockingIOError):
            self._loop.change(self.sock.fileno(), IN | OUT)
        else:
            self._loop.change(self.sock.fileno(), IN)
            self._loop.at(monotonic_ns() + packets.RETRY_NS, self._flush)


def _without_descriptors(cut: packets.Cut) -> "tuple[dict[str, Any], list[int]] | None":
    """The message of a packet that came without its descriptors, which says so; None when it was in one of them."""
    try:
        message = packets.decode(cut.data, [])
    except ValueError:
        return None
    return {**message, "cut": True}, []
