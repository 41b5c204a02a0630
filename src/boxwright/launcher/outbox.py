"""Packets on their way out of a socket that never waits, and those that have to."""

import os
from collections import deque

from boxwright.launcher import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket


class Outbox:
    """What is to be sent on `sock`, in order.  What has to wait keeps duplicates of its descriptors."""

    __slots__ = ("_sock", "_waiting")

    def __init__(self, sock: "socket") -> None:
        self._sock = sock
        self._waiting: deque[tuple[bytes, list[int]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def post(self, data: bytes, fds: list[int]) -> OSError | None:
        """Send it, or keep it and tell what it waits for, unless others wait already; descriptors stay the caller's.

        Raises OSError for what can be sent neither now nor later.
        """
        why = None
        if not self._waiting:
            try:
                packets.send_packet(self._sock, data, fds)
                return None
            except OSError as failure:
                if not packets.passes(failure):
                    raise
                why = failure
        self._waiting.append((data, _duplicates(fds)))
        return why

    def flush(self) -> OSError | None:
        """Send what waits; what the rest goes on waiting for, if any is left.  Raises OSError when that is for good."""
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                packets.send_packet(self._sock, data, fds)
            except OSError as failure:
                if packets.passes(failure):
                    return failure
                raise
            self._waiting.popleft()
            packets.close_all(fds)
        return None

    def drop(self) -> None:
        """Nobody is there to receive what waits."""
        while self._waiting:
            packets.close_all(self._waiting.popleft()[1])


def _duplicates(fds: list[int]) -> list[int]:
    """Of all of them or, with OSError, of none."""
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))
    except OSError:
        packets.close_all(made)
        raise
    return made
