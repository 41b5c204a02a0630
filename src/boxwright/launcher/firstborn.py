"""A child of the shim that does the work itself, from the shim's side.

A `Firstborn` is cloned into a new pid namespace, ahead of time where possible, and waits.  With its work it becomes the
container's init without another clone (`starter.become`, `libcontainer.process.become_init`).  A `Joiner` enters a
running container and forks the program there as our child (`starter.join`, `libcontainer.setns.become_exec`).

Both speak the protocol of `libcontainer/sync.py` to us: steps are passed on undecoded, which keeps them out of this
process's memory.
"""

import os
from time import monotonic_ns, time_ns

from boxwright import errdefs
from boxwright.launcher import packets, sample, starter
from boxwright.launcher.children import short_of_descriptors
from boxwright.launcher.loop import IN
from boxwright.libcontainer import cgroups, faults, jsontext, sync
from boxwright.linux import namespaces, signals
from boxwright.logger.timestamps import rfc3339nano

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from boxwright.launcher.loop import Loop


class Firstborn:
    """The container's first process; the face of `children.Starter`."""

    __slots__ = (
        "_begun_at",
        "_ended",
        "_executing",
        "_helper",
        "_kept",
        "_loop",
        "_pid",
        "_pidfd",
        "_received",
        "_sock",
        "_spare",
        "_steps",
        "line",
    )
    _kept: dict[str, int]
    _loop: "Loop"
    _steps: bytes
    _received: "Callable[[dict[str, Any], list[int]], None]"
    _ended: "Callable[[], None]"
    flags = namespaces.CLONE_NEWPID

    def __init__(self, usual: bytes = b"", parent: str = "") -> None:
        """Clone it; it waits for its work.  Raises OSError.

        usual: its work is not there yet, so it can prepare itself for a spec like this (`libcontainer/advance.py`), and
        has a `line` by which somebody else can tell it the body of its work before we have told it the rest.
        parent: the cgroup (v1) below which it makes one then, or "".
        """
        self._sock, theirs = packets.pair()
        self.line: socket | None = None
        its_end: socket | None = None
        if usual:
            self.line, its_end = packets.pair()
        self._spare = (parent, str(os.getpid())) if parent else None
        self._pid, self._pidfd = namespaces.clone_process(self.flags, name="init")
        if not self._pid:
            spare = cgroups.spare(*self._spare) if self._spare is not None else None
            starter.serve(theirs, sample.play if usual else None, spare, usual, its_end)
        theirs.close()
        if its_end is not None:
            its_end.close()
        self._steps, self._kept, self._helper = b"", {}, -1
        self._executing, self._begun_at = "", 0

    def work(
        self,
        header: "dict[str, Any]",
        body: bytes,
        fds: list[int],
        loop: "Loop",
        received: "Callable[[dict[str, Any], list[int]], None]",
        ended: "Callable[[], None]",
    ) -> None:
        """Let it begin; see `children.Starter.work`."""
        self._loop, self._received, self._ended = loop, received, ended
        loop.watch(self._sock.fileno(), IN, self._ready)
        try:
            packets.send(self._sock, header, fds, body)
        except BaseException:
            self.kill()
            raise

    def go(self) -> None:
        """Open the gate."""
        try:
            packets.send_packet(self._sock, b'["go",{}]', [])
        except ConnectionError:
            pass  # it has failed: its last message says how
        except OSError:
            self._loop.at(monotonic_ns() + packets.RETRY_NS, self.go)

    def kill(self) -> None:
        """End it at once, without a word; what it has made is left to the caller."""
        if self._pidfd >= 0:
            for pidfd in (self._pidfd, self._helper) if self._helper >= 0 else (self._pidfd,):
                signals.send(pidfd, signals.SIGKILL)
            self._loop.forget(self._sock.fileno())
            self._loop.cancel(self.go)
            self.discard()

    def discard(self) -> None:
        """End one that has been given no work by us, or has been forgotten by the loop."""
        try:
            signals.send(self._pidfd, signals.SIGKILL)
        except ProcessLookupError:
            pass
        self._sock.close()
        self._reap_helper()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        packets.close_all((self._pidfd, *self._kept.values()))
        self._pidfd = -1
        if self._spare is not None:
            try:
                cgroups.spare(*self._spare).destroy()
                cgroups.remove_parent("fs", self._spare[0])  # which nothing may have been in but this
            except errdefs.StepError:
                return  # the engine removes it when it starts or stops (`cgroups.remove_spares`)

    def _reap_helper(self) -> None:
        """Of a program that was forked by another child of ours, which ends then."""
        if self._helper >= 0:
            os.waitid(os.P_PIDFD, self._helper, os.WEXITED)
            os.close(self._helper)
            self._helper = -1

    def _ready(self, _: int) -> None:
        while self._pidfd >= 0:
            try:
                packet = packets.receive_packet(self._sock)
            except packets.Cut as cut:
                kind, body = jsontext.loads(cut.data.partition(b"\n")[0])
                # What it is that has been forked, or what it wants to be reached by, is not known any more.
                forked = {"pid": body["pid"]} if kind == sync.FORKED else {}
                self._received(short_of_descriptors(forked), [])
                return
            except (BlockingIOError, ValueError):
                return
            if packet is None:
                self._closed()
                return
            line, _break, steps = packet[0].partition(b"\n")
            kind, body = jsontext.loads(line)
            self._said(kind, body, steps, packet[1])

    def _said(self, kind: str, body: "dict[str, Any]", steps: bytes, fds: list[int]) -> None:
        if steps:
            self._steps = self._steps[:-1] + b"," + steps[1:] if self._steps else steps
        if kind == sync.NETWORK:
            try:
                netns = os.open(f"/proc/{self._pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # it has died since (ENOENT, ESRCH or EACCES): how comes next
                packets.close_all(fds)
                return
            self._received({"type": "network", "pid": self._pid}, [netns, *fds])
        elif kind == sync.READY:
            kept = body.get("kept", ())
            consoles = len(fds) - len(kept)
            self._kept = dict(zip(kept, fds[consoles:], strict=True))
            if consoles:
                self._received({"type": "console"}, fds[:1])
        elif kind == sync.FORKED:
            self._helper, self._pid, self._pidfd = self._pidfd, body["pid"], fds[0]
        elif kind == sync.EXECUTING:
            self._executing, self._begun_at = body.get("path") or "", body["execve_ns"]
        elif kind == sync.FAILED:
            self._received({"type": "failed", "error": body["error"], "body": self._steps or b"[]"}, [])

    def _closed(self) -> None:
        """The end of the socket: the program runs, or the child has died."""
        self._loop.forget(self._sock.fileno())
        self._loop.cancel(self.go)
        if not self._begun_at:
            self.discard()
            self._ended()
            return
        last = jsontext.dumps(["execve", self._begun_at, monotonic_ns(), self._executing]).encode()
        message = {
            "type": "executed",
            "pid": self._pid,
            "start_time": starter.start_time(self._pid),
            "started_at": rfc3339nano(time_ns()),
            "shares_pids": False,
            "fds": ["pidfd", *self._kept],
            "body": self._steps[:-1] + b"," + last + b"]" if self._steps else b"[" + last + b"]",
        }
        self._reap_helper()
        fds = [self._pidfd, *self._kept.values()]
        self._pidfd, self._kept = -1, {}
        self._sock.close()
        self._received(message, fds)


class Joiner(Firstborn):
    """A further program of a container that was started by a `Firstborn`."""

    __slots__ = ()
    flags = 0


def death(group: cgroups.Manager) -> errdefs.StepError:
    """What to say of one that ended without a word; group: the container's cgroup, if it came to be made."""
    if group.oom_kills():
        return faults.oom_killed(group.main_directory())
    return errdefs.StepError(
        "the container's first process ended before its program could be executed",
        step="clone",
        hint="killed from outside, or for lack of memory below a small limit",
    )
