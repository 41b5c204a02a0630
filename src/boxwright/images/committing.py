"""`docker commit`: what a container has changed becomes a layer, and with it an image above the container's own."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from boxwright.errdefs import InvalidParameter
from boxwright.images import changes as instructions
from boxwright.images import spool
from boxwright.images.image import Image
from boxwright.images.reference import Reference
from boxwright.specs.image import Defaults, History, ImageConfig, encode_config, this_moment
from boxwright.storage.layers import MOST_LAYERS, chain_ids
from boxwright.storage.snapshotter import Source
from boxwright.storage.tarwriter import END

if TYPE_CHECKING:
    from boxwright.images.store import ImageStore


class Wanted(NamedTuple):
    """What the image is to say of itself.  command: what the container ran, for the history."""

    defaults: Defaults
    author: str
    comment: str
    command: Sequence[str]


async def commit(
    store: "ImageStore", stream: AsyncIterator[bytes], parent: Image, wanted: Wanted, name: Reference | None
) -> str:
    """An image of the layer archive `stream` above `parent`; returns its id.  Without a difference it has no layer.

    Nothing exists before the image does.  Raises TooLarge, System; InvalidParameter for too many layers.
    """
    async with spool.received(stream, store.spool.directory) as received:
        identifier = await add(
            store, received, parent, lambda diff_ids, empty: _config(parent, wanted, diff_ids, empty), name
        )
    image = store.load_row(identifier)
    store.announce("create", image, identifier)
    if name is not None:
        store.announce("tag", image, str(name))
    return identifier


async def add(
    store: "ImageStore",
    archive: int | None,
    parent: Image | None,
    config: Callable[[list[str], bool], bytes],
    name: Reference | None = None,
    child: bool = True,
) -> str:
    """An image with a layer more than `parent` (None: than nothing); returns its id, and tells nobody.

    archive: the layer's, a regular file; None or one of no members: there is no further layer.
    config: (diff ids, whether there is no further layer) → the image's configuration.  child: `parent` is remembered.
    Raises InvalidParameter for too many layers, TooLarge, System.
    """
    diff_ids = list(parent.parsed.rootfs.diff_ids) if parent else []
    if len(diff_ids) >= MOST_LAYERS:
        raise InvalidParameter("max depth exceeded")
    try:
        return await _add(store, archive, parent, config, name, diff_ids, child)
    finally:
        store.collect(chain_ids(diff_ids)[-1:])  # what a failure has left without an image


async def _add(
    store: "ImageStore",
    archive: int | None,
    parent: Image | None,
    config: Callable[[list[str], bool], bytes],
    name: Reference | None,
    diff_ids: list[str],
    child: bool,
) -> str:
    """diff_ids: the parent's, to which the new layer's is added."""
    chain = parent.chain_ids if parent else []
    size = 0 if archive is None else os.fstat(archive).st_size
    empty = size <= len(END)
    with store.hold(parent.id) if parent else nullcontext(), store.snapshotter.lease(chain):
        if archive is not None and not empty:
            below = chain[-1] if chain else None
            unpacked = await store.snapshotter.unpack(Source(archive, 0, size), below)
            try:
                await store.snapshotter.complete(unpacked, below)
            except BaseException:
                store.snapshotter.discard(unpacked)
                raise
            # From here to the image's row nothing waits, so nobody can remove the layer meanwhile.
            diff_ids.append(unpacked.diff_id)
            store.snapshotter.commit_layer(unpacked, chain_ids(diff_ids)[-1], below)
        return store.add(config(diff_ids, empty), [name] if name else [], parent.id if parent and child else "")


def _config(parent: Image, wanted: Wanted, diff_ids: list[str], empty: bool) -> bytes:
    step = History(
        created=this_moment(),
        created_by=" ".join(wanted.command),
        author=wanted.author,
        comment=wanted.comment,
        empty_layer=empty,
    )
    return above(parent.parsed, wanted.defaults, diff_ids, step)


def above(below: ImageConfig, config: Defaults, diff_ids: list[str], step: History) -> bytes:
    """The configuration of an image that one step has made of another."""
    made = msgspec.structs.replace(
        below,
        created=step.created,
        author=step.author,
        comment=step.comment,
        docker_version="",
        config=config,
        rootfs=msgspec.structs.replace(below.rootfs, diff_ids=diff_ids),
        history=[*below.history, step],
    )
    return encode_config(made)


def defaults(own: Defaults | None, container: Defaults, changes: Sequence[str]) -> Defaults:
    """The image's configuration: the container's or the one that the client sends, with the changes; what it leaves
    out comes from the container.

    Raises InvalidParameter for a change that is none.
    """
    found = instructions.apply(msgspec.structs.replace(own or container), changes)
    found.user = found.user or container.user
    found.working_dir = found.working_dir or container.working_dir
    found.stop_signal = found.stop_signal or container.stop_signal
    found.exposed_ports = {**(container.exposed_ports or {}), **(found.exposed_ports or {})} or None
    found.volumes = {**(container.volumes or {}), **(found.volumes or {})} or None
    found.labels = {**(container.labels or {}), **(found.labels or {})} or None
    named = {entry.partition("=")[0] for entry in found.env or []}
    found.env = [
        *(found.env or []),
        *(entry for entry in container.env or [] if entry.partition("=")[0] not in named),
    ] or None
    if not found.entrypoint:
        found.cmd = found.cmd or container.cmd
        if found.entrypoint is None:
            found.entrypoint = container.entrypoint
    check, below = found.healthcheck, container.healthcheck
    if check is None or below is None:
        found.healthcheck = check or below
    else:
        pairs = ((name, getattr(check, name) or getattr(below, name)) for name in check.__struct_fields__)
        found.healthcheck = msgspec.structs.replace(check, **dict(pairs))
    return found
