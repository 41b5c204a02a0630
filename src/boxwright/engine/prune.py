"""`POST /containers/prune`: containers that do not run are removed, with what they wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from boxwright.engine import remove
from boxwright.engine.state import Status
from boxwright.errdefs import Conflict, Error, InvalidParameter
from boxwright.images.listing import moment_of

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

_ACCEPTED = frozenset({"label", "label!", "until"})
_AT_REST = (Status.CREATED, Status.EXITED, Status.DEAD)


async def containers(eng: Engine, filters: dict[str, list[str]]) -> dict[str, Any]:
    """`{"ContainersDeleted", "SpaceReclaimed"}`; sizes in bytes, of the containers' own layers.

    Filters: until (one time: created before it), label, label!.  Raises InvalidParameter, Conflict while another prune
    of containers is under way.
    """
    before = _check(filters)
    if eng.pruning.locked():
        raise Conflict("a prune operation is already running")
    async with eng.pruning:
        removed, reclaimed = [], 0
        for container in list(eng.store):
            if not _unwanted(container, filters, before):
                continue
            try:
                size, _ = await eng.snapshotter.usage(container.id) if eng.snapshotter.exists(container.id) else (0, 0)
                await remove.remove(eng, container.id)
            except Error:
                continue  # removed or started by another meanwhile; or it is `dead` now and says why
            removed.append(container.id)
            reclaimed += size
    eng.bus.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
    return {"ContainersDeleted": removed or None, "SpaceReclaimed": reclaimed}


def _check(filters: dict[str, list[str]]) -> float:
    """The time before which a container has to have been created, seconds since the epoch."""
    for name in filters:
        if name not in _ACCEPTED:
            raise InvalidParameter(f"invalid filter '{name}'")
    until = filters.get("until") or []
    if len(until) > 1:
        raise InvalidParameter("more than one until filter specified")
    return moment_of(until[0]) if until else time.time() + 1


def _unwanted(container: Container, filters: dict[str, list[str]], before: float) -> bool:
    labels = container.config.labels or {}
    if container.state.status not in _AT_REST or container.created_ns >= before * 1e9:
        return False
    if not all(_labelled(labels, text) for text in filters.get("label") or ()):
        return False
    return not any(_labelled(labels, text) for text in filters.get("label!") or ())


def _labelled(labels: dict[str, str], text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)
