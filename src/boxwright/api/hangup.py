"""Noticing that a client is gone for good.

A full close looks to a reading event loop like a half-close (both are "end of input"), and the docker CLI half-closes
while it still reads.  The kernel does tell them apart: EPOLLHUP comes when both directions are down.  Event loops do
not pass it on, so one epoll set of our own, itself watched by the loop, holds the connections that care.
(Over TCP a full close shows only when we write; there the write's error has to do.)
"""

import asyncio
import select
from collections.abc import Callable


class HangupWatch:
    """Calls back, once, when both directions of a watched socket are down."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch a socket until `forget`."""
        self._callbacks[fd] = callback
        # No event is asked for: EPOLLHUP is always reported.
        try:
            self._epoll.register(fd, select.EPOLLONESHOT)
        except FileExistsError:
            self._epoll.modify(fd, select.EPOLLONESHOT)

    def forget(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch no longer; does nothing when the descriptor's number belongs to another connection by now."""
        if self._callbacks.get(fd) != callback:
            return
        del self._callbacks[fd]
        try:
            self._epoll.unregister(fd)
        except OSError:
            # uvloop closes the descriptor before it reports the loss; closing has unregistered it.
            return

    def close(self) -> None:
        """Stop watching altogether."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        for fd, events in self._epoll.poll(0):
            if events & (select.EPOLLHUP | select.EPOLLERR) and (callback := self._callbacks.get(fd)):
                callback()
