"""A container's log that is written by a child of the shim, because it may have to be waited for.

What the child has not taken waits in memory.  In blocking mode the program is slowed down once that is much; in
non-blocking mode what does not fit max-buffer-size is lost and counted (the newest, as in dockerd).  A child that dies
is replaced; what it held is lost.
"""

import os
import sys
from _socket import MSG_DONTWAIT, MSG_NOSIGNAL, SO_SNDBUF, SOL_SOCKET
from collections import deque
from time import monotonic_ns, time_ns

from boxwright.launcher import packets
from boxwright.launcher.loop import IN, OUT
from boxwright.libcontainer import jsontext
from boxwright.linux import signals
from boxwright.logger import forwarding, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any, NoReturn

    from boxwright.launcher.loop import Loop

BEHIND = 1 << 20  # bytes that may wait in blocking mode before the program is slowed down
CLOSE_NS = 10_000_000_000  # for what still waits at the end, as dockerd's
AGAIN_NS = 1_000_000_000  # before a child that died is replaced
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from boxwright.logger.forwarder import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)


class LogPipe:
    """Hands what a program writes to a forwarder (`logger/forwarding.py`).

    said: called with ("ready", ""), ("failed", why) or ("dropped", why).
    throttle: called with True when the program has to wait, with False when it may go on.
    """

    __slots__ = (
        "_backlog",
        "_child_dropped",
        "_done",
        "_loop",
        "_lost",
        "_pidfd",
        "_request",
        "_said",
        "_size",
        "_sock",
        "_waits",
        "error",
        "limit",
        "ready",
        "throttle",
    )  # fmt: skip

    def __init__(self, loop: "Loop", request: "dict[str, Any]", said: "Callable[[str, str], None]") -> None:
        log = request["log"]
        self._loop, self._said = loop, said
        self._request = {**log, "config": log.get("config") or {}, "container_dir": request["container_dir"],
                         "id": request["id"]}  # fmt: skip
        self._backlog: deque[bytes] = deque()
        self._size = self._lost = self._child_dropped = 0
        self.error, self.ready, self._waits = "", False, False
        self.limit = (
            options.buffer_size(self._request["config"]) if options.non_blocking(self._request["config"]) else 0
        )
        self.throttle: Callable[[bool], None] = lambda wait: None
        self._done: Callable[[], None] | None = None
        self._pidfd = -1
        self._sock: socket | None = None
        self._spawn()

    @property
    def dropped(self) -> int:
        """See `options.Writer`."""
        return self._lost + self._child_dropped

    def write(self, stream: str, data: bytes, now: int = 0) -> None:
        """See `options.Writer`."""
        packet = bytes((forwarding.OUTPUT[stream],)) + (now or time_ns()).to_bytes(8, "little") + data
        if self._backlog and self.limit and self._size + len(packet) > self.limit:
            self._lose(packet, "the log's writer is too slow")
            return
        self._put(packet)
        if not self.limit and self._size > BEHIND and not self._waits:
            self._waits = True
            self.throttle(True)

    def flush(self, stream: str) -> None:
        """See `options.Writer`."""
        self._put(bytes((forwarding.END[stream],)))

    def close(self) -> None:
        """At once, without waiting for what has not been taken."""
        self._let_go()

    def finish(self, done: "Callable[[], None]") -> None:
        """See `options.Writer`; in no case longer than CLOSE_NS."""
        self._done = done
        self._loop.at(monotonic_ns() + CLOSE_NS, self._give_up)
        self._put(bytes((forwarding.CLOSE,)))

    def _put(self, packet: bytes) -> None:
        self._backlog.append(packet)
        self._size += len(packet)
        if len(self._backlog) == 1:
            self._push()

    def _push(self) -> None:
        """Send what the child takes."""
        while self._backlog and self._sock is not None:
            try:
                self._sock.send(self._backlog[0], MSG_DONTWAIT | MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:  # it has died: the end of its process says so
                break
            self._size -= len(self._backlog.popleft())
        if self._sock is not None:
            self._loop.change(self._sock.fileno(), IN | OUT if self._backlog else IN)
        if self._waits and self._size <= BEHIND // 2:
            self._waits = False
            self.throttle(False)

    def _lose(self, packet: bytes, why: str) -> None:
        if packet[0] in (forwarding.STDOUT, forwarding.STDERR):
            self._lost += packet.count(b"\n", forwarding.HEAD) or 1
            first, self.error = self.error != why, why
            if first:
                self._said("dropped", why)

    def _spawn(self) -> None:
        """Raises OSError."""
        ours, theirs = packets.pair()
        ours.setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 20)
        try:
            pid = os.fork()
            if not pid:
                _child(theirs, self._request)
        finally:
            theirs.close()
        self._pidfd, self._sock = os.pidfd_open(pid), ours
        self._loop.watch(ours.fileno(), IN, self._ready)
        self._loop.watch(self._pidfd, IN, self._ended)
        self._push()

    def _ready(self, mask: int) -> None:
        while self._sock is not None:
            try:
                packet = self._sock.recv(1 << 16, MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:
                self._loop.change(self._sock.fileno(), 0)
                return
            self._heard(jsontext.loads(packet))
        if mask & OUT:
            self._push()

    def _heard(self, message: "dict[str, Any]") -> None:
        if "ready" in message and not self.ready:
            self.ready = True
            self._said("ready", "")
        elif "failed" in message:
            self.error = message["failed"]
            if not self.ready:
                self._said("failed", self.error)
        elif "dropped" in message:
            self._child_dropped, self.error = message["dropped"], message["error"]
            self._said("dropped", self.error)
        elif "closed" in message:
            self._finished()

    def _ended(self, mask: int) -> None:
        self._ready(0)
        if self._pidfd < 0:
            return
        ended = self._let_go()
        if self._done is not None:
            self._give_up()
            return
        if not self.error or (ended is not None and ended.si_code != os.CLD_EXITED):
            self.error = "the log's process has ended; what it held is lost"
        if not self.ready:
            self._said("failed", self.error)
            return
        self._lost, self._child_dropped = self._lost + self._child_dropped + 1, 0
        self._said("dropped", self.error)
        self._loop.at(monotonic_ns() + AGAIN_NS, self._replace)

    def _replace(self) -> None:
        try:
            self._spawn()
        except OSError as failure:
            self.error = failure.strerror or str(failure)
            self._loop.at(monotonic_ns() + AGAIN_NS, self._replace)

    def _let_go(self) -> "os.waitid_result | None":
        """End and reap the child; how it ended."""
        self._loop.cancel(self._replace)
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.forget(sock.fileno())
            sock.close()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd < 0:
            return None
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            signals.send(pidfd, signals.SIGKILL)
            ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self._loop.forget(pidfd)
        os.close(pidfd)
        return ended

    def _give_up(self) -> None:
        """The end of waiting: what has not been taken is lost."""
        for packet in self._backlog:
            if packet[0] in (forwarding.STDOUT, forwarding.STDERR):
                self._lost += packet.count(b"\n", forwarding.HEAD) or 1
                self.error = self.error or "the log's writer did not end in time"
        self._finished()

    def _finished(self) -> None:
        done, self._done = self._done, None
        self._loop.cancel(self._give_up)
        self._backlog.clear()
        self._let_go()
        if done is not None:
            done()


def _child(sock: "socket", request: "dict[str, Any]") -> "NoReturn":
    """Become the forwarder."""
    try:
        keep = sock.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, packets.HIGHEST_FD)
        sock.setblocking(True)
        if request["type"] in options.FILES:
            _name(b"boxwright-log")
            attrs = jsontext.dumps(request["attrs"]) if request.get("attrs") else ""
            place = request["container_dir"], request["id"]
            forwarding.exit_after(
                sock, lambda: options.open_file(request["type"], request["config"], *place, attrs, None)
            )
        described = os.memfd_create("log", 0)  # inherited
        data = jsontext.dumps(request).encode()
        while data:
            data = data[os.write(described, data) :]
        os.set_inheritable(keep, True)
        for number in (signals.SIGPIPE, signals.SIGXFSZ):
            signals.ignore(number)
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        program = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, package, str(keep), str(described)]
        os.execve(sys.executable, program, {"MALLOC_ARENA_MAX": "1"})
    finally:
        os._exit(1)


def _name(name: bytes) -> None:
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name)
    os.close(fd)
