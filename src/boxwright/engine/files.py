"""A container's root file system, read from outside: `docker diff` and `docker export`, running or not.

Confined jobs read it below what the container has mounted; nobody waits for the container, nor it for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boxwright.engine.state import Status
from boxwright.engine.store import being_removed
from boxwright.errdefs import Conflict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container


async def changes(eng: Engine, name: str) -> list[dict[str, Any]]:
    """GET /containers/{name}/changes: Path and Kind (0 modified, 1 added, 2 deleted).

    Raises NotFound, InvalidParameter for a container of hostfs.
    """
    container = eng.store.get(name)
    return [{"Path": path, "Kind": kind} for kind, path in await eng.snapshotter.changes(container.id)]


async def export(eng: Engine, name: str) -> AsyncGenerator[bytes, None]:
    """GET /containers/{name}/export: the file system as an archive, piece by piece.  Raises as `changes`, Conflict."""
    container = eng.store.get(name)
    _check(container)
    pieces = eng.snapshotter.export(container.id)
    try:
        first = await anext(pieces)
        eng.announce(container, "export")
        yield first
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()


def _check(container: Container) -> None:
    if container.state.status is Status.DEAD:
        raise Conflict(f"You cannot export container {container.id} which is Dead")
    if container.state.status is Status.REMOVING:
        raise being_removed(container)
