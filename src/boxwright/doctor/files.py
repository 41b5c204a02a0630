"""Directories, files and mounts of ours against the database."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial

from boxwright.doctor.findings import Finding, orphan
from boxwright.doctor.known import Known
from boxwright.linux import mount
from boxwright.trees.trash import Trash

_DETACH, _NOFOLLOW = 2, 8  # MNT_DETACH, UMOUNT_NOFOLLOW


def check(data_root: str, known: Known, kept: set[str]) -> Iterator[Finding]:
    """kept: names below a snapshot driver's directory that have no row and belong there."""
    yield from _mounts(data_root, known)  # first: what is mounted in a directory keeps it from being deleted
    yield from _directories(data_root, known, kept)
    yield from _lost(data_root, known)


def _directories(data_root: str, known: Known, kept: set[str]) -> Iterator[Finding]:
    places: list[tuple[str, str, Callable[[str], bool], str]] = [
        ("container directory", "containers", known.containers.__contains__, "no container has this id"),
        ("volume", "volumes", known.volumes.__contains__, "no volume has this name"),
        ("blob", "content/blobs/sha256", lambda n: f"sha256:{n}" in known.blobs, "no image has this blob"),
        *(
            (
                "snapshot",
                f"snapshots/{driver}",
                lambda n: n in known.storage or n in kept,
                "no container, no image has it",
            )
            for driver in _names(f"{data_root}/snapshots")
        ),
        ("temporary file", "tmp", lambda n: False, "half made or half deleted by an engine that is gone"),
    ]
    for kind, folder, belongs, problem in places:
        for name in _names(f"{data_root}/{folder}"):
            if not belongs(name):
                path = f"{data_root}/{folder}/{name}"
                yield orphan(kind, path, problem, _deletion(data_root, path))


def _deletion(data_root: str, path: str) -> Callable[[], None]:
    def delete() -> None:
        trash = Trash(f"{data_root}/tmp")
        try:
            trash.discard(path)
        finally:
            trash.close()

    return delete


def _lost(data_root: str, known: Known) -> Iterator[Finding]:
    """Rows whose files are gone: nothing brings them back, so nothing is mended."""
    drivers = _names(f"{data_root}/snapshots")
    for directory, what in known.storage.items():
        if not any(os.path.isdir(f"{data_root}/snapshots/{driver}/{directory}") for driver in drivers):
            advice = "load the image again" if what.startswith("layer") else "remove the container"
            yield Finding("error", what.split()[0], what.split()[1], "its directory is gone", advice)
    for id in known.containers:
        if not os.path.isdir(f"{data_root}/containers/{id}"):
            yield Finding("error", "container directory", id, "it is gone", "remove the container")
    for name, driver in known.volumes.items():
        if driver == "local" and not os.path.isdir(f"{data_root}/volumes/{name}"):
            yield Finding("error", "volume", name, "its directory is gone", "restore it, or remove the volume")
    for digest in known.blobs:
        if not os.path.isfile(f"{data_root}/content/blobs/sha256/{digest[7:]}"):
            yield Finding("error", "blob", digest, "its file is gone", "load the image again")


def _mounts(data_root: str, known: Known) -> Iterator[Finding]:
    root = os.path.realpath(data_root)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4]) for line in file]
    for point in reversed(points):  # what was mounted last is on top
        place, _, rest = point.removeprefix(f"{root}/").partition("/")
        volume = place == "volumes" and rest.partition("/")[0] in known.volumes
        if point.startswith(f"{root}/") and place in ("volumes", "tmp") and not volume:
            yield orphan("mount", point, "no volume is there", partial(mount.umount, point, _DETACH | _NOFOLLOW))


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
