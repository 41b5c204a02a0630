"""The containers of builds: an intent for each, so that an engine that comes back removes what a build has left."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from boxwright.db import intents
from boxwright.engine import remove
from boxwright.errdefs import Conflict, NotFound

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine

INTENT = "build.container"


async def recover(eng: Engine) -> None:
    """At engine start: remove the containers of builds that were cut short."""
    for intent in intents.pending(eng.db, INTENT):
        await clear(eng, intent.key)
        intents.finish(eng.db, intent.id)


async def clear(eng: Engine, name: str) -> None:
    """Remove the container of a build, if it is there."""
    with contextlib.suppress(NotFound, Conflict):
        await remove.remove(eng, name, force=True, volumes=True)
