"""The engine's end of a SEQPACKET connection, on asyncio: it never blocks and never loses the order of messages."""

import asyncio
import os
from _socket import SHUT_WR, socket
from collections.abc import Callable, Iterable
from typing import Any

from boxwright.launcher import packets
from boxwright.launcher.outbox import Outbox


class Channel:
    """Messages to and from one shim, or one job.

    received: called with each message and its descriptors (the callee's).
    closed: called once, when the other side is gone or `close` was called.
    """

    def __init__(
        self,
        sock: socket,
        received: Callable[[dict[str, Any], list[int]], None],
        closed: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._received, self._closed = sock, received, closed
        self._out = Outbox(sock)
        self._retry: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def hand_over(self, received: Callable[[dict[str, Any], list[int]], None], closed: Callable[[], None]) -> None:
        """Call these from now on."""
        self._received, self._closed = received, closed

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._sock.fileno() >= 0

    def send(self, message: dict[str, Any], fds: Iterable[int] = (), body: bytes = b"") -> None:
        """Send now or as soon as the other side reads; descriptors stay the caller's.

        Dropped when the other side is gone.  Raises OSError for what can be sent neither now nor later: memory for a
        long message, or descriptors to keep what has to wait, are not there.
        """
        if not self.open:
            return
        data, passed, memfd = packets.encode(message, fds, body)
        try:
            if (why := self._out.post(data, passed)) is not None:
                self._wait(why)
        except ConnectionError:
            pass  # the reader sees the end, and what was received before it
        finally:
            if memfd >= 0:
                os.close(memfd)

    def half_close(self) -> None:
        """Say that nothing more will come; the other side finishes and closes, which `closed` tells."""
        try:
            self._sock.shutdown(SHUT_WR)
        except OSError:
            pass  # it is gone already

    def close(self) -> None:
        """Disconnect."""
        if not self.open:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        if self._retry is not None:
            self._retry.cancel()
        self._sock.close()
        self._out.drop()
        self._closed()

    def _readable(self) -> None:
        # A few messages at a time: other connections have their turn in between.
        for _ in range(8):
            if not self.open:
                return
            try:
                got = packets.receive(self._sock)
            except BlockingIOError:
                return
            except (ValueError, OSError):
                got = None
            if got is None:
                self.close()
                return
            self._received(*got)

    def _writable(self) -> None:
        try:
            if (why := self._out.flush()) is not None:
                self._wait(why)
            else:
                self._loop.remove_writer(self._sock.fileno())
        except ConnectionError:
            self._loop.remove_writer(self._sock.fileno())
            self._out.drop()
        except OSError:
            self.close()

    def _wait(self, failure: OSError) -> None:
        """Send again when the other side has read, or, short of memory, in a moment."""
        if isinstance(failure, BlockingIOError):
            self._loop.add_writer(self._sock.fileno(), self._writable)
        else:
            self._loop.remove_writer(self._sock.fileno())
            self._retry = self._loop.call_later(packets.RETRY_NS / 1e9, self._writable)
