"""`docker pull`: the layers of an image are fetched and unpacked all at once, each while it is still coming.

    registry ── blob ──► unnamed file ──► pipe ──► confined job ──► tmp/layer-…     visible to nobody
                            │ sha256: the manifest's digest           │ sha256: the configuration's diff id
                            └──────────────── both right ─────────────┴──► layer, bottom up ──► the image's row

A layer is shared work, by its chain id: several pulls wait for one download.  What fails or is cancelled leaves layers
of no image at most, and they are collected; after a SIGKILL the next start does it.
"""

import asyncio
import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

import msgspec
from msgspec import Struct

from boxwright.errdefs import Error, InvalidParameter, System
from boxwright.images import hostfs, spool
from boxwright.images.reference import Reference
from boxwright.specs.image import Descriptor, Platform
from boxwright.storage.content import digest_of
from boxwright.storage.layers import chain_ids
from boxwright.storage.snapshotter import Source, Unpacked

from . import client, errors, manifests, messages, platforms, signatures
from .auth import Credentials
from .blobs import FED, Download, Progress
from .client import Registry
from .errors import Refused, Unreachable
from .manifests import Resolved
from .messages import Bar, Emit
from .referrers import Kept
from .shared import Report, all_of

if TYPE_CHECKING:
    from .distribution import Distribution

MOST_TAGS = 10_000
_MOST_PAGES = 1000


class Layer(NamedTuple):
    """A layer of the image that is pulled; `parent` is the chain id below it."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str
    parent: str | None

    @property
    def id(self) -> str:
        """What its messages are about."""
        return messages.short(self.descriptor.digest)


async def pull(dist: "Distribution", ref: Reference, platform: str, who: Credentials, emit: Emit) -> None:
    """Pull what `ref` names, all tags of the repository when it is only that; tells `emit` what dockerd would.

    Raises NotFound, InvalidParameter, Unauthorized, System, …: errdefs, in dockerd's words.
    """
    wanted, explicit = platforms.parse(platform), bool(platform)
    if ref.name == hostfs.REFERENCE.name:
        raise InvalidParameter(f"{hostfs.NAME} is the name of a built-in image")
    with errors.pulling(ref):
        failure: Exception | None = None
        async with contextlib.aclosing(client.connect(dist.http, dist.settings, ref.domain, who, True)) as found:
            async for registry in found:
                try:
                    await _from(dist, registry, ref, wanted, explicit, emit)
                    return
                except (Refused, Unreachable, Error) as error:
                    failure = error  # a mirror need not have everything
        assert failure is not None
        raise failure


async def _from(
    dist: "Distribution", registry: Registry, ref: Reference, wanted: Platform, explicit: bool, emit: Emit
) -> None:
    single = ref.tag or ref.digest
    tags = [ref] if single else [ref._replace(tag=tag) for tag in await _tags(registry, ref.path)]
    new = False
    for name in tags:
        resolved = await manifests.resolve(registry, name, wanted, explicit)
        await signatures.require(dist.settings.required_signatures, registry, name, resolved.digest)
        emit(messages.line(f"Pulling from {name.path}", name.digest or name.tag))
        new |= await _image(dist, registry, name, resolved, emit)
    emit(messages.line(f"Status: {'Downloaded newer image' if new else 'Image is up to date'} for {ref}"))


class _Tags(Struct):
    tags: list[str] | None = None


async def _tags(registry: Registry, repository: str) -> list[str]:
    """The tags of a repository, all pages of them."""
    url, found = registry.url(f"{repository}/tags/list"), list[str]()
    for _ in range(_MOST_PAGES):
        answer = await registry.call("GET", url, manifests.pull_scope(repository), what="the list of tags")
        try:
            found += msgspec.json.decode(answer.body, type=_Tags).tags or []
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidParameter(f"invalid list of tags: {error}") from None
        if len(found) > MOST_TAGS:
            raise InvalidParameter(f"a repository of more than {MOST_TAGS} tags")
        target, _, relation = answer.headers.get("Link", "").partition(";")
        if 'rel="next"' not in relation.replace(" ", "") or not target.strip().startswith("<"):
            break
        url = urljoin(answer.url, target.strip()[1:-1])
    return found


async def _image(dist: "Distribution", registry: Registry, name: Reference, resolved: Resolved, emit: Emit) -> bool:
    """Pull one image, and give it its names; returns whether anything is new."""
    store = dist.store
    diff_ids = resolved.parsed.rootfs.diff_ids
    chain = chain_ids(diff_ids)
    layers = [
        Layer(descriptor, diff_id, chain_id, parent)
        for descriptor, diff_id, chain_id, parent in zip(
            resolved.layers, diff_ids, chain, [None, *chain[:-1]], strict=True
        )
    ]
    beside = Kept(dist, registry, name)
    if store.find(digest_of(resolved.config)) is not None:
        await beside.collect(resolved)
        for layer in layers:
            dist.origins.remember(layer.diff_id, name.name, layer.descriptor)
        new = _named(dist, name, resolved, beside)
    else:
        try:
            with store.snapshotter.lease(chain):
                await all_of(*(_layer(dist, registry, name, layer, emit) for layer in layers), beside.collect(resolved))
                new = _named(dist, name, resolved, beside)
        finally:
            store.collect(chain)  # what a failure has left without an image
    emit(messages.line(f"Digest: {resolved.digest}"))
    return new


def _named(dist: "Distribution", name: Reference, resolved: Resolved, beside: Kept) -> bool:
    """The layers are there: make the image exist.  Nothing waits in here."""
    store = dist.store
    before = store.named(name)
    names = [name._replace(tag="", digest=resolved.digest)]
    if not name.digest:
        names.append(name._replace(digest=""))
    known = store.named(names[0])
    document = resolved.document
    identifier = store.add(resolved.config, names, manifest=(document.media_type, document.data))
    store.attach(identifier, beside.found)
    image = store.load_row(identifier)
    store.publish("image", "pull", str(name), {**image.labels, "name": name.familiar_name})
    return before != identifier or known != identifier


async def _layer(dist: "Distribution", registry: Registry, name: Reference, layer: Layer, emit: Emit) -> None:
    """One layer of one pull: there already, or shared work."""
    if dist.store.snapshotter.has_layer(layer.chain_id):
        dist.origins.remember(layer.diff_id, name.name, layer.descriptor)
        emit(messages.status(layer.id, "Already exists"))
        return
    emit(messages.status(layer.id, "Pulling fs layer"))

    async def start(report: Report) -> None:
        await _fetch_and_unpack(dist, registry, name.path, layer, report)

    await dist.layers.join(layer.chain_id, start, emit)
    dist.origins.remember(layer.diff_id, name.name, layer.descriptor)


async def _fetch_and_unpack(
    dist: "Distribution", registry: Registry, repository: str, layer: Layer, report: Report
) -> None:
    snapshotter = dist.store.snapshotter
    with spool.unnamed(dist.store.spool.directory) as fd:
        download = Download(fd, layer.descriptor, repository)
        unpacked = await _both(
            dist,
            asyncio.ensure_future(_fetch(dist, registry, layer, download, report)),
            asyncio.ensure_future(_unpack(dist, layer, download, report)),
        )
    try:
        if unpacked.diff_id != layer.diff_id:
            raise InvalidParameter(
                "layers from manifest don't match image configuration:"
                f' expected diffID "{layer.diff_id}", got "{unpacked.diff_id}"'
            )
        await _parent(dist, layer)
        await snapshotter.complete(unpacked, layer.parent)
    except BaseException:
        snapshotter.discard(unpacked)
        raise
    snapshotter.commit_layer(unpacked, layer.chain_id, layer.parent)
    report(messages.status(layer.id, "Pull complete"))


async def _both(dist: "Distribution", fetching: "asyncio.Task[None]", unpacking: "asyncio.Task[Unpacked]") -> Unpacked:
    """What was unpacked, once the blob is known to be the right one; a failure of either ends the other."""
    unpacked: Unpacked | None = None
    try:
        await asyncio.wait([fetching, unpacking], return_when=asyncio.FIRST_EXCEPTION)
        if not unpacking.done() or isinstance(unpacking.exception(), InvalidParameter):
            # Bytes that are not the manifest's are the blob's failure, not the archive's.
            await fetching
        unpacked = await unpacking
        await fetching
        return unpacked
    except BaseException:
        for task in (fetching, unpacking):
            task.cancel()
        _, late = await asyncio.gather(fetching, unpacking, return_exceptions=True)
        if isinstance(late, Unpacked):
            dist.store.snapshotter.discard(late)
        raise


async def _fetch(dist: "Distribution", registry: Registry, layer: Layer, download: Download, report: Report) -> None:
    """Fetch the blob once it is its turn."""

    async def waiting(seconds: float) -> None:
        shown = max(1, round(seconds))
        report(messages.status(layer.id, f"Retrying in {shown} second{'s' if shown > 1 else ''}"))
        await asyncio.sleep(seconds)

    if dist.downloads.full:
        report(messages.status(layer.id, "Waiting"))
    async with dist.downloads.one():
        progress = Bar(report, layer.id, "Downloading", layer.descriptor.size)
        await download.run(registry, progress, waiting, dist.settings.max_download_attempts)
    report(messages.status(layer.id, "Verifying Checksum"))
    report(messages.status(layer.id, "Download complete"))


async def _unpack(dist: "Distribution", layer: Layer, download: Download, report: Report) -> Unpacked:
    """Unpack the blob as it comes; above a layer that has to exist first, once that one does."""
    snapshotter = dist.store.snapshotter
    extracting = Bar(report, layer.id, "Extracting", layer.descriptor.size)

    def fed(position: int) -> None:
        if download.whole.is_set():
            extracting(position)

    if snapshotter.independent:
        await download.begun.wait()
    else:
        await download.whole.wait()
        await _parent(dist, layer)
    async with dist.unpacks.one():
        read, write = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # past the user's share of pipe memory: it works with less
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, FED)
        feeding = asyncio.ensure_future(_feed(download, write, fed))
        try:
            return await snapshotter.unpack(Source(read), layer.parent)
        finally:
            os.close(read)
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


async def _feed(download: Download, pipe: int, progress: Progress) -> None:
    try:
        await download.feed(pipe, progress)
    finally:
        os.close(pipe)


async def _parent(dist: "Distribution", layer: Layer) -> None:
    """Wait until the layer below exists: it is the work of the same pull, or of another one."""
    if layer.parent is None:
        return
    await dist.layers.follow(layer.parent)
    if not dist.store.snapshotter.has_layer(layer.parent):
        raise System(f"the layer below {layer.id} could not be pulled")
