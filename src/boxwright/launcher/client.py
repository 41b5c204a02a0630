"""The engine's side of a launcher: connect to the one that runs, or execute one, and ask it to fork.

A launcher outlives its engine.  The next engine finds it by its socket and goes on using it, if it is of the same
version; an older one is told to retire, keeps its children and goes with the last of them.
"""

import asyncio
import fcntl
import os
import sys
from _socket import socket

import boxwright
from boxwright import errdefs
from boxwright.launcher import launcher, packets

NAMES = {"shim": "launcher.sock", "worker": "worker.sock"}
_SPOKEN = {"shim": packets.PROTOCOL, "worker": 4}  # how its children talk; a number of its own for each kind
_ATTEMPTS = 3

# One thread, no caches that grow: what a shim frees goes back to the kernel.
_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536",
           "MALLOC_TOP_PAD_": "16384"}  # fmt: skip


class Launcher:
    """The launcher of one exec root.

    kind: "shim" forks container shims, "worker" confined jobs.
    idle_seconds: after the last `spawn`, until it is let go; 0 for never.  The next one executes another.
    """

    def __init__(self, exec_root: str, kind: str = "shim", idle_seconds: float = 0.0) -> None:
        self._exec_root, self._kind, self._idle_seconds = exec_root, kind, idle_seconds
        self._idle: asyncio.TimerHandle | None = None
        self._sock: socket | None = None
        self._lock = asyncio.Lock()

    async def ensure(self) -> None:
        """Be connected.  Raises System when no launcher can be executed."""
        await self._connected()

    def execute_early(self) -> None:
        """Have a launcher start, without a loop and without staying connected; failures show when it is needed.

        It comes up beside an engine that is still importing.
        """
        try:
            self._find_or_execute().close()
        except (errdefs.System, OSError):
            pass

    async def spawn(self, control_fd: int, asked: bytes = packets.FORK) -> None:
        """Fork a child that serves `control_fd` (which stays the caller's to close).

        asked: goes to the child with it (at most `packets.LONGEST_REQUEST` bytes).

        Returns when the request is with the launcher; a child that cannot be forked shows on the control socket.
        Raises System when there is no launcher.
        """
        self._rest_later()
        for _ in range(_ATTEMPTS):
            sock = self._sock or await self._connected()
            try:
                while True:
                    try:
                        packets.send_packet(sock, asked, [control_fd])
                        return
                    except BlockingIOError:
                        await _writable(sock)
                    except OSError as failure:
                        if not packets.passes(failure):
                            raise
                        await asyncio.sleep(packets.RETRY_NS / 1e9)  # short of memory
            except OSError:  # it died: its children live on, and a new one takes over
                self._forget(sock)
        raise errdefs.System(f"the {self._kind} launcher does not stay alive; see {self._log_path()}")

    async def close(self) -> None:
        """Disconnect; the launcher goes once its children are gone."""
        if self._idle is not None:
            self._idle.cancel()
        self._rest()

    def _rest_later(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._idle_seconds:
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._rest)

    def _rest(self) -> None:
        self._idle = None
        if self._sock is not None:
            self._forget(self._sock)

    def _forget(self, sock: socket) -> None:
        sock.close()
        if self._sock is sock:
            self._sock = None

    def _log_path(self) -> str:
        return f"{self._exec_root}/{NAMES[self._kind].removesuffix('.sock')}.log"

    async def _connected(self) -> socket:
        async with self._lock:
            if self._sock is None:
                self._sock = await asyncio.to_thread(self._find_or_execute)
            return self._sock

    def _find_or_execute(self) -> socket:
        os.makedirs(self._exec_root, 0o711, exist_ok=True)
        lock = os.open(self._exec_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._find()
            if found is not None:
                return found
            self._execute()
            return packets.connect(self._exec_root, self._name())
        except OSError as failure:
            raise errdefs.System(f"cannot execute the {self._kind} launcher: {failure}") from failure
        finally:
            os.close(lock)

    def _name(self) -> str:
        return NAMES[self._kind]

    def _find(self) -> socket | None:
        """A launcher that is already there and of our version."""
        try:
            if os.readlink(f"{self._exec_root}/{self._name()}.version") != version(self._kind):
                self._retire()
                return None
            return packets.connect(self._exec_root, self._name())
        except OSError:
            return None

    def _retire(self) -> None:
        try:
            sock = packets.connect(self._exec_root, self._name())
            sock.send(launcher.RETIRE)
            sock.close()
        except OSError:
            pass

    def _execute(self) -> None:
        """Listen for it first: connections wait in the backlog until it is up."""
        listener = packets.bind(self._exec_root, self._name(), launcher.BACKLOG)
        log = os.open(self._log_path(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # Above the standard descriptors, so that none of the dup2 below overwrites another's source.
        listening = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 16)
        actions = [
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, listening, 3),
        ]
        package = os.path.dirname(os.path.dirname(os.path.abspath(boxwright.__file__)))
        arguments = [sys.executable, *launcher.OPTIONS[self._kind], "-c", launcher.BOOT, package, self._kind]
        try:
            # posix_spawn, not fork: the engine is big and has threads.
            pid = os.posix_spawn(
                sys.executable, [*arguments, self._exec_root, "3"], _environment(), file_actions=actions
            )
            _, status = os.waitpid(pid, 0)  # it leaves us at once: the launcher is its child's child
        finally:
            for fd in (listening, null, log):
                os.close(fd)
            listener.close()
        if status:
            raise OSError(0, f"it ended with status {os.waitstatus_to_exitcode(status)}; see {self._log_path()}")
        link = f"{self._exec_root}/{self._name()}.version"
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(version(self._kind), link)


def version(kind: str) -> str:
    """What a launcher must have been executed from to serve this engine."""
    return f"{boxwright.__version__}-{_SPOKEN[kind]}-{sys.implementation.cache_tag}"


def _environment() -> dict[str, str]:
    kept = {k: v for k in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if (v := os.environ.get(k))}
    return {**kept, **_MALLOC, "LC_ALL": "C.UTF-8"}


async def _writable(sock: socket) -> None:
    """Wait until a packet fits.  Several tasks may wait: each has a descriptor of its own to watch."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    fd = os.dup(sock.fileno())
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)
        os.close(fd)
