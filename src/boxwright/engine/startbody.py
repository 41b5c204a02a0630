"""The HostConfig that clients of API 1.21 and older send with a start: it takes the place of the one of create.

What they give at start only, they get: binds, volumes of others and links too.  Later clients send nothing, or an empty
object (dockerode does), which the API takes for nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from boxwright.db import intents
from boxwright.engine import create, links, mounts, remove, settings, spec
from boxwright.errdefs import NotImplemented_

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.mountpoint import MountPoint
    from boxwright.engine.store import Container
    from boxwright.types.container import ContainerConfig, HostConfig

INTENT = "container.start-body"


async def adopt(eng: Engine, container: Container, host_config: HostConfig) -> None:
    """Let a claimed container that does not run have `host_config`; changes its argument.

    Of mounts and links, those of create stay beside what is named here.  Raises as `settings.verify`, `mounts.decide`
    and `links.resolve` do, and NotImplemented_ for `Mounts`, which are younger than this way of giving them.
    """
    old = container.record
    if host_config.mounts:
        raise NotImplemented_("HostConfig.Mounts with a start is not supported: give them with the create")
    config = msgspec.structs.replace(old.config)
    if config.hostname == container.id[:12]:  # create's own choice, which no mode is in conflict with
        config.hostname = ""
    settings.adapt(eng, config, host_config)
    host_config.timeout = host_config.timeout or old.host_config.timeout
    host_config.owner, host_config.lease = old.host_config.owner, old.host_config.lease
    settings.verify(eng, config, host_config)
    create.complete(config, host_config, container.id)
    await spec.compile_seccomp(eng, host_config)
    linked = links.resolve(eng.store, host_config)
    named = _named(eng, container, host_config)
    for field in ("binds", "volumes_from", "links"):
        both = [*(getattr(old.host_config, field) or ()), *(getattr(host_config, field) or ())]
        setattr(host_config, field, list(dict.fromkeys(both)) or None)
    host_config.mounts = old.host_config.mounts
    await _replace(eng, container, config, host_config, named, linked)


async def _replace(
    eng: Engine,
    container: Container,
    config: ContainerConfig,
    host_config: HostConfig,
    named: dict[str, MountPoint],
    linked: dict[str, Container],
) -> None:
    """Make the volumes, then change the rows in one transaction; what it does not come to is given back."""
    old = container.record
    anonymous = {
        path: os.urandom(32).hex() for path, point in named.items() if point.type == "volume" and not point.name
    }
    made = list(anonymous.values())
    intent = intents.begin(eng.db, INTENT, container.id, {"volumes": made})
    eng.claimed_volumes[container.id] = [*made, *(point.name for point in named.values() if point.name)]
    unused = made
    try:
        await mounts.make_volumes(eng, named, anonymous)
        if (image := eng.images.find(old.image)) is not None:
            await mounts.copy_up(eng, image, named)
        points = {point.destination: point for point in old.mounts}
        with eng.db.transaction():
            after = list((points | named).values())
            eng.store.replace(container, config=config, host_config=host_config, mounts=after)
            links.register(eng.store, container.name, linked)
        covered = [points[path] for path in named if path in points]
        unused = [point.name for point in covered if point.type == "volume" and not point.named]
    finally:
        del eng.claimed_volumes[container.id]
        if await remove.drop_volumes(eng, unused):
            intents.finish(eng.db, intent)


async def recover(eng: Engine) -> None:
    """At engine start: volumes that were made for a start whose engine died, and that no container has."""
    for intent in intents.pending(eng.db, INTENT):
        if await remove.drop_volumes(eng, intent.payload["volumes"]):
            intents.finish(eng.db, intent.id)


def _named(eng: Engine, container: Container, host_config: HostConfig) -> dict[str, MountPoint]:
    """By destination, the mounts that the body asks for and the container does not have."""
    had = {point.destination: point for point in container.record.mounts}
    decided = mounts.decide(eng.store, container.config, host_config, eng.config.data_root)
    return {
        destination: point
        for destination, point in decided.items()
        if destination not in had or ((point.source or point.name) and _identity(point) != _identity(had[destination]))
    }


def _identity(point: MountPoint) -> tuple[str, str, bool]:
    return point.type, point.name or point.source, point.rw
