"""`docker update`: new limits and a new restart policy for a container, whether it runs or not.

The intent comes first: the new configuration is written together with the old one, then the shim sets the cgroup's
files, all of them or none, and then the old one is dropped, or comes back when the kernel refused.  An engine that died
in between leaves the old one to find, and the next asks the kernel again (`recover`).
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from boxwright.engine import hostinfo, resources, settings
from boxwright.engine.state import Operation, Status
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotImplemented_, StepError, System
from boxwright.types.container import HostConfig, RestartPolicy, UpdateRequest

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.execdriver import Running

# What may change in a container's life; any other field of the body is refused when it is not zero.
FIELDS = (
    "blkio_weight",
    "cpu_shares",
    "nano_cpus",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_swap",
    "memory_reservation",
    "pids_limit",
)
# Checked or discarded with a warning by `resources.verify`, as at create.
_FOREIGN = ("cpu_percent", "io_maximum_iops", "io_maximum_bandwidth")

# A value that the kernel does not take for one of its cgroup files is the client's mistake.
_REFUSED_BY_THE_KERNEL = (errno.EINVAL, errno.ERANGE)

log = logging.getLogger(__name__)


async def update(eng: Engine, name: str, wanted: UpdateRequest) -> dict[str, Any]:
    """`{"Warnings": […]}`; what `wanted` leaves zero stays as it is.

    Raises NotFound; InvalidParameter, Conflict and System in Docker's words; NotImplemented_ for a field that a living
    container cannot have changed.
    """
    container = eng.store.get(name)
    _refuse_fixed(wanted)
    warnings = resources.verify(wanted, hostinfo.host(), update=True)
    _verify_policy(wanted.restart_policy)
    await eng.shielded(_update(eng, container, wanted))
    return {"Warnings": warnings or None}


async def recover(eng: Engine, container: Container) -> None:
    """Finish an update that the last engine began; undo it when the kernel refuses it."""
    before = container.record.before_update
    if before is None:
        return
    changed = _difference(before, container.host_config)
    try:
        await _apply(container, changed, container.host_config)
    except Error as error:
        log.warning("container %s: an interrupted update is undone: %s", container.id, error)
        eng.store.replace(container, host_config=before, before_update=None)
        return
    eng.store.replace(container, before_update=None)


def _refuse_fixed(wanted: UpdateRequest) -> None:
    plain = UpdateRequest()
    fields = zip(UpdateRequest.__struct_fields__, UpdateRequest.__struct_encode_fields__, strict=True)
    for name, key in fields:
        if name in FIELDS or name in _FOREIGN or name == "restart_policy":
            continue
        # Null, [] and zero ask for nothing alike.
        if getattr(wanted, name) and getattr(wanted, name) != getattr(plain, name):
            raise NotImplemented_(f"{key} of a container cannot be updated")


def _verify_policy(policy: RestartPolicy) -> None:
    if policy.name:
        settings.verify_restart(HostConfig(restart_policy=policy))
    elif policy.maximum_retry_count:
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")


async def _update(eng: Engine, container: Container, wanted: UpdateRequest) -> None:
    try:
        async with eng.store.claim(container, Operation.UPDATING):
            if container.state.status in (Status.REMOVING, Status.DEAD):
                raise Conflict('container is marked for removal and cannot be "update"')
            before = container.host_config
            after = _merged(before, wanted)
            eng.store.replace(container, host_config=after, before_update=before)
            try:
                await _apply(container, wanted, after)
            except BaseException:
                if not container.gone:
                    eng.store.replace(container, host_config=before, before_update=None)
                raise
            if not container.gone:
                eng.store.replace(container, before_update=None)
    except Conflict as error:
        raise Conflict(f"Cannot update container {container.id}: {error}") from None
    except Error as error:
        if isinstance(error, StepError) and error.errno in _REFUSED_BY_THE_KERNEL:
            raise InvalidParameter(f"Cannot update container {container.id}: {error}") from error
        if not isinstance(error, NotImplemented_ | InvalidParameter) and not container.gone:
            raise System(f"Cannot update container {container.id}: {error}") from error
        raise
    eng.announce(container, "update")


def _merged(old: HostConfig, wanted: UpdateRequest) -> HostConfig:
    """`old` with what `wanted` sets; raises Conflict for what does not go with what is set already."""
    for given, held, one, other in (
        (wanted.nano_cpus, old.cpu_period, "Nano CPUs", "CPU Period"),
        (wanted.nano_cpus, old.cpu_quota, "Nano CPUs", "CPU Quota"),
        (wanted.cpu_period, old.nano_cpus, "CPU Period", "NanoCPUs"),
        (wanted.cpu_quota, old.nano_cpus, "CPU Quota", "NanoCPUs"),
    ):
        if given > 0 and held > 0:
            raise Conflict(f"Conflicting options: {one} cannot be updated as {other} has already been set")
    if wanted.memory > old.memory_swap and wanted.memory_swap == 0 and old.memory_swap != -1:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if wanted.memory_swap > 0 and not wanted.memory and wanted.memory_swap < old.memory:
        raise Conflict("Minimum memoryswap limit should be larger than memory limit, see usage")
    if wanted.restart_policy.name not in ("", "no") and old.auto_remove:
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
    changes = {name: getattr(wanted, name) for name in FIELDS if getattr(wanted, name) not in (None, 0, "")}
    if wanted.pids_limit is not None:
        changes["pids_limit"] = max(wanted.pids_limit, 0)  # any negative number is "unlimited", which Docker keeps as 0
    if wanted.restart_policy.name:
        changes["restart_policy"] = wanted.restart_policy
    return msgspec.structs.replace(old, **changes)


def _difference(old: HostConfig, new: HostConfig) -> UpdateRequest:
    """The request that leads from `old` to `new`."""
    return UpdateRequest(**{name: getattr(new, name) for name in FIELDS if getattr(new, name) != getattr(old, name)})


async def _apply(container: Container, wanted: UpdateRequest, after: HostConfig) -> None:
    """Set what `wanted` names on the cgroup of a running container, whose configuration is then `after`."""
    asked = wanted
    if wanted.memory and not wanted.memory_swap:
        # On cgroup v2 the file counts swap alone: with the memory limit it changes too.
        asked = msgspec.structs.replace(wanted, memory_swap=after.memory_swap)
    document = resources.to_spec(asked)
    if wanted.pids_limit is not None:
        document["pids"] = {"limit": max(wanted.pids_limit, 0) or -1}
    life = container.running
    if life is not None and document:
        await _set(life, document)


async def _set(life: Running, document: dict[str, Any]) -> None:
    try:
        await life.update(document)
    except Conflict:
        if not life.exit.done():
            raise
        # It has ended meanwhile: its next life begins with the new limits.
