"""A shim's starters, from the shim's side: fork one, hear what it says, reap it."""

import errno
import os
from time import monotonic_ns

from boxwright import errdefs
from boxwright.launcher import packets, starter
from boxwright.launcher.loop import IN
from boxwright.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from boxwright.launcher.loop import Loop


class Starter:
    """One child that does the work of a start or an exec (`starter.py`)."""

    __slots__ = ("_ended", "_loop", "_pidfd", "_received", "_sock")
    _loop: "Loop"
    _received: "Callable[[dict[str, Any], list[int]], None]"
    _ended: "Callable[[], None]"

    def __init__(self) -> None:
        """Fork it; it waits for its work.  Raises OSError."""
        self._sock, theirs = packets.pair()
        pid = os.fork()
        if not pid:
            starter.serve(theirs)
        theirs.close()
        self._pidfd = os.pidfd_open(pid)

    def work(
        self,
        header: "dict[str, Any]",
        body: bytes,
        fds: list[int],
        loop: "Loop",
        received: "Callable[[dict[str, Any], list[int]], None]",
        ended: "Callable[[], None]",
    ) -> None:
        """Let it begin.

        header, body, fds: as `starter.serve` takes them; the descriptors stay the caller's.
        received: called with each of its messages and their descriptors (the callee's).
        ended: called once it has ended, after its last message.
        """
        self._loop, self._received, self._ended = loop, received, ended
        loop.watch(self._sock.fileno(), IN, self._ready)
        loop.watch(self._pidfd, IN, self._exited)
        try:
            packets.send(self._sock, header, fds, body)
        except BaseException:
            self.kill()
            raise

    def go(self) -> None:
        """Let it open the gate when init is there."""
        try:
            packets.send(self._sock, {})
        except ConnectionError:
            pass  # it has failed: its last message says how
        except OSError:
            self._loop.at(monotonic_ns() + packets.RETRY_NS, self.go)

    def kill(self) -> None:
        """End it at once, without a word; what it has made is left to the caller."""
        if self._pidfd >= 0:
            signals.send(self._pidfd, signals.SIGKILL)
            self._forget()

    def _ready(self, _: int) -> None:
        while self._pidfd >= 0:
            try:
                got = packets.receive(self._sock)
            except packets.Cut as cut:
                self._received(short_of_descriptors(packets.decode(cut.data, [])), [])
                return
            except (BlockingIOError, ValueError):
                return
            if got is None:
                self._loop.change(self._sock.fileno(), 0)
                return
            self._received(*got)

    def _exited(self, mask: int) -> None:
        self._ready(mask)
        if self._pidfd >= 0:
            self._forget()
            self._ended()

    def _forget(self) -> None:
        """Reap it and close our ends."""
        self._loop.forget(self._sock.fileno())
        self._loop.forget(self._pidfd)
        self._loop.cancel(self.go)
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        self._sock.close()


def short_of_descriptors(message: "dict[str, Any]") -> "dict[str, Any]":
    """In the place of a message whose descriptors could not be received: a failure, after the end of what it tells of.

    Its "pid" is a child of ours that nobody has reaped yet, so the number is no other's.
    """
    told = [pid for pid in (message.get("pid"),) if pid]
    for pid in told:
        os.kill(pid, signals.SIGKILL)
    error = errdefs.StepError("the container's shim has no descriptor left", step="shim", errno=errno.EMFILE)
    return {"type": "failed", "error": error.to_dict(), "body": b"[]", "ended": [*message.get("ended", ()), *told]}


def reap(message: "dict[str, Any]") -> None:
    """The children of ours that a starter made and that have ended: helpers, and what failed."""
    for pid in message.get("ended", ()):
        os.waitpid(pid, 0)


def pipes(takes_input: bool) -> tuple[list[int], list[int]]:
    """(our ends, the program's ends) of stdin, stdout, stderr; without input -1 and our own /dev/null."""
    stdin, ours_in = os.pipe() if takes_input else (0, -1)
    ours_out, stdout = os.pipe()
    ours_err, stderr = os.pipe()
    return [ours_in, ours_out, ours_err], [stdin, stdout, stderr]


def close_theirs(stdio: list[int]) -> None:
    """Once they have been passed on: close the program's ends."""
    packets.close_all(fd for fd in stdio if fd > 2)
