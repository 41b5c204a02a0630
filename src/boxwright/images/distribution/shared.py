"""Work that several may want at once: done once, for as long as anybody wants it; and limits on how much is done."""

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

Report = Callable[[dict[str, Any]], None]


class _Work:
    __slots__ = ("last", "reports", "task")

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.last: dict[str, Any] | None = None
        self.task: asyncio.Task[None]

    def report(self, message: dict[str, Any]) -> None:
        self.last = message
        for report in self.reports:
            report(message)


class Shared:
    """Work by key.  For the loop's thread."""

    def __init__(self) -> None:
        self._running: dict[str, _Work] = {}

    async def join(self, key: str, start: Callable[[Report], Coroutine[Any, Any, None]], report: Report) -> None:
        """Wait until the work `key` is done; `start(report)` is it, unless it is under way already.

        Everybody hears every message, and whoever comes late the last one.  Cancelled when the last one leaves.
        Raises what the work raises; what others began and failed at is tried once more.
        """
        work = self._running.get(key)
        if work is not None and await self._wait(key, work, report, forgive=True):
            return
        work = self._running.get(key)
        if work is None:
            work = self._running[key] = _Work()
            work.task = asyncio.ensure_future(start(work.report))
        if not await self._wait(key, work, report, forgive=False):
            raise asyncio.CancelledError

    async def follow(self, key: str) -> None:
        """Wait until nobody works on `key` any more, successful or not."""
        while (work := self._running.get(key)) is not None:
            await self._wait(key, work, lambda message: None, forgive=True)

    async def _wait(self, key: str, work: _Work, report: Report, forgive: bool) -> bool:
        work.reports.append(report)
        if work.last is not None:
            report(work.last)
        try:
            await asyncio.wait([work.task])
        finally:
            work.reports.remove(report)
            if self._running.get(key) is work and (work.task.done() or not work.reports):
                del self._running[key]
            if not work.task.done() and not work.reports:
                work.task.cancel()
                # Its end is waited for: what it holds (a layer half made) is gone then.
                await asyncio.gather(work.task, return_exceptions=True)
        if work.task.cancelled():
            return False
        failure = work.task.exception()
        if failure is not None and not forgive:
            raise failure
        return failure is None


class Slots:
    """A semaphore whose size may change while it is in use: `limit()` is asked each time."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        """Whether the next one has to wait."""
        return self._used >= max(1, self._limit())

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold one, in the order of asking."""
        while self.full:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was ours, and we do not take it
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1
            self._wake()

    def _wake(self) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
                return


async def in_thread(
    function: Callable[..., T], *args: Any, executor: ThreadPoolExecutor | None = None, **options: Any
) -> T:
    """As asyncio.to_thread, but its end is waited for even when the caller is cancelled.

    Until then the descriptors that it works with must not be closed: their numbers would be somebody else's.
    executor: whose threads; None: the loop's.
    """
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(loop.run_in_executor(executor, functools.partial(function, *args, **options)))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise


async def all_of(*work: Awaitable[Any]) -> None:
    """Do all of it at once; the first failure cancels the rest, whose end is waited for, and is raised."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
