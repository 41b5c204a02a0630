"""`/wait`: a waiter that is registered before the client hears anything, and answered by the exit or the removal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from boxwright.engine.state import Status
from boxwright.errdefs import InvalidParameter

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.live import Result
    from boxwright.engine.store import Container

CONDITIONS = ("not-running", "next-exit", "removed")


class Waiter:
    """One client's wait.  `close` it when the client leaves."""

    __slots__ = ("_future", "_queue")

    def __init__(self, queue: list[asyncio.Future[Result]], result: Result | None) -> None:
        self._future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue = queue
        if result is None:
            queue.append(self._future)
        else:
            self._future.set_result(result)

    async def result(self) -> Result:
        """`{"StatusCode": int, "Error": {"Message": str} | None}` once the condition is met."""
        return await asyncio.shield(self._future)

    def close(self) -> None:
        """Leave the queue; harmless when the answer has come."""
        if not self._future.done():
            self._queue.remove(self._future)
            self._future.cancel()


def wait(eng: Engine, name: str, condition: str) -> Waiter:
    """Register a waiter for `condition` ("" means not-running) of container `name`.

    Raises NotFound, and InvalidParameter for a condition that does not exist.
    """
    if condition and condition not in CONDITIONS:
        raise InvalidParameter(f'invalid condition: "{condition}"')
    container = eng.store.get(name)
    live = container.live
    if condition == "removed":
        return Waiter(live.removal_waiters, None)
    met = condition != "next-exit" and not container.state.running
    return Waiter(live.stop_waiters, outcome(container) if met else None)


def outcome(container: Container) -> Result:
    """What a waiter hears of the container's last exit (or of the start that failed)."""
    state = container.state
    failed = state.error and state.status is not Status.RUNNING
    return {"StatusCode": state.exit_code, "Error": {"Message": state.error} if failed else None}
