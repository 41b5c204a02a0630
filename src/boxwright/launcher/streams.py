"""A program's stdio, of a container or of an exec: read once, logged, and copied to its clients.

           ┌─► log (never blocks)
stdout ──┐ │              ┌─ backlog ─► client 1
         ├─┴─ one buffer ─┼─ backlog ─► client 2      fanout.py
stderr ──┘                └─ backlog ─► client 3
stdin ◄── pending ◄──────────────────── whichever client writes      stdin.py
"""

import fcntl
import os
import struct
import termios
from time import monotonic_ns

from boxwright.launcher.fanout import BUFFER, VIEW, Fanout
from boxwright.launcher.loop import IN
from boxwright.launcher.stdin import Stdin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from boxwright.launcher.loop import Loop
    from boxwright.logger.options import Writer

# After the program's end its streams normally end too.  They do not while somebody else has them open (a child left in
# the background): then output counts until none came for QUIET_NS, and in no case longer than DRAIN_NS.
QUIET_NS = 100_000_000
DRAIN_NS = 1_000_000_000


class Stdio:
    """Everything between a program's descriptors and the world.

    log: where output goes besides the clients, or None.
    stdin_once: the first client's EOF is the program's.
    """

    __slots__ = (
        "_console", "_drained", "_fanout", "_held", "_limit", "_log", "_loop", "_outputs", "_slow", "_stdin", "_tty",
    )  # fmt: skip

    def __init__(self, loop: "Loop", log: "Writer | None", tty: bool, stdin_once: bool) -> None:
        self._loop, self._log, self._tty = loop, log, tty
        self._stdin = Stdin(loop)
        # The end of a client's input cannot be the end of a terminal's.
        self._fanout = Fanout(loop, self._stdin, stdin_once and not tty, self._throttle)
        self._stdin.changed = self._fanout.listen
        self._outputs: dict[int, str] = {}  # descriptor → stream
        self._console = -1
        self._limit = 0
        self._slow = self._held = False  # the program waits for a client; for its log
        self._drained: Callable[[], None] | None = None

    def connect(self, stdin: int, stdout: int, stderr: int) -> None:
        """Take our ends of the program's pipes; `stdin` is -1 when it takes no input."""
        self._read_from(stdout, "stdout")
        self._read_from(stderr, "stderr")
        self._stdin.connect(stdin)

    def connect_console(self, console: int, takes_input: bool) -> None:
        """Take the pty master; it is output and, through a duplicate, input."""
        self._console = console
        self._read_from(console, "stdout")
        self._stdin.connect(os.dup(console) if takes_input else -1)

    def attach(self, fd: int, options: "dict[str, Any]") -> None:
        """Add a client on socket `fd`, ours from now on."""
        self._fanout.attach(fd, options, self._tty)

    def resize(self, h: int, w: int) -> None:
        """Set the terminal's size in characters; nothing without a terminal."""
        if self._console >= 0:
            fcntl.ioctl(self._console, termios.TIOCSWINSZ, struct.pack("HHHH", h & 0xFFFF, w & 0xFFFF, 0, 0))

    def drain(self, drained: "Callable[[], None]") -> None:
        """The program has ended: read what is left, then call `drained` once (perhaps at once)."""
        self._drained = drained
        self._fanout.final = True
        self._stdin.close()
        self._limit = monotonic_ns() + DRAIN_NS
        for fd in tuple(self._outputs):
            while monotonic_ns() < self._limit and self._read(fd):
                continue
        if self._outputs:
            self._throttle(False)
            self._expect_more()
        else:
            self._finish_drain()

    def finish(self) -> None:
        """Let the clients go, each when it has taken its backlog."""
        self._stdin.close()
        self._fanout.finish()

    @property
    def idle(self) -> bool:
        """True when no client is left."""
        return self._fanout.idle

    def when_idle(self, callback: "Callable[[], None]") -> None:
        """Call `callback` whenever the last client has gone."""
        self._fanout.emptied = callback

    def close(self) -> None:
        """Let go of the program's side at once."""
        for fd in tuple(self._outputs):
            self._end(fd)
        self._stdin.close()

    def _read_from(self, fd: int, name: str) -> None:
        os.set_blocking(fd, False)
        self._outputs[fd] = name
        self._loop.watch(fd, IN, lambda _: self._ready(fd))

    def _ready(self, fd: int) -> None:
        if self._read(fd) and self._drained is not None:
            self._expect_more()

    def _read(self, fd: int) -> bool:
        """One read; False when nothing came (yet, or ever again)."""
        try:
            size = os.readv(fd, (BUFFER,))
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process that had the terminal open is gone
            size = 0
        if not size:
            self._end(fd)
            if self._drained is not None and not self._outputs and self._limit:
                self._finish_drain()
            return False
        name = self._outputs[fd]
        data = VIEW[:size]
        if self._log is not None:
            self._log.write(name, bytes(data))
        self._fanout.copy(name, data)
        return True

    def _end(self, fd: int) -> None:
        name = self._outputs.pop(fd)
        self._loop.forget(fd)
        if self._log is not None:
            self._log.flush(name)
        if fd == self._console:
            self._console = -1
        os.close(fd)

    def hold(self, wait: bool) -> None:
        """Whether the program has to wait for its log."""
        self._held = wait
        self._listen()

    def _throttle(self, wait: bool) -> None:
        self._slow = wait
        self._listen()

    def _listen(self) -> None:
        for fd in self._outputs:
            self._loop.change(fd, 0 if self._slow or self._held else IN)

    def _expect_more(self) -> None:
        self._loop.at(min(self._limit, monotonic_ns() + QUIET_NS), self._finish_drain)

    def _finish_drain(self) -> None:
        drained, self._drained, self._limit = self._drained, None, 0
        self._loop.cancel(self._finish_drain)
        for fd in tuple(self._outputs):
            self._end(fd)
        if drained is not None:
            drained()
