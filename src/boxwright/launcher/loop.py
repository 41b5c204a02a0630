"""The shim's event loop: one epoll, one handler for each descriptor, a few timers."""

import select
from time import monotonic_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IN, OUT, HUP, ERR, RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP, select.EPOLLERR, select.EPOLLRDHUP


class Loop:
    """Handlers get the event mask; timers are callbacks at a CLOCK_MONOTONIC time in nanoseconds."""

    __slots__ = ("_epoll", "_handlers", "_timers", "running")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: dict[Callable[[], object], int] = {}
        self.running = True

    def watch(self, fd: int, events: int, handler: "Callable[[int], None]") -> None:
        """Call `handler(mask)` when `events` (and always HUP and ERR) happen on `fd`."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Watch `fd` for other events."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; call it before closing (a duplicate elsewhere would keep the registration)."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def at(self, when_ns: int, callback: "Callable[[], None]") -> None:
        """Call `callback` once, at `when_ns`; a second call for the same callback moves it."""
        self._timers[callback] = when_ns

    def soon(self, callback: "Callable[[], object]") -> None:
        """Call `callback` after the events that are there now."""
        self._timers[callback] = 0

    def cancel(self, callback: "Callable[[], None]") -> None:
        """Do not call it; fine when it is not due."""
        self._timers.pop(callback, None)

    def run(self) -> None:
        """Until `running` is False."""
        while self.running:
            self.turn(self._timeout())

    def turn(self, timeout: float) -> None:
        """Handle what is there, or comes within `timeout` seconds (-1: for ever), and the timers that are due."""
        handlers = self._handlers
        ready = [(handlers.get(fd), fd, mask) for fd, mask in self._epoll.poll(timeout)]
        for handler, fd, mask in ready:
            # An earlier handler of this round may have closed this descriptor, or even reused its number.
            if handler is not None and handlers.get(fd) is handler:
                handler(mask)
        if self._timers:
            self._fire()

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()

    def _timeout(self) -> float:
        if not self._timers:
            return -1
        # epoll_wait(2) counts milliseconds in an int: a timer that is further away is looked at again after a day.
        return min(max(0, min(self._timers.values()) - monotonic_ns()) / 1e9, 86400.0)

    def _fire(self) -> None:
        now = monotonic_ns()
        for callback in [c for c, when in self._timers.items() if when <= now]:
            if self._timers.pop(callback, None) is not None:
                callback()
