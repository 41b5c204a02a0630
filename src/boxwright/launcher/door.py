"""The shim's socket in the file system, and who comes in by it.

    guest ── adopt {} ──► hello {…}: it is the engine from now on, in the place of the one before
      └───── who {} ────► facts {…}: the same, and the connection closes

Who connects is a guest until it has said one of the two.  A guest that says nothing is shown out after GUEST_SECONDS,
and of more than GUESTS the one that came first: neither keeps an engine waiting, and neither costs the container more
than a few descriptors.
"""

import os
from time import monotonic_ns

from boxwright.launcher import packets
from boxwright.launcher.loop import IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from boxwright.launcher.loop import Loop

GUESTS = 8
GUEST_SECONDS = 5.0
LONGEST_WORD = 256  # bytes
_BACKLOG = 64  # connections that a shim which is busy has not seen yet


class Door:
    """The listening socket `directory/name` and the guests that it has let in.

    adopted: called with the socket (the callee's) and the generation of who says that it is the engine.
    facts: what is said to who asks.
    """

    __slots__ = ("_adopted", "_directory", "_facts", "_guests", "_listener", "_loop", "_name")

    def __init__(
        self,
        loop: "Loop",
        directory: str,
        name: str,
        adopted: "Callable[[socket, int], None]",
        facts: "Callable[[], dict[str, Any]]",
    ) -> None:
        """Listen.  Raises OSError."""
        self._loop, self._directory, self._name, self._adopted, self._facts = loop, directory, name, adopted, facts
        self._guests: dict[int, tuple[socket, int]] = {}  # descriptor → (socket, when it is shown out), oldest first
        self._listener = packets.bind(directory, name, _BACKLOG)
        loop.watch(self._listener.fileno(), IN, self._accept)

    def close(self) -> None:
        """Remove the socket, then hang up on all guests: whom that happens to finds nobody to ask again."""
        try:
            os.unlink(f"{self._directory}/{self._name}")
        except OSError:
            pass
        for fd in tuple(self._guests):
            self._take(fd).close()
        self._loop.cancel(self._listen)
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    def _accept(self, _: int) -> None:
        try:
            sock = packets.accept(self._listener)
        except BlockingIOError:
            return  # gone again
        except OSError:
            # No descriptor for it, or no memory: who knocks waits in the backlog meanwhile, and is not looked at.
            self._loop.change(self._listener.fileno(), 0)
            self._loop.at(monotonic_ns() + packets.AGAIN_NS, self._listen)
            return
        if len(self._guests) >= GUESTS:
            self._take(next(iter(self._guests))).close()
        fd = sock.fileno()
        self._guests[fd] = sock, monotonic_ns() + int(GUEST_SECONDS * 1e9)
        self._loop.watch(fd, IN, lambda _: self._heard(fd))
        self._arm()

    def _listen(self) -> None:
        self._loop.change(self._listener.fileno(), IN)

    def _take(self, fd: int) -> "socket":
        """The socket of one that is no guest any more."""
        self._loop.forget(fd)
        sock, _ = self._guests.pop(fd)
        self._arm()
        return sock

    def _arm(self) -> None:
        if self._guests:
            _, when = next(iter(self._guests.values()))
            self._loop.at(when, self._expire)
        else:
            self._loop.cancel(self._expire)

    def _expire(self) -> None:
        now = monotonic_ns()
        for fd in [fd for fd, (_, when) in self._guests.items() if when <= now]:
            self._take(fd).close()

    def _heard(self, fd: int) -> None:
        sock, _ = self._guests[fd]
        try:
            packet = packets.receive_packet(sock)
        except BlockingIOError:
            return
        except (ValueError, OSError):
            packet = None
        self._take(fd)
        word, generation = _word(packet)
        if word == "adopt":
            self._adopted(sock, generation)
            return
        if word == "who":
            try:
                packets.send(sock, {"type": "facts", **self._facts()})
            except OSError:
                pass  # it has gone, or there is no memory: it hears nothing
        sock.close()


def _word(packet: tuple[bytes, list[int]] | None) -> tuple[str, int]:
    """(what a guest says, of which start): ("", -1) for what is none of a guest's words."""
    if packet is None:
        return "", -1
    data, fds = packet
    if fds or len(data) > LONGEST_WORD:
        packets.close_all(fds)
        return "", -1
    try:
        message = packets.decode(data, fds)
    except ValueError:
        return "", -1
    kind, generation = message.get("type"), message.get("generation", -1)
    return (kind, generation) if type(kind) is str and type(generation) is int else ("", -1)
