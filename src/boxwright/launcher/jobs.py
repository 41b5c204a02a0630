"""Confined jobs, from the engine's side: bytes and descriptors in, a result out.

What needs a namespace, a root, or reads hostile input runs in a child of the worker launcher, which has none of the
engine's memory, sockets or descriptors.  Cancelling the call, or the engine's death, closes the job's socket, and that
ends the job.

A job's first word says that it has begun.  One that ends without it was in the queue of a launcher that died, or died
before it had read what it is about: it has done nothing, and is asked for again.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from boxwright import errdefs
from boxwright.launcher import protocol
from boxwright.launcher.channel import Channel
from boxwright.launcher.client import Launcher

ATTEMPTS = 3  # for a job that has not begun


class JobDied(errdefs.System):
    """A job ended without a result: killed, by whomever."""


class _NotBegun(JobDied):
    """… and has done nothing."""


class Jobs:
    """Runs jobs by name; the table of names is in `worker.py`."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    async def run(
        self,
        kind: str,
        args: dict[str, Any],
        fds: Sequence[int] = (),
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Run one job and return its result.

        args: JSON-ready.  fds: stay the caller's.  progress: called with each dict that the job emits.
        Raises the job's error (an errdefs class), JobDied when it dies.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._run(kind, args, fds, progress)
            except _NotBegun:
                continue
        return await self._run(kind, args, fds, progress)

    async def _run(
        self,
        kind: str,
        args: dict[str, Any],
        fds: Sequence[int],
        progress: Callable[[dict[str, Any]], None] | None,
    ) -> dict[str, Any]:
        begun = False
        ours, theirs = protocol.pair()
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def received(message: dict[str, Any], passed: list[int]) -> None:
            nonlocal begun
            protocol.close_all(passed)
            if done.done():
                return
            if "begun" in message:
                begun = True
            elif "progress" in message:
                if progress is not None:
                    progress(message["progress"])
            elif "error" in message:
                done.set_exception(protocol.error_from_dict(message["error"]))
            elif "result" in message:
                done.set_result(message["result"])

        def closed() -> None:
            if not done.done():
                failure = JobDied if begun else _NotBegun
                done.set_exception(failure(f"the job {kind!r} died"))

        channel = Channel(ours, received, closed)
        try:
            channel.send({"kind": kind, "args": args}, fds)
            try:
                await self._launcher.spawn(theirs.fileno())
            finally:
                theirs.close()
            return await done
        finally:
            channel.close()
            if done.done() and not done.cancelled():
                done.exception()  # the error was raised, or the caller was cancelled: either way it is known
