"""`POST /commit`: an image of what a container has become.

    intent ─ pause ─ archive of the differences ─ unpause ─ intent done ─ layer, image, name ─ `commit`

The container stands still while its files are read; an engine that dies meanwhile finds the intent and lets it go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from boxwright.db import intents
from boxwright.engine import pause
from boxwright.engine.state import Status
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, System
from boxwright.images import committing, importing
from boxwright.specs.image import Defaults, Healthcheck
from boxwright.storage.snapshotter import HOSTFS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.types.container import ContainerConfig

INTENT = "container.commit"
RETRY_SECONDS = (0.01, 0.1, 0.5, 1.0, 2.0)


class Commit(NamedTuple):
    """What the client asks for.  config: in place of the container's own, which completes it."""

    container: str
    repo: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    changes: Sequence[str] = ()
    pause: bool = True
    config: ContainerConfig | None = None


async def commit(eng: Engine, wanted: Commit) -> str:
    """Returns the image's id.

    Raises NotFound (the container, its image), Conflict (dead, being removed), InvalidParameter (name, change, hostfs).
    """
    container = eng.store.get(wanted.container)
    return await eng.shielded(_commit(eng, container, wanted))


async def recover(eng: Engine) -> None:
    """At engine start, when the containers have been found again: let go on what a commit has paused."""
    for intent in intents.pending(eng.db, INTENT):
        container = eng.store.by_id(intent.key)
        if container is not None:
            await _go_on(eng, container)
        intents.finish(eng.db, intent.id)


async def _commit(eng: Engine, container: Container, wanted: Commit) -> str:
    if container.state.status is Status.DEAD:
        raise Conflict(f"You cannot commit container {container.id} which is Dead")
    if container.state.status is Status.REMOVING:
        raise Conflict(f"You cannot commit container {container.id} which is being removed")
    name = importing.target(wanted.repo, wanted.tag) if wanted.repo else None
    own = None if wanted.config is None else _defaults(wanted.config)
    merged = committing.defaults(own, _defaults(container.config), wanted.changes)
    parent = eng.images.get(container.record.image)
    if parent.chain_ids == [HOSTFS]:
        raise InvalidParameter("a container of hostfs cannot be committed: its files are in its memory only")
    image = committing.Wanted(merged, wanted.author, wanted.comment, container.config.cmd or [])
    async with contextlib.aclosing(_difference(eng, container, wanted.pause)) as archive:
        identifier = await eng.images.commit(archive, parent, image, name)
    reference = "" if name is None else str(name)
    eng.announce(container, "commit", comment=wanted.comment, imageID=identifier, imageRef=reference)
    return identifier


async def _difference(eng: Engine, container: Container, still: bool) -> AsyncGenerator[bytes, None]:
    """The layer's archive, read while the container is paused."""
    standing = _paused(eng, container) if still else contextlib.nullcontext()
    async with standing, contextlib.aclosing(eng.snapshotter.diff(container.id)) as pieces:
        async for piece in pieces:
            yield piece


@asynccontextmanager
async def _paused(eng: Engine, container: Container) -> AsyncGenerator[None, None]:
    if container.state.status is not Status.RUNNING:
        yield
        return
    intent = intents.begin(eng.db, INTENT, container.id, {})
    paused = False
    try:
        with contextlib.suppress(Conflict, NotFound):  # it has ended, or somebody else has paused it
            await pause.pause(eng, container.id)
            paused = True
        yield
    finally:
        if paused:
            await _go_on(eng, container)  # when it cannot, the intent is the next engine's
        intents.finish(eng.db, intent)


async def _go_on(eng: Engine, container: Container) -> None:
    """Unpause, with patience: a container does not stay frozen because descriptors or memory were short for a moment.

    Raises System when it cannot be done.
    """
    for delay in (*RETRY_SECONDS, None):
        try:
            with contextlib.suppress(Conflict, NotFound):
                await pause.let_go_on(eng, container)
            return
        except Error as error:
            if delay is None:
                raise System(f"container {container.id} is still paused after its commit: {error}") from error
            await asyncio.sleep(delay)


def _defaults(config: ContainerConfig) -> Defaults:
    """A container's configuration as an image's."""
    check = config.healthcheck
    health = None
    if check is not None:
        health = Healthcheck(
            test=check.test or [],
            interval=check.interval,
            timeout=check.timeout,
            start_period=check.start_period,
            start_interval=check.start_interval,
            retries=check.retries,
        )
    return Defaults(
        user=config.user,
        exposed_ports=config.exposed_ports,
        env=config.env,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        volumes=config.volumes,
        working_dir=config.working_dir,
        labels=config.labels or None,
        stop_signal=config.stop_signal,
        healthcheck=health,
        on_build=config.on_build,
        shell=config.shell,
        args_escaped=config.args_escaped,
        hostname=config.hostname,
        domainname=config.domainname,
        stop_timeout=config.stop_timeout,
    )
