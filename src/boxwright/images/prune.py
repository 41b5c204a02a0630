"""`docker image prune`: images that nobody needs, and how much their layers took."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from boxwright.errdefs import Conflict, InvalidParameter, NotFound
from boxwright.images import listing

if TYPE_CHECKING:
    from boxwright.images.store import ImageStore

_ACCEPTED = frozenset({"dangling", "label", "label!", "until"})


def prune(
    store: "ImageStore", filters: dict[str, list[str]], in_use: Callable[[str], Sequence[tuple[str, bool]]]
) -> dict[str, Any]:
    """The body of `POST /images/prune`; what a container uses stays.

    filters: dangling (true unless it is said otherwise), until, label, label!.  Raises InvalidParameter.
    """
    for name in filters:
        if name not in _ACCEPTED:
            raise InvalidParameter(f"invalid filter '{name}'")
    dangling = listing.boolean("dangling", filters.get("dangling", [])) is not False
    if len(filters.get("until", [])) > 1:
        raise InvalidParameter("more than one until filter specified")
    checks = listing.checks(store, {name: values for name, values in filters.items() if name != "dangling"})
    sizes = {row[0]: row[1] for row in store.db.query("SELECT chain_id, size FROM layers")}
    deleted: list[dict[str, str]] = []
    for image in store.all():
        names = store.names(image.id)
        parent = bool(store.children(image.id))
        if (parent and (dangling or not names)) or not listing.all_pass(checks, image):
            continue
        if dangling and any(not name.digest for name in names):
            continue
        for text in [str(name) for name in names] or [image.id]:
            try:
                deleted += store.remove(text, False, False, in_use)
            except (Conflict, NotFound):
                continue  # a container uses it, or it went with one before it
    freed = sum(sizes.get(record["Deleted"], 0) for record in deleted if "Deleted" in record)
    store.publish("image", "prune", "", {"reclaimed": str(freed)})
    return {"ImagesDeleted": deleted or None, "SpaceReclaimed": freed}
