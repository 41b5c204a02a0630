"""The size of a container's terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.engine.live import running

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine


async def resize(eng: Engine, name: str, height: int, width: int) -> None:
    """Set the terminal of container `name` to `height` rows and `width` columns; raises NotFound, Conflict."""
    container = eng.store.get(name)
    await running(container).resize(height, width)
    eng.announce(container, "resize", height=str(height), width=str(width))
