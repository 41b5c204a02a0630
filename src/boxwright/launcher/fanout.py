"""Output to any number of clients, each at its own pace.

A client that reads slowly slows the program down, as a pipe would: nothing of its output is lost.  A client that does
not read at all for STALL_NS is *stuck*: from then on it stalls nobody, what it misses is counted, and when it reads
again it is told so on stderr (with framing; a raw stream has no place to say it).
"""

import os
from collections import deque
from time import monotonic_ns

from boxwright.launcher.loop import ERR, HUP, IN, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from boxwright.launcher.loop import Loop
    from boxwright.launcher.stdin import Stdin

BACKLOG = 1 << 20  # bytes that one client may be behind before its program is slowed down
STALL_NS = 3_000_000_000  # a client that took nothing for so long is stuck
# Without stdin_once the end of a client's input ends the client (dockerd), but not before the answer to its last input.
FAREWELL_NS = 1_000_000_000
LINGER_NS = 60_000_000_000  # after the program's end a client may still fetch its backlog, if it takes some this often

# One buffer for every read of every stream: made before the fork, so that a silent container never touches it.
BUFFER = bytearray(64 << 10)
VIEW = memoryview(BUFFER)
_NUMBER = {"stdout": b"\1\0\0\0", "stderr": b"\2\0\0\0"}


class Client:
    """One attached client: a socket, what it wants, and what it has not taken yet (`size` bytes).

    reading: its input is still wanted.  ending: it is closed once it has taken its backlog.
    leaves: when it is to be ended because its input has (CLOCK_MONOTONIC ns), or 0.
    stuck, missed: it does not read, and how many bytes it has missed.  progress: when it last took something.
    """

    __slots__ = ("_backlog", "ending", "fd", "leaves", "missed", "mux", "progress", "reading", "size", "stuck", "wants")

    def __init__(self, fd: int, wants: tuple[str, ...], mux: bool, reading: bool) -> None:
        self.fd, self.wants, self.mux, self.reading = fd, wants, mux, reading
        self._backlog: deque[bytes] = deque()
        self.size = self.missed = self.progress = self.leaves = 0
        self.stuck = self.ending = False

    def offer(self, name: str, data: "memoryview | bytes") -> None:
        """Send, or keep for later, or count as missed.  Raises OSError when the client is gone."""
        if self.stuck:
            self.missed += len(data)
            return
        # Docker's frame: stream number, three zeros, big-endian length.
        head = _NUMBER[name] + len(data).to_bytes(4, "big") if self.mux else b""
        sent = 0
        if not self._backlog:
            self.progress = monotonic_ns()
            try:
                sent = os.writev(self.fd, (head, data))
            except BlockingIOError:
                pass
            if sent == len(head) + len(data):
                return
        rest = (head + bytes(data))[sent:]
        self._backlog.append(rest)
        self.size += len(rest)

    def flush(self) -> None:
        """Send of the backlog what the socket takes.  Raises OSError when the client is gone."""
        while self._backlog:
            first = self._backlog[0]
            try:
                sent = os.write(self.fd, first)
            except BlockingIOError:
                return
            self.progress = monotonic_ns()
            self.size -= sent
            if sent < len(first):
                self._backlog[0] = first[sent:]
                return
            self._backlog.popleft()
        if self.stuck:
            self.stuck = False
            if self.mux:
                notice = f"\n[boxwright: {self.missed} bytes of output were skipped: this client did not read]\n"
                self.offer("stderr", notice.encode())
            self.missed = 0

    def deadline(self) -> int:
        """When to lose patience with it (CLOCK_MONOTONIC ns), or 0."""
        if self.ending:
            return self.progress + LINGER_NS if self.size else 0
        if self.leaves:
            return self.leaves
        return self.progress + STALL_NS if self.behind() else 0

    def behind(self) -> bool:
        """Whether the program has to wait for it."""
        return not self.stuck and self.size > BACKLOG // 2


def nothing() -> None:
    """Nobody wants to know."""


class Fanout:
    """The clients of one program.

    stdin_once: a client's EOF closes the program's stdin; otherwise it only ends that client, as in dockerd.
    throttle: called with True when the program must be slowed down, with False when it may go on.
    emptied: called when the last client has gone.
    """

    __slots__ = ("_clients", "_loop", "_stdin", "_stdin_once", "_throttle", "_throttled", "emptied", "final")

    def __init__(self, loop: "Loop", stdin: "Stdin", stdin_once: bool, throttle: "Callable[[bool], None]") -> None:
        self._loop, self._stdin, self._stdin_once, self._throttle = loop, stdin, stdin_once, throttle
        self._clients: list[Client] = []
        self._throttled = False
        self.emptied: Callable[[], None] = nothing
        self.final = False  # the program has ended: what is left of its output is small and waits for nobody

    def attach(self, fd: int, options: "dict[str, Any]", tty: bool) -> None:
        """Add a client on socket `fd`, ours from now on; options: stdin, stdout, stderr, mux."""
        os.set_blocking(fd, False)
        wants = tuple(name for name in ("stdout", "stderr") if options.get(name))
        if tty and wants:
            wants = ("stdout",)
        client = Client(fd, wants, bool(options.get("mux")) and not tty, bool(options.get("stdin")))
        self._clients.append(client)
        self._loop.watch(fd, 0, lambda mask: self._ready(client, mask))
        self._update(client)

    def copy(self, name: str, data: memoryview) -> None:
        """Give output to every client that wants it."""
        for client in tuple(self._clients):
            if name not in client.wants or client.ending:
                continue
            waited = client.size
            try:
                client.offer(name, data)
            except OSError:
                self._drop(client)
                continue
            if client.size and not waited:
                self._update(client)
            if client.size > BACKLOG and not client.stuck and not self.final:
                self._slow_down()

    def finish(self) -> None:
        """The program has ended: every client ends once it has taken its backlog."""
        for client in tuple(self._clients):
            self._end(client)

    def listen(self) -> None:
        """The program takes input again, or does not any more."""
        for client in self._clients:
            self._update(client)

    @property
    def idle(self) -> bool:
        """True when no client is left."""
        return not self._clients

    def _update(self, client: Client) -> None:
        mask = OUT if client.size else 0
        if client.reading and not self._stdin.full:
            mask |= IN
        self._loop.change(client.fd, mask)

    def _ready(self, client: Client, mask: int) -> None:
        try:
            if mask & OUT:
                client.flush()
                if client.ending and not client.size:
                    self._drop(client)
                    return
                self._go_on()
                self._update(client)
            if mask & IN and client.reading:
                self._take_input(client)
            elif mask & (HUP | ERR):
                self._drop(client)
        except OSError:
            self._drop(client)

    def _take_input(self, client: Client) -> None:
        try:
            size = os.readv(client.fd, (BUFFER,))
        except BlockingIOError:
            return
        if size:
            self._stdin.write(bytes(VIEW[:size]))
            return
        client.reading = False
        self._update(client)
        if self._stdin_once:
            self._stdin.end()
        else:
            client.leaves = monotonic_ns() + FAREWELL_NS
            self._watch()

    def _end(self, client: Client) -> None:
        client.ending, client.reading = True, False
        if client.size:
            self._update(client)
            self._watch()
        else:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        if client.reading:
            self._last_words(client)
        self._loop.forget(client.fd)
        os.close(client.fd)
        self._go_on()
        if not self._clients:
            self.emptied()

    def _last_words(self, client: Client) -> None:
        """The client has gone: what it wrote before that still counts (as much as its socket held)."""
        try:
            while size := os.readv(client.fd, (BUFFER,)):
                self._stdin.write(bytes(VIEW[:size]))
        except OSError:
            pass
        if self._stdin_once:
            self._stdin.end()

    # Back-pressure.

    def _slow_down(self) -> None:
        if not self._throttled:
            self._throttled = True
            self._throttle(True)
            self._watch()

    def _go_on(self) -> None:
        if self._throttled and not any(c.behind() for c in self._clients):
            self._throttled = False
            self._throttle(False)

    def _watch(self) -> None:
        due = [d for c in self._clients if (d := c.deadline())]
        if due:
            self._loop.at(min(due), self._patience_ends)

    def _patience_ends(self) -> None:
        now = monotonic_ns()
        for client in tuple(self._clients):
            if 0 < client.deadline() <= now:
                if client.ending:
                    self._drop(client)
                elif client.leaves:
                    self._end(client)
                else:
                    client.stuck = True
        self._go_on()
        self._watch()
