"""Waiting for more of a log: one inotify watch on the container's directory for each follower.

All of them are on one inotify instance, because the kernel allows a user only 128 of those.
"""

import asyncio
import os
import time

from boxwright.linux import inotify

_LOOK_AGAIN = 1.0  # seconds: follow looks at the file this often in any case


class Watch:
    """Wakes a follower when something in a directory changes."""

    def __init__(self, directory: str) -> None:
        self._changed = asyncio.Event()
        self._hub = hub()
        self._watch = self._hub.add(directory, self._changed)

    async def wait(self, ended: asyncio.Event | None, until: int | None) -> None:
        """Until something changed, `ended` is set, or it is time to look in any case."""
        seconds = _LOOK_AGAIN
        if until is not None:
            seconds = max(0.0, min(seconds, (until - time.time_ns()) / 1e9 + 0.001))
        waiting = [asyncio.ensure_future(self._changed.wait())]
        if ended is not None:
            waiting.append(asyncio.ensure_future(ended.wait()))
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        self._changed.clear()

    def close(self) -> None:
        """Stop watching."""
        self._hub.remove(self._watch, self._changed)


class Hub:
    """One inotify instance for all followers of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = -1
        self._listeners: dict[int, set[asyncio.Event]] = {}

    def add(self, directory: str, event: asyncio.Event) -> int:
        """Set `event` whenever something in `directory` changes; -1 when that cannot be had (it is then polled)."""
        try:
            if self._fd < 0:
                self._fd = inotify.init()
                self._loop.add_reader(self._fd, self._ready)
            mask = (
                inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO | inotify.IN_DELETE
            )
            watch = inotify.add_watch(self._fd, directory, mask)
        except OSError:
            return -1
        self._listeners.setdefault(watch, set()).add(event)
        return watch

    def remove(self, watch: int, event: asyncio.Event) -> None:
        """`event` is not wanted any more; the last one takes the instance with it."""
        listeners = self._listeners.get(watch)
        if listeners is None:
            return
        listeners.discard(event)
        if listeners:
            return
        del self._listeners[watch]
        try:
            inotify.rm_watch(self._fd, watch)
        except OSError:
            pass  # the directory is gone, and the watch with it
        if not self._listeners:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ready(self) -> None:
        for event in inotify.read(self._fd):
            # An overflow (watch -1) may concern everybody.
            groups = [self._listeners.get(event.watch, set())] if event.watch >= 0 else self._listeners.values()
            for group in groups:
                for listener in group:
                    listener.set()


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def hub() -> Hub:
    loop = asyncio.get_running_loop()
    for other in [known for known in _hubs if known.is_closed()]:
        del _hubs[other]
    return _hubs.setdefault(loop, Hub(loop))
