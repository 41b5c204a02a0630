"""What the engine keeps of a container only while it lives: its waiters, its clients, the clock of its monitor.

Nothing here is persisted.  After an engine restart it is made anew (`engine/restore.py`).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from boxwright.errdefs import Conflict

if TYPE_CHECKING:
    from boxwright.engine.health import Monitor
    from boxwright.engine.store import Container
    from boxwright.execdriver import AttachRequest, Running

Result = dict[str, Any]  # {"StatusCode": int, "Error": {"Message": str} | None}, the body of /wait


class Live:
    """The transient side of one container, beside its `running`.

    over: done once the exit of the present or last life has been handled whole (persisted and told); None before any.
    stop_waiters: woken by the next exit; removal_waiters: by the removal, which wakes the others too.
    pending: streams attached before the start, handed over by the start message.
    exit_on_next: a stop was asked for: the restart policy is not applied to the next exit.
    by_hand: `docker restart` is under way: the exit between does not remove an auto-remove container.
    delay: back-off of the restart policy in seconds, 0.0 before the first restart; timer: the one that runs.
    health: what probes the present life, None without a health check and while it is paused.
    """

    __slots__ = (
        "by_hand",
        "delay",
        "exit_on_next",
        "health",
        "over",
        "pending",
        "removal_waiters",
        "stop_waiters",
        "timer",
    )

    def __init__(self) -> None:
        self.over: asyncio.Future[None] | None = None
        self.stop_waiters: list[asyncio.Future[Result]] = []
        self.removal_waiters: list[asyncio.Future[Result]] = []
        self.pending: list[AttachRequest] = []
        self.exit_on_next = False
        self.by_hand = False
        self.delay = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.health: Monitor | None = None

    def stopped(self, result: Result) -> None:
        """Wake those who wait for the exit."""
        _wake(self.stop_waiters, result)

    def removed(self, result: Result) -> None:
        """Wake everyone: a container that is gone is not waited for any longer, nor are its streams."""
        _wake(self.removal_waiters, result)
        _wake(self.stop_waiters, result)
        self.dismiss()

    def withdraw(self, request: AttachRequest) -> None:
        """The client of `request` has left: it is not handed over by a start to come."""
        if request in self.pending:
            self.pending.remove(request)
            os.close(request.fd)

    def dismiss(self) -> None:
        """End the streams that wait for a start."""
        for request in tuple(self.pending):
            self.withdraw(request)


def _wake(waiters: list[asyncio.Future[Result]], result: Result) -> None:
    woken, waiters[:] = waiters[:], []
    for future in woken:
        if not future.done():
            future.set_result(result)


def running(container: Container) -> Running:
    """The life of a container that runs (paused included); raises Conflict otherwise."""
    if container.running is None:
        raise Conflict(f"container {container.id} is not running")
    return container.running
