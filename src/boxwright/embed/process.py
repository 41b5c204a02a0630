"""`boxwright serve` as a child process: started, waited for, and explained when it does not come up.

The only place that knows how an engine is started by a program; `boxwright run` and `engine()` both use it.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import IO

READY_SECONDS = 60.0
IDLE_SECONDS = 60  # without containers and clients, until a user's own engine ends
SAID_LINES = 15  # of the engine's log, in an error
_TAIL = 16384  # bytes read to find them


class EngineError(RuntimeError):
    """The engine cannot be started or did not end well; the message holds the last lines of its log."""


def start(flags: list[str], log: str, *, owner: int | None = None, timeout: float = READY_SECONDS) -> EngineProcess:
    """Execute `boxwright serve` with `flags` and wait until its API answers.

    log: the file that takes its standard error; it is appended to.
    owner: a pidfd of the process whose end is to be the engine's too; None for an engine that lives by itself.
    Raises EngineError when it has not come up after `timeout` seconds.
    """
    if os.geteuid() != 0:
        raise EngineError("an engine needs root: namespaces, mounts and cgroups of containers are made by it")
    read, write = os.pipe()
    given = [write] if owner is None else [write, owner]
    command = [sys.executable, "-m", "boxwright.cli.main", "serve", *flags, "--ready-fd", str(write)]
    if owner is not None:
        command += ["--owner-fd", str(owner)]
    try:
        # Kept open: an engine that ends takes its directory along, and its last words with it.
        file = open(log, "a+b")  # noqa: SIM115
        started = EngineProcess(_execute(command, given, file), file)
    except OSError as error:
        os.close(read)
        raise EngineError(f"the engine could not be executed: {error}") from error
    finally:
        os.close(write)
    try:
        if not _says_ready(read, timeout):
            raise EngineError(f"the engine did not start:\n{started.said()}")
    except BaseException:
        started.kill()
        raise
    finally:
        os.close(read)
    return started


def _execute(command: list[str], fds: list[int], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own: a Ctrl-C at the owner's terminal is the owner's to act on.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, start_new_session=True
    )


def _says_ready(read: int, timeout: float) -> bool:
    """Whether `ready` came through the pipe, before its other end closed and in time."""
    deadline, heard = time.monotonic() + timeout, b""
    while not heard.endswith(b"\n"):
        if not select.select([read], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        if not (part := os.read(read, 16)):
            return False
        heard += part
    return heard == b"ready\n"


class EngineProcess:
    """A running engine that this process has started."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self, timeout: float) -> bool:
        """Ask it to end and wait; kill it after `timeout` seconds.  Whether it ended well."""
        self._process.terminate()
        try:
            return self._process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            return False

    def kill(self) -> None:
        """End it at once, and wait."""
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        """The last lines of its log, or that there are none."""
        fd = self._log.fileno()
        lines = os.pread(fd, _TAIL, max(0, os.fstat(fd).st_size - _TAIL)).decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-SAID_LINES:]) or "it said nothing"


def start_for_user(address: str, timeout: float = READY_SECONDS) -> EngineProcess:
    """The engine that `boxwright run` starts when none listens: default roots, hostfs, ends when nobody needs it.

    address: where it is to listen, `unix://…`.  Its log is beside the socket.
    """
    path = address.removeprefix("unix://")
    if path == address:
        raise EngineError(f"no engine can be started at {address}: only a Unix socket is this user's own")
    os.makedirs(os.path.dirname(path), 0o710, exist_ok=True)
    flags = ["--hostfs", "--idle-timeout", str(IDLE_SECONDS), "-H", address]
    return start(flags, f"{os.path.dirname(path)}/engine.log", timeout=timeout)
