"""`DELETE /containers/{name}` and auto-removal: renamed away in one step, deleted off the loop.

    claim ─ decide ─ end it (force) ─ status removing and the intent ─ snapshot, directory ─ rows and names
    ─ wake removal waiters ─ `destroy` ─ anonymous volumes

An engine that dies in between finds the intent and goes on.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from boxwright.db import intents
from boxwright.engine import endpoints, exec, links, stop
from boxwright.engine.graphdb import ROOT
from boxwright.engine.state import Operation, Status
from boxwright.errdefs import Conflict, Error, NotFound, System, host_failure

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

INTENT = "container.remove"

log = logging.getLogger(__name__)


async def remove(eng: Engine, name: str, force: bool = False, volumes: bool = False, link: bool = False) -> None:
    """Remove container `name`; `volumes` takes its anonymous volumes along, `link` removes a link's name only.

    Raises NotFound, Conflict (running without `force`, being removed), System (could not be killed or deleted).
    """
    if link:
        _remove_link(eng, name)
        return
    container = eng.store.get(name)
    await eng.shielded(_remove(eng, container, name, force, volumes))


async def auto_remove(eng: Engine, container: Container) -> None:
    """Remove a container that has ended and was created with AutoRemove, with its anonymous volumes.

    Also for what an earlier removal has left as `dead`.  No error when somebody else removes it at the same time.
    """
    with contextlib.suppress(NotFound, Conflict):
        await _remove(eng, container, container.id, False, container.host_config.auto_remove)


async def recover(eng: Engine) -> None:
    """At engine start, before anything else touches containers: finish every removal that was cut short."""
    for intent in intents.pending(eng.db, INTENT):
        container = eng.store.by_id(intent.key)
        if container is not None:
            _delete(eng, container)
            eng.announce(container, "destroy")
        if await drop_volumes(eng, intent.payload["volumes"]):
            intents.finish(eng.db, intent.id)


async def _remove(eng: Engine, container: Container, name: str, force: bool, volumes: bool) -> None:
    if force and container.state.operation in (Operation.STOPPING, Operation.RESTARTING):
        await stop.end(eng, container)  # not as patient as the stop
    async with eng.store.claim(container, None):
        if container.state.running:
            if not force:
                raise _still_running(container, name)
            eng.store.change(container, operation=Operation.REMOVING)
            await stop.end(eng, container)
        await stop.settled(container)
        anonymous = [p.name for p in container.record.mounts if p.type == "volume" and not p.named] if volumes else []
        with eng.db.transaction():
            eng.store.change(container, status=Status.REMOVING, operation=Operation.REMOVING)
            intent = intents.begin(eng.db, INTENT, container.id, {"volumes": anonymous})
        try:
            if container.endpoints:  # could not be released at the exit (a full disk)
                await endpoints.release(eng, container)
            _delete(eng, container, None if anonymous else intent)
        except Exception as error:
            why = host_failure(error) or str(error)
            eng.store.settle(container, status=Status.DEAD, error=why)
            with contextlib.suppress(System):  # else it is finished by the next engine
                intents.finish(eng.db, intent)
            refuse_waiters(container, why)
            raise System(f"container {container.id}: could not be removed: {why}") from error
    exec.forget_all(eng, container)
    container.live.removed({"StatusCode": container.state.exit_code, "Error": None})
    eng.announce(container, "destroy")
    if anonymous and await drop_volumes(eng, anonymous):
        intents.finish(eng.db, intent)


def refuse_waiters(container: Container, why: str) -> None:
    """Answer those who wait for a removal that has failed."""
    container.live.removed({"StatusCode": container.state.exit_code, "Error": {"Message": why}})


def _delete(eng: Engine, container: Container, intent: int | None = None) -> None:
    """Snapshot and directory go in one step each, all rows with the commit; the bytes are deleted in a thread.

    When the commit fails the container is there without its files, and can be removed again.
    """
    eng.trash.discard(eng.container_dir(container.id))
    with eng.db.transaction():
        eng.snapshotter.remove(container.id)
        eng.store.delete(container)
        if intent is not None:
            intents.finish(eng.db, intent)


async def drop_volumes(eng: Engine, names: list[str]) -> bool:
    """Remove volumes that nobody else uses; one that is in use or gone is left.

    False when one could not be removed: the intent stays, and the next engine tries again.
    """
    done = True
    for name in names:
        try:
            await eng.volumes.remove(name, False)
        except (NotFound, Conflict):
            continue
        except Error as error:
            log.warning("volume %s could not be removed: %s", name, error)
            done = False
    return done


def _still_running(container: Container, name: str) -> Conflict:
    if container.state.status is Status.PAUSED:
        return Conflict(f'cannot remove container "{name}": container is paused and must be unpaused first')
    return Conflict(
        f'cannot remove container "{name}": container is {container.state.status}: '
        "stop the container before removing or force remove"
    )


def _remove_link(eng: Engine, name: str) -> None:
    """`rm --link /parent/alias`: the edge goes, both containers stay."""
    path = "/" + name.strip("/")
    parent_path, _, alias = path.rpartition("/")
    if not parent_path:
        eng.store.get(name)
        raise Conflict("Conflict, cannot remove the default link name of the container")
    parent = eng.store.graph.find(parent_path)
    holder = eng.store.by_id(parent) if parent and parent != ROOT else None
    if holder is None or not eng.store.graph.remove(path):
        raise NotFound(f"No such container: {name}")
    left = [text for text in holder.host_config.links or () if links.parse(text)[1] != alias]
    eng.store.replace(holder, host_config=msgspec.structs.replace(holder.host_config, links=left or None))
