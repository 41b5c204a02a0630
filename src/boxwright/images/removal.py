"""`docker rmi`: take a name away, and the image with its last one.

Conflicts are soft (a reference, a stopped container: `force` overrides them) or hard (a running container, images made
out of this one).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from boxwright.errdefs import Conflict, InvalidParameter
from boxwright.images import hostfs, reference
from boxwright.images.image import Image
from boxwright.images.reference import Reference
from boxwright.storage.snapshotter import HOSTFS

if TYPE_CHECKING:
    from boxwright.images.store import ImageStore

Containers = Sequence[tuple[str, bool]]
Records = list[dict[str, str]]


def remove(store: "ImageStore", text: str, force: bool, noprune: bool, in_use: Callable[[str], Containers]) -> Records:
    """Returns what went: {"Untagged": name} and {"Deleted": image or chain id}, in order."""
    image = store.get(text)
    if image.chain_ids == [HOSTFS]:
        raise InvalidParameter(f"{hostfs.NAME} is a built-in image and cannot be removed")
    names = store.names(image.id)
    records: Records = []
    by_name = not _is_prefix(image.id, text)
    if by_name:
        if not force and _single(names) and (containers := in_use(image.id)):
            raise Conflict(
                f'conflict: unable to remove repository reference "{text}" (must force) - container'
                f" {_short(containers[0][0])} is using its referenced image {_short(image.id)}"
            )
        _untag(store, image, _given(text, names), records)
        if store.names(image.id):
            return records
    elif _single(names):
        _check(store, image, in_use, hard=True, stopped=not force)
        for name in names:
            store.unname(name)
            store.announce("untag", image, image.id)
            records.append({"Untagged": str(name)})
    _delete(store, image, in_use, records, force=force, prune=not noprune, quiet=by_name)
    return records


def _untag(store: "ImageStore", image: Image, name: Reference, records: Records) -> None:
    """Take `name` away, and with the last tag of a repository its digests."""
    store.unname(name)
    store.announce("untag", image, image.id)
    records.append({"Untagged": str(name)})
    left = [other for other in store.names(image.id) if other.name == name.name]
    if not name.digest and all(other.digest for other in left):
        for other in left:
            store.unname(other)
            records.append({"Untagged": str(other)})


def _delete(
    store: "ImageStore",
    image: Image,
    in_use: Callable[[str], Containers],
    records: Records,
    *,
    force: bool,
    prune: bool,
    quiet: bool,
) -> None:
    """Delete the image, then, with `prune`, the ones it was made out of that nobody needs.

    quiet: a conflict ends it without an error, unless the image would be left without a name and unused.
    """
    try:
        _check(store, image, in_use, hard=True, named=not force, stopped=not force)
    except Conflict:
        needed = store.names(image.id) or store.children(image.id) or in_use(image.id) or store.held(image.id)
        if quiet and needed:
            return
        raise
    for name in store.names(image.id):
        store.unname(name)
        store.announce("untag", image, image.id)
        records.append({"Untagged": str(name)})
    layers = store.forget(image)
    store.announce("delete", image, image.id)
    records.append({"Deleted": image.id})
    records.extend({"Deleted": chain_id} for chain_id in layers)
    if prune and image.parent:
        _delete(store, store.load_row(image.parent), in_use, records, force=False, prune=True, quiet=True)


def _check(
    store: "ImageStore",
    image: Image,
    in_use: Callable[[str], Containers],
    *,
    hard: bool = False,
    named: bool = False,
    stopped: bool = False,
) -> None:
    """Raise Conflict for the first reason, of the kinds that are asked for, not to delete the image."""
    containers = in_use(image.id)
    running = [name for name, is_running in containers if is_running]
    at_rest = [name for name, is_running in containers if not is_running]
    reason = force = ""
    if hard and store.children(image.id):
        force, reason = "cannot be forced", "image has dependent child images"
    elif hard and running:
        force, reason = "cannot be forced", f"image is being used by running container {_short(running[0])}"
    elif hard and store.held(image.id):
        force, reason = "cannot be forced", "a container is being created from the image"
    elif named and store.names(image.id):
        force, reason = "must be forced", "image is referenced in multiple repositories"
    elif stopped and at_rest:
        force, reason = "must be forced", f"image is being used by stopped container {_short(at_rest[0])}"
    if reason:
        raise Conflict(f"conflict: unable to delete {_short(image.id)} ({force}) - {reason}")


def _given(text: str, names: list[Reference]) -> Reference:
    """Which of the image's names `text` is."""
    given = reference.parse(text)
    wanted = given._replace(tag="") if given.digest else given.with_default_tag()
    return next(name for name in names if name == wanted)


def _single(names: list[Reference]) -> bool:
    """Whether there is one tag at most, and digests, if any, of its repository only."""
    tags = [name for name in names if not name.digest]
    repositories = {name.name for name in names}
    return bool(names) and len(tags) <= 1 and len(repositories) == 1


def _is_prefix(identifier: str, text: str) -> bool:
    return identifier.startswith(text) or identifier.partition(":")[2].startswith(text)


def _short(identifier: str) -> str:
    """The twelve digits that people see."""
    return identifier.removeprefix("sha256:")[:12]
