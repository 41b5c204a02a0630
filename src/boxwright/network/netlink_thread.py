"""A thread that does what the kernel may block, one job after the other.

A send to netlink waits for the kernel's RTNL lock (p99 15 ms while other namespaces come and go), and an nftables
commit for its own; neither may happen on the event loop.  Jobs run in the order in which they came.
The thread inherits the network namespace of the thread that starts it, and its resources are opened inside it.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class Worker:
    """One daemon thread with a queue.  Made and used on one event loop's thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        """Run `function(*arguments)` on the thread; the future gets its result or its error.

        A job that has begun runs to its end even when nobody awaits it any more.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((function, arguments, future))
        return future

    async def close(self) -> None:
        """Let the jobs that are queued finish, then end the thread."""
        last = self._loop.create_future()
        self._jobs.put((lambda: None, (), last))
        self._jobs.put(None)
        await last
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, arguments, future = job
            result: Any = None
            failure: BaseException | None = None
            try:
                result = function(*arguments)
            except BaseException as error:  # handed to whoever awaits it
                failure = error
            try:
                self._loop.call_soon_threadsafe(_settle, future, result, failure)
            except RuntimeError:  # the loop has been closed: nobody is left to tell
                return
            del job, function, arguments, future, result, failure  # no descriptor or frame is kept while idle


def _settle(future: "asyncio.Future[Any]", result: Any, failure: BaseException | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
