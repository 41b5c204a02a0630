"""`POST /containers/{name}/rename`: the edge in the name graph moves, and all links below it with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.engine import names
from boxwright.engine.graphdb import NameTaken
from boxwright.engine.state import Operation
from boxwright.engine.store import name_conflict
from boxwright.errdefs import Conflict, InvalidParameter

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container


async def rename(eng: Engine, name: str, new: str) -> None:
    """Give container `name` the name `new`; raises NotFound, InvalidParameter, Conflict with Docker's texts."""
    if not name or not new:
        raise InvalidParameter("Neither old nor new names may be empty")
    container = eng.store.get(name)
    try:
        cleaned = names.clean(new)
    except InvalidParameter as error:
        raise InvalidParameter(f"Error when allocating new name: {error}") from None
    await eng.shielded(_rename(eng, container, cleaned))


async def _rename(eng: Engine, container: Container, new: str) -> None:
    async with eng.store.claim(container, Operation.RENAMING):
        old = container.name
        if new == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        try:
            with eng.db.transaction():
                eng.store.graph.rename(f"/{old}", f"/{new}")
                eng.store.replace(container, name=new)
        except NameTaken as taken:
            raise Conflict(f"Error when allocating new name: {name_conflict(new, taken.holder)}") from None
    eng.announce(container, "rename", oldName=f"/{old}")
