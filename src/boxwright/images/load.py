"""`docker load`: a stream of one or more images into the store.

The stream is spooled to an unnamed file.  A confined job expands it if it is compressed, another one lists it; then the
layers, which are ranges of that file, are unpacked side by side, straight out of it.  Nothing exists before its diff id
has been found right.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from boxwright.errdefs import InvalidParameter
from boxwright.images import spool
from boxwright.images.archives import Archive, Member, Planned
from boxwright.images.image import host_architecture
from boxwright.storage.content import digest_of
from boxwright.storage.layers import chain_ids
from boxwright.storage.snapshotter import Snapshotter, Source, Unpacked

if TYPE_CHECKING:
    from boxwright.images.store import Emit, ImageStore

# Layers unpacked at once: the work is the processor's.
AT_ONCE = max(2, os.cpu_count() or 1)
# Members of an archive of images.
MOST_MEMBERS = 50_000


class Wanted:
    """A layer to be unpacked: what it has to turn out as."""

    __slots__ = ("chain_id", "diff_id", "member", "number", "parent")

    def __init__(self, number: int, member: Member, diff_id: str, chain_id: str, parent: str | None) -> None:
        self.number, self.member, self.diff_id, self.chain_id, self.parent = number, member, diff_id, chain_id, parent


async def load(store: "ImageStore", stream: AsyncIterator[bytes], quiet: bool, emit: "Emit") -> Sequence[str]:
    """Returns the ids of the images; tells `emit` about them as dockerd does.

    Raises InvalidParameter for what is no archive of images, TooLarge, System.
    """
    directory = store.spool.directory
    with spool.unnamed(directory) as received, spool.unnamed(directory) as second:
        await spool.receive(stream, received)
        archive = await spool.expanded(store.jobs, received, second)
        listed = await store.jobs.run("archive.index", {"limit": MOST_MEMBERS}, [archive])

        def read(member: Member, limit: int, what: str) -> bytes:
            return spool.read(archive, member.position, member.size, limit, what)

        plan = await asyncio.to_thread(Archive(listed["members"], read).plan, host_architecture())
        chains = [chain_ids(image.parsed.rootfs.diff_ids) for image in plan]
        try:
            with ExitStack() as leases:
                for chain in chains:
                    leases.enter_context(store.snapshotter.lease(chain))
                await _unpack(store.snapshotter, archive, _wanted(store.snapshotter, plan), None if quiet else emit)
                return [_add(store, image, emit) for image in plan]
        finally:
            for chain in chains:  # what a failure has left without an image
                store.collect(chain)


def _wanted(snapshotter: Snapshotter, plan: list[Planned]) -> list[Wanted]:
    """The layers that do not exist yet, each once, below before above."""
    wanted: dict[str, Wanted] = {}
    for image in plan:
        chain = chain_ids(image.parsed.rootfs.diff_ids)
        for number, (member, diff_id, chain_id) in enumerate(
            zip(image.layers, image.parsed.rootfs.diff_ids, chain, strict=True)
        ):
            if chain_id not in wanted and not snapshotter.has_layer(chain_id):
                parent = chain[number - 1] if number else None
                wanted[chain_id] = Wanted(number, member, diff_id, chain_id, parent)
    return list(wanted.values())


async def _unpack(snapshotter: Snapshotter, archive: int, wanted: list[Wanted], emit: "Emit | None") -> None:
    """Unpack what is wanted and commit it; all together or, where a layer needs the one below, one by one."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(layer: Wanted) -> Unpacked:
        async with limit:
            source = Source(archive, layer.member.position, layer.member.size)
            unpacked = await snapshotter.unpack(source, layer.parent, _reporter(layer, emit))
        if unpacked.diff_id != layer.diff_id:
            snapshotter.discard(unpacked)
            raise InvalidParameter(
                f'invalid diffID for layer {layer.number}: expected "{layer.diff_id}", got "{unpacked.diff_id}"'
            )
        return unpacked

    if not snapshotter.independent:
        for layer in wanted:
            await _commit(snapshotter, await one(layer), layer)
        return
    # The largest first: it decides how long all of them take.
    order = sorted(range(len(wanted)), key=lambda index: -wanted[index].member.size)
    tasks = {index: asyncio.ensure_future(one(wanted[index])) for index in order}
    try:
        for index, layer in enumerate(wanted):
            unpacked = await tasks[index]
            del tasks[index]  # from here on it is for us to discard
            await _commit(snapshotter, unpacked, layer)
    finally:
        for task in tasks.values():
            task.cancel()
        for result in await asyncio.gather(*tasks.values(), return_exceptions=True):
            if isinstance(result, Unpacked):
                snapshotter.discard(result)


async def _commit(snapshotter: Snapshotter, unpacked: Unpacked, layer: Wanted) -> None:
    try:
        await snapshotter.complete(unpacked, layer.parent)
    except BaseException:
        snapshotter.discard(unpacked)
        raise
    snapshotter.commit_layer(unpacked, layer.chain_id, layer.parent)


def _reporter(layer: Wanted, emit: "Emit | None") -> Callable[[int], None] | None:
    if emit is None:
        return None
    total = layer.member.size

    def report(done: int) -> None:
        emit(progress(layer.diff_id, min(done, total), total))

    report(0)
    return report


def progress(diff_id: str, current: int, total: int) -> dict[str, Any]:
    """A progress message of one layer; bytes."""
    return {
        "status": "Loading layer",
        "progressDetail": {"current": current, "total": total},
        "id": diff_id.partition(":")[2][:12],
    }


def _add(store: "ImageStore", image: Planned, emit: "Emit") -> str:
    own = digest_of(image.config)
    for name in image.names:
        old = store.named(name)
        if old is not None and old != own:
            emit({"stream": f"The image {name} already exists, renaming the old one with ID {old} to empty string\n"})
    identifier = store.add(image.config, image.names)
    store.announce("load", store.load_row(identifier), identifier)
    for name in image.names:
        emit({"stream": f"Loaded image: {name}\n"})
    if not image.names:
        emit({"stream": f"Loaded image ID: {identifier}\n"})
    return identifier
