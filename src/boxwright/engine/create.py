"""`POST /containers/create`: from a request to rows, a snapshot and a directory; nothing runs yet.

    check ─ image ─ merge ─ decide mounts and links ─┬─ reserve the name (the intent, one transaction)
                                                     ├─ volumes, directory, snapshot, copy-up
                                                     └─ the rows (one transaction, which ends the intent) ─ `create`

An engine that dies in between finds the intent when it comes back, and `recover` undoes what there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from boxwright.db import intents
from boxwright.engine import clock, links, mounts, names, remove, settings, spec
from boxwright.engine.merge import merge
from boxwright.engine.state import State
from boxwright.engine.store import Record
from boxwright.errdefs import Error, InvalidParameter, NotFound
from boxwright.launcher import exitrecord
from boxwright.storage.snapshotter import HOSTFS

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.mountpoint import MountPoint
    from boxwright.engine.store import Container
    from boxwright.images.image import Image
    from boxwright.types.container import ContainerConfig, HostConfig
    from boxwright.types.network import NetworkingConfig

INTENT = "container.create"

log = logging.getLogger(__name__)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


async def create(
    eng: Engine,
    name: str | None,
    config: ContainerConfig,
    host_config: HostConfig,
    networking: NetworkingConfig | None = None,
    platform: str = "",
) -> dict[str, Any]:
    """Create a container; returns `{"Id": 64 hex digits, "Warnings": […]}`.

    name: None or "" for a random one.  platform: "os/arch[/variant]" or "".
    Raises InvalidParameter (settings, name), NotFound (image, containers that are referred to), Conflict (name),
    NotImplemented_ (fields that are not honoured), System (disk).
    """
    return await eng.shielded(_create(eng, name, config, host_config, networking, platform))


async def _create(
    eng: Engine,
    name: str | None,
    config: ContainerConfig,
    host_config: HostConfig,
    networking: NetworkingConfig | None,
    platform: str,
) -> dict[str, Any]:
    config, host_config = msgspec.structs.replace(config), msgspec.structs.replace(host_config)
    settings.adapt(eng, config, host_config)
    warnings = settings.verify(eng, config, host_config)
    eng.owners.adapt(config, host_config)
    networks = settings.verify_networking(networking)
    await spec.compile_seccomp(eng, host_config)
    if not config.image:
        raise InvalidParameter("no image specified")
    image = eng.images.get(config.image)
    warnings += _platform(config.image, image, platform)
    with eng.images.hold(image.id):
        merge(config, image.defaults)
        points = mounts.decide(eng.store, config, host_config, eng.config.data_root)
        linked = links.resolve(eng.store, host_config)
        id = _new_id()
        complete(config, host_config, id)
        record = Record(
            id=id,
            name=names.clean(name) if name else "",
            created=clock.now(),
            image=image.id,
            path=[*(config.entrypoint or ()), *(config.cmd or ())][0],
            args=[*(config.entrypoint or ()), *(config.cmd or ())][1:],
            config=config,
            host_config=host_config,
            networks=networks,
            mounts=list(points.values()),
            storage_driver=eng.snapshotter.name,
            image_mounts=list(image.mounts),
            image_masked=list(image.masked_paths),
        )
        container = await _make(eng, record, image, points, linked)
    eng.announce(container, "create")
    eng.owners.watch(container)
    return {"Id": id, "Warnings": warnings}


async def _make(
    eng: Engine, record: Record, image: Image, points: dict[str, MountPoint], linked: dict[str, Container]
) -> Container:
    """Everything outside the database, between the intent and the rows."""
    anonymous = {path: os.urandom(32).hex() for path, p in points.items() if p.type == "volume" and not p.name}
    plan = {"volumes": list(anonymous.values())}
    with eng.db.transaction():
        record.name = record.name or names.generate(lambda name: eng.store.graph.find(f"/{name}") is not None)
        eng.store.reserve(record.name, record.id)
        intent = intents.begin(eng.db, INTENT, record.id, plan)
    # From here on nobody removes a volume that this container is about to have.
    eng.claimed_volumes[record.id] = [*anonymous.values(), *(p.name for p in points.values() if p.name)]
    try:
        await mounts.make_volumes(eng, points, anonymous)
        _make_directory(eng.container_dir(record.id))
        await eng.snapshotter.prepare(record.id, image.chain_ids, record=False)
        if image.chain_ids and list(image.chain_ids) != [HOSTFS]:
            await mounts.copy_up(eng, image, points)
        with eng.db.transaction():
            container = eng.store.add(record, State())
            eng.snapshotter.record(record.id)
            links.register(eng.store, record.name, linked)
            intents.finish(eng.db, intent)
    except BaseException:
        del eng.claimed_volumes[record.id]
        await asyncio.shield(_undo_now(eng, intents.Intent(intent, INTENT, record.id, plan)))
        raise
    del eng.claimed_volumes[record.id]
    return container


def _make_directory(path: str) -> None:
    """The container's directory, with the room for its exit record (rule 14: an exit on a full disk)."""
    os.mkdir(path, 0o710)
    record = exitrecord.open_in(path)
    try:
        exitrecord.allocate(record)
    finally:
        os.close(record)


async def _undo_now(eng: Engine, intent: intents.Intent) -> None:
    """`_undo`, as far as the disk lets us: the name is free in any case, the rest is the next engine's."""
    try:
        await _undo(eng, intent)
    except (Error, OSError) as error:
        log.warning("container %s: what a failed create has made cannot be removed now: %s", intent.key, error)
        with contextlib.suppress(Error):
            eng.store.graph.purge(intent.key)


async def _undo(eng: Engine, intent: intents.Intent) -> None:
    """Take away what a create that failed, or was cut short by the engine's death, has made."""
    eng.snapshotter.remove(intent.key)
    eng.trash.discard(eng.container_dir(intent.key))
    await remove.drop_volumes(eng, intent.payload["volumes"])
    with eng.db.transaction():
        eng.store.graph.purge(intent.key)
        intents.finish(eng.db, intent.id)


async def recover(eng: Engine) -> None:
    """At engine start: undo every create that was cut short."""
    for intent in intents.pending(eng.db, INTENT):
        await _undo(eng, intent)


def _new_id() -> str:
    """64 hex digits; the short form is never all decimal: a host name that is a number breaks programs."""
    while True:
        id = os.urandom(32).hex()
        if not id[:12].isdecimal():
            return id


def complete(config: ContainerConfig, host_config: HostConfig, id: str) -> None:
    """Values that Docker decides at create and shows in inspect; changes its arguments."""
    if not config.hostname:
        config.hostname = os.uname().nodename if host_config.network_mode == "host" else id[:12]
    if not host_config.privileged:
        if host_config.masked_paths is None:
            host_config.masked_paths = spec.MASKED_PATHS
        if host_config.readonly_paths is None:
            host_config.readonly_paths = spec.READONLY_PATHS


def _platform(ref: str, image: Image, wanted: str) -> list[str]:
    """Raises NotFound when the image is not of the platform that was asked for; warns when it is not the host's."""
    os_name, _, rest = wanted.partition("/")
    architecture = rest.partition("/")[0]
    present = f"{image.os or 'linux'}/{image.architecture}"
    if wanted:
        if (os_name or image.os) != (image.os or "linux") or (architecture or image.architecture) != image.architecture:
            raise NotFound(
                f"image with reference {ref} was found but its platform ({present}) "
                f"does not match the specified platform ({wanted})"
            )
        return []
    machine = os.uname().machine
    host = _ARCHITECTURES.get(machine, machine)
    if image.architecture in ("", host):
        return []
    return [
        f"The requested image's platform ({present}) does not match the detected host platform (linux/{host}) "
        "and no specific platform was requested"
    ]
