"""A whole look at a host and at one data root, and the mending of what is orphaned."""

import select
from collections.abc import Iterator

from boxwright.config import Settings
from boxwright.doctor import files, host, kernel, known, shims
from boxwright.doctor.findings import Finding
from boxwright.errdefs import Conflict, Error, System
from boxwright.storage.overlay import MOUNT_POINTS

# Seconds between the two looks at a running engine: what is being made or removed is no finding, what stays is.
BETWEEN = 1.0


def examine(settings: Settings) -> list[Finding]:
    """What is wrong; raises System when a database that is there cannot be read."""
    found = known.read(settings.data_root)
    result = list(host.check(settings.data_root, found.instance if found else ""))
    if found is None:
        return result
    with known.owned(settings.data_root) as ours:
        objects = list(_objects(settings))
        if ours:
            return result + objects + list(_intents(settings))
    select.select([], [], [], BETWEEN)
    again = {finding.key for finding in _objects(settings)}
    return result + [finding for finding in objects if finding.key in again]


def _objects(settings: Settings) -> Iterator[Finding]:
    found = known.read(settings.data_root)
    if found is not None:
        yield from shims.check(settings.exec_root, found)  # first: what they run is in a cgroup, the next find
        yield from kernel.check(settings.data_root, found, settings.cgroup_parent)
        yield from files.check(settings.data_root, found, {MOUNT_POINTS})


def _intents(settings: Settings) -> Iterator[Finding]:
    found = known.read(settings.data_root)
    for kind, key in found.intents if found else ():
        yield Finding(
            "warning", "operation", f"{kind} {key}", "it was interrupted", "the engine's next start finishes it"
        )


def repair(settings: Settings) -> tuple[list[Finding], list[tuple[Finding, str]]]:
    """Take every orphan away: (mended, [(finding, why not)]).

    Raises Conflict while an engine runs on the data root: it sees to its own, and mending would race with it.
    """
    with known.owned(settings.data_root) as ours:
        if not ours:
            raise Conflict(
                f"an engine is using {settings.data_root}: stop it first (containers run on), or restart it:"
                " it mends the same"
            )
        mended: list[Finding] = []
        failed: list[tuple[Finding, str]] = []
        for finding in list(_objects(settings)):
            if finding.mend is None:
                continue
            try:
                finding.mend()
                mended.append(finding)
            except (Error, System, OSError) as error:
                failed.append((finding, str(error)))
        return mended, failed
