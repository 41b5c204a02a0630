"""The shims that wait for the next starts.

One has a first process that has prepared what every container needs.  It is asked for in a moment without starts, so
that a burst of them is not slowed down.  One that dies while it waits costs no start: its end is seen, what it had
prepared is swept away a little later, and another is asked for.

In a burst there are no such moments.  Then a shim whose container has ended takes another, which spares the launcher a
fork and the shim the copying of its pages.  When no start has wanted one for a moment, these warm shims are sent away.
"""

import asyncio
import json
import os
from _socket import socket
from typing import Any

from boxwright import errdefs
from boxwright.launcher import protocol
from boxwright.launcher.channel import Channel
from boxwright.launcher.client import Launcher
from boxwright.launcher.packets import adopt
from boxwright.libcontainer import cgroups

QUIET_SECONDS = 0.0002  # without a start, then a shim is forked in advance
LULL_SECONDS = 0.002  # the same in a burst, whose starts would have to share the processors with it
SWEEP_SECONDS = 1.0  # after one has died: its first process dies with it, but not in the same moment
END_SECONDS = 10.0
WARM_SECONDS = 1.0  # after the last start
MOST_WARM = 64
NOTHING: dict[str, Any] = {"mounts": [], "linux": {"maskedPaths": [], "readonlyPaths": []}}


class Waiting:
    """At most one shim with a first process, and some warm ones.

    parent: the cgroup (v1) below which its first process makes a group of its own, or "".
    usual: what most specs say of /proc, /dev and /sys (`libcontainer/usual.py`).
    """

    def __init__(self, launcher: Launcher, parent: str, usual: dict[str, Any]) -> None:
        self._launcher, self._parent = launcher, parent
        self._request = _request(parent, usual)
        self._shim: Channel | None = None
        self._line: socket | None = None  # to its first process
        self._warm: list[Channel] = []
        self._leaving: set[Channel] = set()
        self._cooling: asyncio.TimerHandle | None = None
        self._busy = 0
        self._quiet: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Event | None = None

    @property
    def there(self) -> bool:
        """Whether a shim waits."""
        return self._shim is not None

    def begin(self) -> None:
        """A start begins."""
        self._busy += 1

    def end(self) -> None:
        """A start is over; the last one of a burst has a shim asked for."""
        self._busy -= 1
        self._ask_later()

    def take(self, fresh: bool = False) -> tuple[Channel, socket | None] | None:
        """A waiting shim, and the line to its first process if it has one; both become the caller's.

        fresh: only one that has had no container yet.
        """
        if self._shim is not None:
            shim, line = self._shim, self._line
            self._shim = self._line = None
            return shim, line
        self._cool_later()
        return (self._warm.pop(), None) if self._warm and not fresh else None

    @property
    def wants_more(self) -> bool:
        """Whether a shim whose container has ended should stay: in a burst."""
        return self._cooling is not None and len(self._warm) < MOST_WARM

    def give(self, shim: Channel) -> None:
        """A shim whose container has ended."""
        shim.hand_over(self._heard_nothing, lambda: self._cooled(shim))
        if self.wants_more:
            self._warm.append(shim)
        else:
            self._send_away(shim)

    def _cool_later(self) -> None:
        if self._cooling is not None:
            self._cooling.cancel()
        self._cooling = asyncio.get_running_loop().call_later(WARM_SECONDS, self._cool)

    def _cool(self) -> None:
        self._cooling = None
        while self._warm:
            self._send_away(self._warm.pop())

    def _send_away(self, shim: Channel) -> None:
        self._leaving.add(shim)
        shim.half_close()

    def _cooled(self, shim: Channel) -> None:
        """It has gone, or died."""
        self._leaving.discard(shim)
        if shim in self._warm:
            self._warm.remove(shim)
        if self._ended is not None and not self._leaving and self._shim is None:
            self._ended.set()

    async def open(self) -> None:
        """Remove what a killed one has left, and ask for the first."""
        await asyncio.to_thread(self._remove_groups)
        self._ask_later()

    async def close(self) -> None:
        """Let it end in order, and leave nothing of it behind."""
        for timer in (self._quiet, self._sweep, self._cooling):
            if timer is not None:
                timer.cancel()
        self._cool()
        if self._task is not None:  # not cancelled: what has been asked for is to be ended in order
            await asyncio.wait([self._task])
        if self._shim is not None:
            self._shim.half_close()
        if self._shim is not None or self._leaving:
            self._ended = asyncio.Event()
            try:
                await asyncio.wait_for(self._ended.wait(), END_SECONDS)
            except TimeoutError:  # they are stopped
                for shim in (*self._leaving, *([self._shim] if self._shim is not None else ())):
                    shim.close()
        if self._sweep is not None:
            self._sweep.cancel()
        # It may have let go of its socket before its first process had ended.
        await asyncio.to_thread(self._remove_groups, SWEEP_SECONDS)
        if self._parent:
            cgroups.remove_parent("fs", self._parent)  # unless containers live on in it

    def sweep_later(self) -> None:
        """A shim may have died: remove what it had prepared, and ask for another if none waits."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._begin_task, self._mend)

    def _ask_later(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
        wait = QUIET_SECONDS if self._cooling is None else LULL_SECONDS
        self._quiet = asyncio.get_running_loop().call_later(wait, self._begin_task, self._ask)

    def _begin_task(self, work: Any) -> None:
        if self._task is not None:
            if work == self._mend:
                self.sweep_later()
            return
        self._task = asyncio.ensure_future(work())

    async def _ask(self) -> None:
        """A failure shows at the next start, which asks for itself."""
        try:
            if self._shim is not None or self._busy:
                return
            ours, theirs = protocol.pair()
            self._shim = Channel(ours, self._heard, self._lost)
            try:
                await self._launcher.spawn(theirs.fileno(), self._request)
            finally:
                theirs.close()  # when nobody else has it, the channel closes
        except (errdefs.System, OSError):
            self.sweep_later()
        finally:
            self._task = None

    async def _mend(self) -> None:
        try:
            await asyncio.to_thread(self._remove_groups)
        finally:
            self._task = None
            self._ask_later()

    def _remove_groups(self, seconds: float = 0.0) -> None:
        if self._parent:
            cgroups.remove_spares("fs", self._parent, seconds)

    def _heard(self, message: dict[str, Any], fds: list[int]) -> None:
        """One that waits says nothing but how its first process is reached; the launcher says that there is none."""
        if message.get("type") == "prepared" and len(fds) == 1 and self._line is None:
            self._line = adopt(fds[0])
            return
        protocol.close_all(fds)
        if self._shim is not None:
            self._shim.close()

    def _heard_nothing(self, _: dict[str, Any], fds: list[int]) -> None:
        protocol.close_all(fds)

    def _lost(self) -> None:
        self._shim = None
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._ended is None:
            self.sweep_later()
        elif not self._leaving:
            self._ended.set()


def _request(parent: str, usual: dict[str, Any]) -> bytes:
    """What the launcher's child is told."""
    first = protocol.SPARE + os.fsencode(parent) + b"\n"
    text = json.dumps(usual).encode()
    # A machine of very many processors has very many masked paths.
    return first + (text if len(first + text) <= protocol.LONGEST_REQUEST else json.dumps(NOTHING).encode())
