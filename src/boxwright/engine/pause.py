"""Pause and unpause: the freezer of the container's cgroup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.engine import health
from boxwright.engine.live import running
from boxwright.engine.state import Operation, Status
from boxwright.errdefs import Conflict

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container


async def pause(eng: Engine, name: str) -> None:
    """Freeze every process of container `name`; raises NotFound, Conflict."""
    await eng.shielded(_pause(eng, eng.store.get(name)))


async def unpause(eng: Engine, name: str) -> None:
    """Let the processes of container `name` go on; raises NotFound, Conflict."""
    await eng.shielded(_unpause(eng, eng.store.get(name)))


async def _pause(eng: Engine, container: Container) -> None:
    async with eng.store.claim(container, Operation.PAUSING):
        if container.state.status is Status.PAUSED:
            raise Conflict(f"Container {container.id} is already paused")
        if container.state.status is Status.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        life = running(container)
        await life.pause()
        if container.running is life:
            health.dismiss(container)
            eng.store.settle(container, status=Status.PAUSED, health=health.at_rest(container))
            eng.announce(container, "pause")


async def _unpause(eng: Engine, container: Container) -> None:
    async with eng.store.claim(container, Operation.UNPAUSING):
        if container.state.status is not Status.PAUSED:
            raise Conflict(f"Container {container.id} is not paused")
        await thaw(eng, container)


async def let_go_on(eng: Engine, container: Container) -> None:
    """`unpause` by who has paused it, with an intent: also when nothing can be written.  Raises NotFound, Conflict."""
    async with eng.store.claim(container, None):
        if container.state.status is Status.PAUSED:
            await thaw(eng, container)


async def thaw(eng: Engine, container: Container) -> None:
    """Unfreeze a paused container; the caller has claimed it, or is about to end it."""
    life = running(container)
    await life.unpause()
    if container.running is life and container.state.status is Status.PAUSED:
        eng.store.settle(container, status=Status.RUNNING)
        eng.announce(container, "unpause")
        health.watch(eng, container)
