"""`docker import`: a file system archive becomes an image of one layer."""

import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from boxwright.errdefs import InvalidParameter
from boxwright.images import changes as instructions
from boxwright.images import download, hostfs, reference, spool
from boxwright.images.distribution import messages
from boxwright.images.image import host_architecture
from boxwright.images.reference import Reference
from boxwright.specs.image import Defaults, History, ImageConfig, RootFS, encode_config, this_moment
from boxwright.storage.snapshotter import Source

if TYPE_CHECKING:
    from boxwright.images.store import Emit, ImageStore


async def import_(
    store: "ImageStore",
    stream: AsyncIterator[bytes],
    repo: str,
    tag: str,
    changes: Sequence[str],
    message: str,
    platform: str,
    emit: "Emit | None",
) -> str:
    """Returns the image's id, and tells `emit` {"status": id}.

    Raises InvalidParameter for a bad name, change, platform or archive; TooLarge, System.
    """
    names = [target(repo, tag)] if repo else []
    defaults = instructions.apply(Defaults(), changes)
    architecture, variant = _platform(platform)
    async with spool.received(stream, store.spool.directory) as received:
        source = Source(received, 0, os.fstat(received).st_size)
        unpacked = await store.snapshotter.unpack(source, None)
    try:
        await store.snapshotter.complete(unpacked, None)
    except BaseException:
        store.snapshotter.discard(unpacked)
        raise
    # From here to the image's row nothing waits, so nobody can remove the layer meanwhile.
    store.snapshotter.commit_layer(unpacked, unpacked.diff_id, None)
    created = this_moment()
    comment = message or "Imported from -"
    config = ImageConfig(
        architecture=architecture,
        variant=variant,
        os="linux",
        created=created,
        comment=comment,
        config=defaults,
        rootfs=RootFS(diff_ids=[unpacked.diff_id]),
        history=[History(created=created, comment=comment)],
    )
    identifier = store.add(encode_config(config), names)
    image = store.load_row(identifier)
    for name in names:
        store.announce("tag", image, str(name))
    store.announce("import", image, identifier)
    if emit is not None:
        emit({"status": identifier})
    return identifier


async def import_url(
    store: "ImageStore",
    url: str,
    repo: str,
    tag: str,
    changes: Sequence[str],
    message: str,
    platform: str,
    emit: "Emit",
) -> str:
    """The same with an archive that a server gives; without a scheme it is asked by http, as by dockerd.

    Raises as `import_` and `download.opened` do.
    """
    if "://" not in url:
        url = f"http://{url}"
    async with download.opened(url) as response:
        emit(messages.line(f"Downloading from {url}"))
        bar = messages.Bar(emit, "", "Importing", response.content_length or 0)

        async def pieces() -> AsyncIterator[bytes]:
            done = 0
            async for piece in response.content.iter_any():
                done += len(piece)
                bar(done)
                yield piece

        return await import_(store, pieces(), repo, tag, changes, message or f"Imported from {url}", platform, emit)


def target(repo: str, tag: str) -> Reference:
    """The name that a new image gets.  Raises InvalidParameter."""
    name = reference.parse(repo)
    if name.digest:
        raise InvalidParameter("cannot import digest reference")
    name = name._replace(tag=reference.parse_tag(tag)) if tag else name.with_default_tag()
    if name == hostfs.REFERENCE:
        raise InvalidParameter(f"{hostfs.NAME} is the name of a built-in image")
    return name


def _platform(text: str) -> tuple[str, str]:
    """Architecture and variant of "linux[/ARCHITECTURE[/VARIANT]]", "ARCHITECTURE", or nothing."""
    parts = [part for part in text.lower().split("/") if part]
    if parts and parts[0] in ("linux", "windows", "darwin", "freebsd") and parts.pop(0) != "linux":
        raise InvalidParameter(f"operating system is not supported: {text}")
    if len(parts) > 2 or not all(part.isalnum() for part in parts):
        raise InvalidParameter(f'"{text}" is an invalid platform')
    return (parts[0] if parts else host_architecture()), (parts[1] if len(parts) > 1 else "")
