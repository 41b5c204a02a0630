"""Mounts of a container: decided at create, made ready at each start, given back at the exit, and put into the spec.

Of two mounts for one place the stronger one counts: an image's VOLUME gives way to `-v`, `--mount`, `--tmpfs` and
`--volumes-from`; a bind or `--mount` replaces what came with `--volumes-from`; to name a place twice is refused.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any

from boxwright.engine import mountspec
from boxwright.engine.mountpoint import MountPoint
from boxwright.errdefs import Error, InvalidParameter, StepError, System

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container, Record, Store
    from boxwright.images.image import Image
    from boxwright.types.container import ContainerConfig, HostConfig

log = logging.getLogger(__name__)

FILES = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts")
"""Files that the engine writes for a container and binds over the image's."""


def decide(store: Store, config: ContainerConfig, host_config: HostConfig, data_root: str) -> dict[str, MountPoint]:
    """The container's mounts by destination; volumes have no data yet, anonymous ones no name.

    data_root: binds that hold it are slaves, so that what the engine mounts there is not kept busy by a container.
    Raises InvalidParameter with Docker's texts.
    """
    points: dict[str, MountPoint] = {}
    for text in host_config.volumes_from or ():
        points |= _inherited(store, text)
    chosen: dict[str, MountPoint] = {}
    tmpfs = {mountspec.clean(path) for path in host_config.tmpfs or ()}
    for text in host_config.binds or ():
        _choose(chosen, tmpfs, mountspec.parse_bind(text, host_config.volume_driver))
    for mount in host_config.mounts or ():
        _choose(chosen, tmpfs, mountspec.parse_mount(mount))
    points |= chosen
    for path in config.volumes or ():
        destination = mountspec.volume_destination(path)
        if destination not in points and destination not in tmpfs and destination != "/":
            driver = host_config.volume_driver
            points[destination] = MountPoint(type="volume", destination=destination, driver=driver, copy=True)
    for point in points.values():
        if point.type == "bind" and not point.propagation:
            point.propagation = "rslave" if _holds(point.source, data_root) else "rprivate"
    return points


def _choose(chosen: dict[str, MountPoint], tmpfs: set[str], point: MountPoint) -> None:
    if point.destination in chosen or point.destination in tmpfs:
        raise InvalidParameter(f"Duplicate mount point: {point.destination}")
    chosen[point.destination] = point


def _inherited(store: Store, text: str) -> dict[str, MountPoint]:
    """The mounts that `--volumes-from` brings: copies, read-only when asked."""
    name, mode = mountspec.parse_volumes_from(text)
    found: dict[str, MountPoint] = {}
    donor = store.find(name)
    if donor is None:
        raise InvalidParameter(f"No such container: {name}")
    for point in donor.record.mounts:
        if point.type == "tmpfs":
            continue
        copy = MountPoint(**{field: getattr(point, field) for field in MountPoint.__struct_fields__})
        copy.rw = point.rw and "ro" not in mode.split(",")
        copy.mode, copy.copy, copy.create_source = mode if point.type == "volume" else copy.mode, False, False
        found[copy.destination] = copy
    return found


async def make_volumes(eng: Engine, points: dict[str, MountPoint], names: dict[str, str]) -> None:
    """Make the volumes that do not exist yet; `names` gives anonymous ones theirs, by destination.

    Raises InvalidParameter and NotFound with the volume driver's texts.
    """
    for destination, point in points.items():
        if point.type != "volume":
            continue
        anonymous = not point.name
        if anonymous:
            point.name = names[destination]
        volume = await eng.volumes.create(
            point.name, point.driver, point.volume_options, point.labels, anonymous=anonymous
        )
        point.source, point.driver = volume["Mountpoint"], volume["Driver"]
        if not anonymous and point.named and not point.mode and point.driver == "local":
            point.mode = "z"  # what Docker shows for a volume whose user gave no mode


async def copy_up(eng: Engine, image: Image, points: dict[str, MountPoint]) -> None:
    """Give empty new volumes the image's files."""
    for point in points.values():
        if point.type == "volume" and point.copy:
            view = eng.snapshotter.view(image.chain_ids)
            await eng.volumes.copy_up(point.name, view, point.destination, point.subpath)


async def prepare(eng: Engine, container: Container) -> None:
    """Before a start: mount the volumes and make missing sources of binds.

    Raises StepError (step "mounts") that names the path.  `release` undoes it, also half done.
    """
    for point in container.record.mounts:
        if point.type == "volume":
            await _mount_volume(eng, container, point)
        elif point.type == "bind":
            _check_source(point)
            if point.propagation not in ("", "private", "rprivate"):
                _check_propagation(point, eng.config.data_root)


async def _mount_volume(eng: Engine, container: Container, point: MountPoint) -> None:
    try:
        point.source = await eng.volumes.mount(point.name, container.id, point.destination, point.rw)
    except System as error:
        raise System(f"error while mounting volume '{point.source}': {error}") from error


def _check_source(point: MountPoint) -> None:
    try:
        if point.create_source and not os.path.lexists(point.source):
            os.makedirs(point.source, 0o755, exist_ok=True)
        os.stat(point.source)
    except OSError as error:
        what = "error while creating mount source path" if point.create_source else "invalid mount source path"
        raise StepError(
            f"{what} '{point.source}': {error.strerror}",
            step="mounts",
            operation="mkdir" if point.create_source else "stat",
            path=point.source,
            errno=error.errno or 0,
            hint="the source of a bind mount has to exist on the engine's host",
        ) from error


def _check_propagation(point: MountPoint, data_root: str) -> None:
    """A shared or slave bind needs a mount of the host that shares: otherwise nothing would propagate, in silence.

    Binds that hold the data root are slaves by our own choice and take what they get.
    """
    mount, fields = _mount_of(os.path.realpath(point.source))
    shared = any(field.startswith("shared:") for field in fields)
    if point.propagation in ("shared", "rshared"):
        wanted, met = "a shared mount", shared
    else:
        wanted, met = "a shared or slave mount", shared or any(field.startswith("master:") for field in fields)
    if met or (wanted != "a shared mount" and _holds(point.source, data_root)):
        return
    raise StepError(
        f"path {point.source} is mounted on {mount} but it is not {wanted}",
        step="mounts",
        path=point.source,
        hint=f"mount --make-rshared {mount} on the engine's host",
    )


def _mount_of(path: str) -> tuple[str, list[str]]:
    """(mount point, optional fields) of the host's mount that `path` is on, from proc(5) mountinfo."""
    best, found = "", []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            # Of two mounts on one place the later one is seen.
            if _holds(place, path) and len(place) >= len(best):
                best, found = place, fields[6 : fields.index("-")]
    return best, found


def _holds(above: str, below: str) -> bool:
    return (below + "/").startswith(above.rstrip("/") + "/")


async def release(eng: Engine, container: Container) -> None:
    """After the exit: the container uses its volumes no longer.  Raises the first failure, when all have been tried."""
    failed: Error | None = None
    for point in container.record.mounts:
        if point.type == "volume":
            try:
                await eng.volumes.unmount(point.name, container.id)
            except Error as error:
                failed = failed or error
    if failed is not None:
        raise failed


async def give_back(eng: Engine, container: Container) -> None:
    """`release` after a start that failed, whose reason is what people are to hear."""
    try:
        await release(eng, container)
    except Error as error:
        log.warning("container %s: its volumes stay mounted: %s", container.id, error)


def users_of(eng: Engine, volume: str) -> list[str]:
    """Ids of the containers that have the volume: running, at rest, or just being created."""
    found = [c.id for c in eng.store if any(p.type == "volume" and p.name == volume for p in c.record.mounts)]
    return found + [id for id, names in eng.claimed_volumes.items() if volume in names and id not in found]


def files_directory(eng: Engine, container: Container) -> str:
    """Where the container's hosts, hostname and resolv.conf are: with the container whose network it uses."""
    seen = set()
    while (mode := container.host_config.network_mode).startswith("container:") and container.id not in seen:
        seen.add(container.id)
        found = eng.store.find(mode.partition(":")[2])
        if found is None:
            break
        container = found
    return eng.container_dir(container.id)


def to_spec(record: Record, container_dir: str) -> list[dict[str, Any]]:
    """The OCI mounts of the user and of the engine's files (in `container_dir`), parents before children."""
    host_config = record.host_config
    found = {point.destination: _to_oci(point) for point in record.mounts}
    for path, text in (host_config.tmpfs or {}).items():
        destination = mountspec.clean(path)
        found[destination] = _tmpfs(destination, mountspec.tmpfs_options(text))
    for path in FILES:
        if path not in found:
            options = ["rbind", "rprivate"] + (["ro"] if host_config.readonly_rootfs else [])
            source = f"{container_dir}/{path.rpartition('/')[2]}"
            found[path] = {"destination": path, "type": "bind", "source": source, "options": options}
    return sorted(found.values(), key=lambda mount: mount["destination"].count("/"))


def _to_oci(point: MountPoint) -> dict[str, Any]:
    if point.type == "tmpfs":
        return _tmpfs(point.destination, point.options)
    options = ["bind" if point.non_recursive else "rbind", point.propagation or "rprivate"]
    if not point.rw:
        recursive = not (point.non_recursive or point.read_only_non_recursive)
        options.append("rro" if recursive else "ro")
    mount = {"destination": point.destination, "type": "bind", "source": point.source, "options": options}
    return {**mount, "subpath": point.subpath} if point.subpath else mount


def _tmpfs(destination: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}
