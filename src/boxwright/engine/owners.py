"""Containers that do not outlive who owns them: a process of this host, or a lease, which is an open connection.

    HostConfig.Owner "pid:starttime" (label boxwright.owner: that, or a pid)   the process ends
    HostConfig.Lease "32 hex digits" (label boxwright.lease)                  the connection of the lease closes

Then the container is killed and removed with its anonymous volumes.  Both are kept with the container, so that a new
engine watches the same process (or finds it gone), and gives the holders of leases GRACE seconds to connect again.
Labels count only in the request: an image sets no owner.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from typing import TYPE_CHECKING

from boxwright.engine import remove
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound
from boxwright.linux import pidfd

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.types.container import ContainerConfig, HostConfig

OWNER, LEASE = "boxwright.owner", "boxwright.lease"
GRACE = 10.0  # seconds

log = logging.getLogger(__name__)


class Owners:
    """Who is watched: processes by descriptor, leases by their newest connection or by the timer of their grace."""

    __slots__ = ("_connections", "_eng", "_leaving", "_processes", "_timers")

    def __init__(self, eng: Engine) -> None:
        self._eng = eng
        self._processes: dict[str, int] = {}
        self._connections: dict[str, object] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._leaving = False

    def adapt(self, config: ContainerConfig, host_config: HostConfig) -> None:
        """Take the request's labels into `host_config` (changed in place) and check both.

        Raises InvalidParameter for an owner that does not run and for a lease that is not open: clients take a 404 of
        create for a missing image.
        """
        labels = config.labels or {}
        if wanted := host_config.owner or labels.get(OWNER, ""):
            host_config.owner = _named(wanted)
        if wanted := host_config.lease or labels.get(LEASE, ""):
            host_config.lease = wanted
            if not self._is_open(wanted):
                raise InvalidParameter(f"no such lease: {wanted[:64]}")

    def watch(self, container: Container) -> None:
        """The container is there from now on; one whose owner is gone already goes at once."""
        host_config = container.host_config
        if host_config.owner:
            self._watch_process(host_config.owner)
        if host_config.lease and not self._is_open(host_config.lease):
            self._end("lease", host_config.lease)

    def resume(self) -> None:
        """A new engine has found its containers."""
        for container in self._eng.store:
            lease = container.host_config.lease
            if lease and not self._is_open(lease):
                timer = asyncio.get_running_loop().call_later(GRACE, self._expire, lease)
                self._timers[lease] = timer
        for container in self._eng.store:
            self.watch(container)

    def open(self, lease: str) -> tuple[str, object]:
        """Begin a lease ("") or come back to one: (its id, what `close` takes).  Raises NotFound."""
        if lease and not self._is_open(lease):
            raise NotFound(f"no such lease: {lease[:64]}")
        lease = lease or secrets.token_hex(16)
        timer = self._timers.pop(lease, None)
        if timer is not None:
            timer.cancel()
        connection = self._connections[lease] = object()
        return lease, connection

    def close(self, lease: str, connection: object) -> None:
        """A connection of the lease has closed; nothing when a newer one holds it, or when this engine is leaving."""
        if not self._leaving and self._connections.get(lease) is connection:
            del self._connections[lease]
            self._end("lease", lease)

    def leave(self) -> None:
        """The engine ends: connections that close now are closed by it, and processes are the next one's to watch."""
        self._leaving = True
        for timer in self._timers.values():
            timer.cancel()
        loop = asyncio.get_running_loop()
        while self._processes:
            _, fd = self._processes.popitem()
            loop.remove_reader(fd)
            os.close(fd)

    def _is_open(self, lease: str) -> bool:
        return lease in self._connections or lease in self._timers

    def _expire(self, lease: str) -> None:
        del self._timers[lease]
        self._end("lease", lease)

    def _watch_process(self, owner: str) -> None:
        if owner in self._processes:
            return
        fd = _open(owner)
        if fd < 0:
            self._end("owner", owner)
            return
        self._processes[owner] = fd
        asyncio.get_running_loop().add_reader(fd, self._process_ended, owner)

    def _process_ended(self, owner: str) -> None:
        fd = self._processes.pop(owner)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        self._end("owner", owner)

    def _end(self, field: str, value: str) -> None:
        for container in self._eng.store:
            if getattr(container.host_config, field) == value:
                self._eng.spawn(_remove(self._eng, container))


async def _remove(eng: Engine, container: Container) -> None:
    try:
        await remove.remove(eng, container.id, force=True, volumes=True)
    except (NotFound, Conflict):
        log.debug("container %s: somebody else removes it", container.id)
    except Error as error:
        log.warning("container %s: its owner is gone, but it cannot be removed: %s", container.id, error)


def _named(text: str) -> str:
    """ "pid" or "pid:starttime" → "pid:starttime" of a process that runs; raises InvalidParameter."""
    pid, colon, start = text.partition(":")
    if not (_is_number(pid) and (_is_number(start) or not colon)):
        raise InvalidParameter(f"owner must be a pid, or pid:starttime: {text[:64]!r}")
    try:
        owner = f"{int(pid)}:{int(start) if colon else pidfd.start_time(int(pid))}"
        fd = _open(owner)
    except (OSError, OverflowError):
        fd = -1
    if fd < 0:
        raise InvalidParameter(f"the owner is not running: {text[:64]}")
    os.close(fd)
    return owner


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _open(owner: str) -> int:
    """A descriptor of the process "pid:starttime", -1 when it is gone."""
    pid, _, start = owner.partition(":")
    try:
        fd = pidfd.open_pid(int(pid))
    except OSError:
        return -1
    try:
        if pidfd.start_time(int(pid)) == int(start) and not pidfd.await_end(fd, 0):
            return fd
    except OSError:
        pass  # it has just ended
    os.close(fd)
    return -1
