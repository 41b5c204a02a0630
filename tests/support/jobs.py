"""Confined jobs without a launcher: a forked child of the test runs the worker's real code."""

import asyncio
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from boxwright import errdefs
from boxwright.launcher import protocol, worker
from boxwright.linux import process

# Packets are received into one buffer: the engine does it in one thread, and each job here in one of its own.
_RECEIVING = threading.Lock()


class ForkedJobs:
    """Implements `confined.Jobs`; `running` maps a job's child to its kind."""

    def __init__(self) -> None:
        self.running: dict[int, str] = {}
        self._sockets: dict[int, socket.socket] = {}
        worker.warm_up()

    async def run(
        self,
        kind: str,
        args: dict[str, Any],
        fds: Sequence[int] = (),
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        protocol.send(ours, {"kind": kind, "args": args}, fds)
        pid = os.fork()
        if pid == 0:
            _child(theirs)
        theirs.close()
        self.running[pid] = kind
        self._sockets[pid] = ours
        try:
            return await asyncio.to_thread(_answer, ours, progress)
        finally:
            ours.close()
            await asyncio.to_thread(os.waitpid, pid, 0)
            del self.running[pid], self._sockets[pid]

    def hang_up(self, pid: int) -> None:
        """What the engine's death is to a job."""
        self._sockets[pid].shutdown(socket.SHUT_RDWR)


def _child(sock: socket.socket) -> None:
    try:
        process.close_all_except({0, 1, 2, sock.fileno()})
        process.reset_signals()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.setsid()
        worker.serve(sock)
    finally:
        os._exit(0)


def _answer(sock: socket.socket, progress: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    while True:
        select.select([sock], [], [])
        with _RECEIVING:
            received = protocol.receive(sock)
        if received is None:
            raise errdefs.System("the job died")
        message, _ = received
        if "result" in message:
            result: dict[str, Any] = message["result"]
            return result
        if "error" in message:
            raise protocol.error_from_dict(message["error"])
        if progress is not None and "progress" in message:
            progress(message["progress"])
