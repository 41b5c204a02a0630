"""A life whose shim speaks a protocol that this engine does not: it was started by an older or newer version.

It is left running.  Its processes, its cgroup, its log and its exit record are the kernel's and the disk's, so it can
be watched, signalled, killed and counted without its shim.  What only the shim can do (exec, attach, resize, pause,
update) is refused with a text that says so, until the container is restarted.
"""

import asyncio
import os
import signal
from time import monotonic, time_ns
from typing import Any, NoReturn

from boxwright import errdefs
from boxwright.execdriver import AttachRequest, ExitStatus, usage
from boxwright.execdriver.records import recorded
from boxwright.launcher import packets, protocol
from boxwright.libcontainer import cgroups
from boxwright.logger.timestamps import rfc3339nano

RECORD_SECONDS = 30.0  # from the end of the first process to the exit record: the log is drained between them
_LOOK_SECONDS = 0.05
_KILLED = 128 + int(signal.SIGKILL)


class Foreign(errdefs.Unavailable):
    """A shim of another protocol.  hello: what it said (`launcher/protocol.py` tells what every one says)."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.hello = hello
        super().__init__(
            f"its shim speaks protocol {hello.get('protocol')}, this engine {' and '.join(map(str, packets.SPOKEN))}"
        )


class ForeignRunning:
    """See `execdriver.Running`."""

    def __init__(self, id: str, found: Foreign, sockets: str, container_dir: str) -> None:
        """sockets, container_dir: where its socket and its exit record are."""
        hello = found.hello
        self.id, self.generation, self.pid = id, int(hello["generation"]), int(hello["pid"])
        self.started_at, self.paused = str(hello["started_at"]), hello.get("paused") is True
        self.timeline: list[list[Any]] = []
        self.execs: dict[str, dict[str, Any]] = {}
        self.problem = f"{found}: exec, attach, resize, pause and update do not work before it is restarted"
        self.exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._cgroup: dict[str, str] = hello["cgroup"]
        self._socket, self._container_dir = (sockets, f"{id}.sock"), container_dir
        self._ended = asyncio.ensure_future(self._watch(int(hello["start_time"])))

    async def _watch(self, start_time: int) -> None:
        """Wait for the end of the first process, then for what its shim records of it."""
        await self._end_of_process(start_time)
        give_up = monotonic() + RECORD_SECONDS
        while (status := self._recorded()) is None and monotonic() < give_up and self._listens():
            await asyncio.sleep(_LOOK_SECONDS)
        error = f"{self.problem}; how it ended is not known"
        unknown = ExitStatus(_KILLED, int(signal.SIGKILL), False, rfc3339nano(time_ns()), error)
        self.exit.set_result(status or self._recorded() or unknown)

    async def _end_of_process(self, start_time: int) -> None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            if protocol.start_time(self.pid) == start_time:
                loop, ended = asyncio.get_running_loop(), asyncio.Event()
                loop.add_reader(pidfd, ended.set)
                try:
                    await ended.wait()
                finally:
                    loop.remove_reader(pidfd)
        finally:
            os.close(pidfd)

    def _recorded(self) -> ExitStatus | None:
        return recorded(self._container_dir, self.generation)

    def _listens(self) -> bool:
        try:
            packets.connect(*self._socket).close()
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        """The container lives on without us."""
        self._ended.cancel()

    def _refuse(self, verb: str) -> NoReturn:
        if self.exit.done():
            raise errdefs.Conflict(f"container {self.id} is not running")
        raise errdefs.Unavailable(f"container {self.id}: {verb}: {self.problem}")

    def _group(self) -> cgroups.Manager:
        return cgroups.manager(self._cgroup["driver"], self._cgroup["parent"], self._cgroup["name"])

    async def signal(self, sig: int, all: bool = False) -> None:
        """See `execdriver.Running`, also for the others."""
        pids = self._group().pids() if all else [self.pid]
        sent = [_send(pid, sig) for pid in pids]
        if self.exit.done() or not any(sent):
            raise errdefs.Conflict(f"container {self.id} is not running")
        if self.paused and sig == signal.SIGKILL:  # on cgroup v1 a frozen process dies after the thaw only
            await asyncio.to_thread(self._group().thaw)

    async def resize(self, h: int, w: int) -> None:
        self._refuse("resize")

    async def attach(self, request: AttachRequest) -> None:
        os.close(request.fd)
        self._refuse("attach")

    async def pause(self) -> None:
        self._refuse("pause")

    async def unpause(self) -> None:
        self._refuse("unpause")

    async def exec(
        self,
        exec_id: str,
        process: dict[str, Any],
        *,
        tty: bool = False,
        attach: AttachRequest | None = None,
        open_stdin: bool = False,
        detach: bool = False,
        seccomp_path: str | None = None,
        limit_ns: int = 0,
    ) -> int:
        if attach is not None:
            os.close(attach.fd)
        self._refuse("exec")

    async def exec_resize(self, exec_id: str, h: int, w: int) -> None:
        self._refuse("resize")

    async def exec_signal(self, exec_id: str, sig: int) -> None:
        self._refuse("signal")

    async def update(self, resources: dict[str, Any]) -> None:
        self._refuse("update")

    async def pids(self) -> list[int]:
        return self._group().pids()

    def stats(self) -> dict[str, Any]:
        if self.exit.done():
            raise errdefs.Conflict(f"container {self.id} is not running")
        return usage.read(self._cgroup, self.pid)

    async def destroy(self) -> None:
        await asyncio.to_thread(self._group().kill)

    async def release(self) -> None:
        """Nobody has to tell its shim: it goes by itself when it has no engine."""


def _send(pid: int, sig: int) -> bool:
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        return False
    return True
