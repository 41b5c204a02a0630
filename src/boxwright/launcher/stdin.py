"""A program's stdin: takes what clients write, as fast as the program reads it."""

import os

from boxwright.launcher.loop import ERR, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from boxwright.launcher.loop import Loop


class Stdin:
    """The writing end of a pipe or pty.

    Before `connect` input waits; after `end` or `close`, or when the program has closed its side, it is thrown away.
    changed: called when `full` may have changed.
    """

    __slots__ = ("_closed", "_ending", "_fd", "_loop", "_pending", "changed")

    def __init__(self, loop: "Loop") -> None:
        self._loop, self._fd = loop, -1
        self._pending = b""
        self._closed = self._ending = False
        self.changed: Callable[[], None] = _nothing

    @property
    def full(self) -> bool:
        """Clients should wait: the program has not taken what is there, or does not exist yet."""
        return not self._closed and (self._fd < 0 or bool(self._pending))

    def connect(self, fd: int) -> None:
        """The program is there: `fd` is ours from now on; -1 means that it takes no input."""
        if fd < 0:
            self.close()
            return
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop.watch(fd, OUT if self._pending else 0, self._ready)
        if self._ending and not self._pending:
            self.close()
        self.changed()

    def write(self, data: bytes) -> None:
        """Pass input on; what the program does not take at once is kept."""
        if self._closed or self._ending:
            return
        if self._fd < 0 or self._pending:
            self._pending += data
            return
        self._pending = self._send(data)
        if self._pending:
            self._loop.change(self._fd, OUT)
            self.changed()

    def end(self) -> None:
        """Close once the program has taken everything."""
        self._ending = True
        if self._fd >= 0 and not self._pending:
            self.close()

    def close(self) -> None:
        """Close now."""
        if self._closed:
            return
        self._closed, self._pending = True, b""
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
        self.changed()

    def _send(self, data: bytes) -> bytes:
        """Write what fits, return the rest."""
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except OSError:  # EPIPE: the program has closed its stdin; EIO: its terminal is gone
            self.close()
            return b""

    def _ready(self, mask: int) -> None:
        if mask & ERR:
            self.close()
            return
        if self._pending:
            self._pending = self._send(self._pending)
        if self._pending or self._closed:
            return
        if self._ending:
            self.close()
        else:
            self._loop.change(self._fd, 0)
            self.changed()


def _nothing() -> None:
    """Nobody listens yet."""
