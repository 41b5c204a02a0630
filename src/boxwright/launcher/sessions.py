"""Exec sessions: further programs in the container, each with stdio of its own.

An exec ends with its process, also when a child that it left behind holds its streams open.  Its exit code is with the
engine before its streams end: the shim waits for the engine's `exec_release` (or for the engine's death).
"""

import gc
import os
from time import monotonic_ns

from boxwright import errdefs
from boxwright.launcher import limits, packets
from boxwright.launcher.children import Starter, close_theirs, pipes, reap
from boxwright.launcher.firstborn import Joiner
from boxwright.launcher.loop import IN
from boxwright.launcher.streams import Stdio
from boxwright.libcontainer import faults
from boxwright.linux import pidfd, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from boxwright.launcher.shim import Shim

_END_SHOWS_MS = 200
REMEMBERED = 128  # exit codes kept for an engine that is away


class Session:
    """One exec.  pid: 0 until execve has happened; exit_code: None until it has ended.

    timed_out: its limit was reached.
    """

    __slots__ = (
        "_limit_ns", "_pidfd", "_seq", "_shim", "_starter", "_takes_input", "exec_id", "exit_code", "pid", "stdio",
        "timed_out",
    )  # fmt: skip

    def __init__(self, shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
        """Begin; the reply is sent when execve has happened or failed.  Owns `fds` from the call on, also on errors."""
        self._shim, self._seq = shim, message["seq"]
        self.exec_id: str = message["exec_id"]
        self.exit_code: int | None = None
        self.pid, self._pidfd = 0, -1
        self._limit_ns: int = message["limit_ns"]
        self.timed_out = False
        self._takes_input = bool(message["open_stdin"])
        self.stdio = Stdio(shim.loop, None, message["tty"], True)
        self.stdio.when_idle(self._forget_when_idle)
        stdio: list[int] = []
        try:
            if message["attach"] and fds:
                self.stdio.attach(fds.pop(0), message["attach"])
            if not message["tty"]:
                ours, stdio = pipes(self._takes_input)
                self.stdio.connect(*ours)
            work = "join" if shim.becomes else "exec"
            header = {"work": work, "stdio": bool(stdio), "pid": shim.pid, "cgroup": shim.cgroup}
            self._starter: Starter | Joiner = Joiner() if shim.becomes else Starter()
            self._starter.work(
                header, message["body"], [shim.pidfd, *stdio], shim.loop, self._received, self._starter_ended
            )
        except BaseException:
            packets.close_all(fds)
            self.stdio.close()
            self.stdio.finish()
            raise
        finally:
            close_theirs(stdio)

    def _received(self, message: "dict[str, Any]", fds: list[int]) -> None:
        reap(message)
        if message["type"] == "console":
            self.stdio.connect_console(fds[0], self._takes_input)
        elif message["type"] == "executed":
            self.pid, self._pidfd = message["pid"], fds[0]
            self._shim.reply(self._seq, {"pid": self.pid})
            self._shim.loop.watch(self._pidfd, IN, lambda _: self.poll())
            if self._limit_ns:
                self._shim.loop.at(monotonic_ns() + self._limit_ns, self._expire)
        elif message["type"] == "failed":
            self._failed(errdefs.StepError.from_dict(message["error"]))

    def _starter_ended(self) -> None:
        if not self.pid and self.exec_id in self._shim.sessions:
            # A container that ends takes it along; the kernel does so before the container's own end shows.
            ending = pidfd.await_end(self._shim.pidfd, _END_SHOWS_MS)
            died = errdefs.StepError("the process that was to start the exec died", step="exec")
            self._failed(faults.not_running() if ending else died)

    def _failed(self, error: errdefs.StepError) -> None:
        self._starter.kill()
        self.stdio.close()
        self.stdio.finish()
        self._forget()
        self._shim.refuse(self._seq, error)
        self._shim.reap_strays()

    def poll(self) -> None:
        """Reap it if it has ended."""
        if not self.pid or self.exit_code is not None:
            return
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return
        self._shim.loop.forget(self._pidfd)
        self._shim.loop.cancel(self._expire)
        os.close(self._pidfd)
        self.exit_code = ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
        self.stdio.drain(self._drained)

    def _drained(self) -> None:
        shim = self._shim
        shim.remember(self.exec_id, self.exit_code or 0, self.timed_out)
        ended = {"exec_id": self.exec_id, "exit_code": self.exit_code}
        shim.event("exec_exit", {**ended, "timed_out": True} if self.timed_out else ended)
        if not shim.connected:
            self.release()

    def release(self) -> None:
        """The engine knows the exit code: the streams may end."""
        if self.exit_code is not None:
            self.stdio.finish()
            self._forget_when_idle()

    def _expire(self) -> None:
        """Its time is over."""
        try:
            self.signal(signals.SIGKILL)
            self.timed_out = True
        except errdefs.Conflict:
            pass  # it has ended in time

    def signal(self, number: int) -> None:
        """Send it a signal; SIGKILL ends its descendants too.  Raises Conflict when it has ended."""
        try:
            if not self.pid or self.exit_code is not None:
                raise ProcessLookupError
            if number == signals.SIGKILL:
                limits.end_exec(self._shim, self.pid, self._kill)
            else:
                signals.send(self._pidfd, number)
        except ProcessLookupError:
            raise errdefs.Conflict(f"exec {self.exec_id} is not running") from None

    def _kill(self) -> None:
        if self.exit_code is None:
            try:
                signals.send(self._pidfd, signals.SIGKILL)
            except ProcessLookupError:
                pass  # its end is the next that the loop sees

    def _forget_when_idle(self) -> None:
        if self.exit_code is not None and self.stdio.idle:
            self._forget()
        self._shim.leave_when_idle()  # it may have waited for these streams only

    def _forget(self) -> None:
        if self._shim.sessions.pop(self.exec_id, None) is not None:
            # Handlers and streams refer to each other; the collector is off, so that it does not touch shared pages.
            self._shim.loop.soon(gc.collect)
