"""Turns: of many starts that are asked for at once, how many are under way together.

All of them share the processors, so that more at once only means that each takes longer, with more processes alive and
more memory touched.  In turns the first ones are done early, and what they have used is warm for the next.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable

AT_ONCE = 8 * len(os.sched_getaffinity(0))
LONGEST_SECONDS = 0.25  # then a start waits for something else than a processor, and the others need not wait for it


class Turns:
    """Starts in the order in which they came, `most` at once."""

    def __init__(self, most: int = AT_ONCE, longest: float = LONGEST_SECONDS) -> None:
        """longest: seconds after which a turn no longer counts, though it goes on."""
        self._free, self._longest = most, longest
        self._queue: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> "Turn":
        """Wait for one; the caller ends it."""
        if self._free > 0:
            self._free -= 1
        else:
            place = asyncio.get_running_loop().create_future()
            self._queue.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if not place.cancelled():  # it had just been given
                    self._pass_on()
                raise
        return Turn(self._pass_on, self._longest)

    def _pass_on(self) -> None:
        """The next in the queue has it."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Turn:
    """One that is held, for a limited time."""

    __slots__ = ("_pass_on", "_timer")

    def __init__(self, pass_on: Callable[[], None], longest: float) -> None:
        self._pass_on: Callable[[], None] | None = pass_on
        self._timer = asyncio.get_running_loop().call_later(longest, self.end)

    def end(self) -> None:
        """It is over.  May be called again."""
        pass_on, self._pass_on = self._pass_on, None
        if pass_on is not None:
            self._timer.cancel()
            pass_on()
