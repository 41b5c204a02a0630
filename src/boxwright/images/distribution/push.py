"""`docker push`: layers, then the configuration, then the manifest, so that whoever sees the manifest finds the rest.

Of a layer that a registry is known to have as a blob, that blob is used: as it is, or mounted from the repository that
has it.  Otherwise the layer's archive is made again from its record, compressed into an unnamed file, and sent.  An
image that was pulled keeps its manifest, and so its digest, wherever its blobs can be the same.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urljoin

import msgspec
from isal import isal_zlib

from boxwright.errdefs import InvalidParameter, NotFound
from boxwright.images import hostfs, spool
from boxwright.images.image import Image, check_platform
from boxwright.images.originals import Original
from boxwright.images.reference import Reference
from boxwright.specs import image as spec
from boxwright.specs.image import Descriptor
from boxwright.storage.content import digest_of

from . import client, errors, http, messages, referrers
from .auth import Credentials
from .client import Registry
from .errors import Refused, Unreachable
from .manifests import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST
from .messages import Bar, Emit
from .origins import Origin
from .shared import all_of, in_thread
from .uploads import Blob, upload

if TYPE_CHECKING:
    from boxwright.images.store import ImageStore

    from .distribution import Distribution

_BATCH = 1 << 20
_UNIT = 256 << 10  # what is given to the packer at once: its output depends on that, and pieces come as pipes have them
_LEVEL = 2  # of isal: the ratio of zlib's 3 at several times its speed
_GZIP = 31  # zlib's window of 32 KiB in a gzip wrapper, whose time stamp is 0: same layer, same blob
Json = dict[str, Any]


class Target:
    """The repository that is pushed to, through a registry that answered."""

    def __init__(self, dist: "Distribution", registry: Registry, name: Reference, emit: Emit) -> None:
        self.dist, self.registry, self.emit = dist, registry, emit
        self.name, self.domain, self.path = name.name, name.domain, name.path
        self.scopes = [f"repository:{self.path}:pull,push"]
        # Layers that several of the images have are sent once; by diff id and the blob's digest that was wanted, or "".
        self.done: dict[tuple[str, str], Descriptor] = {}

    def url(self, path: str) -> str:
        """Of a path below the repository."""
        return self.registry.url(f"{self.path}/{path}")

    async def has(self, digest: str) -> bool:
        """Whether the repository has the blob."""
        answer = await self.registry.call("HEAD", self.url(f"blobs/{digest}"), self.scopes, ok=(200, 404))
        return answer.status == 200


class Work(NamedTuple):
    """One image to be pushed as `name`: its configuration, and the manifest that it came with."""

    name: Reference
    image: Image
    config: bytes
    original: Original | None


class Wanted(NamedTuple):
    """A layer, and the blob that it should be in the repository, so that the image keeps its manifest; None: any."""

    chain_id: str
    diff_id: str
    blob: Descriptor | None

    @property
    def key(self) -> tuple[str, str]:
        """Of `Target.done`."""
        return self.diff_id, self.blob.digest if self.blob else ""


async def push(
    dist: "Distribution", ref: Reference, everything: bool, who: Credentials, platform: Json | None, emit: Emit
) -> None:
    """Push the image called `ref`, or with `everything` all tags of its repository; tells `emit` what dockerd would.

    platform: what the images have to be for, to be pushed at all, as OCI's JSON has it.

    Raises NotFound, InvalidParameter, Unauthorized, Forbidden, System, …: errdefs, in dockerd's words.
    """
    if ref.name == hostfs.REFERENCE.name:
        raise InvalidParameter(f"{hostfs.NAME} is a built-in image and cannot be pushed")
    if ref.digest:
        raise InvalidParameter("cannot push a digest reference")
    store = dist.store
    emit(messages.line(f"The push refers to repository [{ref.name}]"))
    names = dict(store.repository(ref.name))
    if not everything:
        names = {name: image for name, image in names.items() if name == ref.with_default_tag()}
    if not names:
        shown = f"An image does not exist locally with the tag: {ref.familiar_name}"
        raise NotFound(f"tag does not exist: {ref}" if ref.tag and store.repository(ref.name) else shown)
    # All that is read is held from here on: an image may be removed at any moment, and is pushed all the same.
    work = [_read(store, name, identifier) for name, identifier in names.items()]
    for each in work:
        if platform is not None:
            check_platform(each.image, platform)
    with errors.pushing(), store.reading([each.image for each in work]):
        async with aclosing(client.connect(dist.http, dist.settings, ref.domain, who)) as found:
            registry = await anext(found)
        target = Target(dist, registry, ref, emit)
        for each in work:
            await _image(target, each)


def _read(store: "ImageStore", name: Reference, identifier: str) -> Work:
    known = [other.digest for other in store.names(identifier) if other.name == name.name]
    image, original = store.load_row(identifier), store.originals.of(identifier, known)
    if original and len(original.layers) != len(image.chain_ids):
        original = None
    return Work(name, image, store.content.get(identifier), original)


async def _image(target: Target, work: Work) -> None:
    name, image, config, original = work
    wanted = [
        Wanted(chain_id, diff_id, original.layers[number] if original else None)
        for number, (chain_id, diff_id) in enumerate(zip(image.chain_ids, image.parsed.rootfs.diff_ids, strict=True))
    ]
    for layer in wanted:
        target.emit(messages.status(messages.short(layer.diff_id), "Preparing"))
    await all_of(*(_layer(target, layer) for layer in {layer.key: layer for layer in reversed(wanted)}.values()))
    await _config(target, image, config)
    blobs = [target.done[layer.key] for layer in wanted]
    if original and all(blob.digest == layer.digest for blob, layer in zip(blobs, original.layers, strict=True)):
        media_type, document = await _original(target, image, original)
    else:
        media_type, document = manifest(config, blobs)
    await referrers.put(target, name.tag, media_type, document)
    digest = digest_of(document)
    if media_type in spec.INDEXES:
        await referrers.push(target, image.id, digest)
    target.dist.store.also_called(image.id, name._replace(tag="", digest=digest))
    target.emit(messages.line(f"{name.tag}: digest: {digest} size: {len(document)}"))
    target.emit({"progressDetail": {}, "aux": {"Tag": name.tag, "Digest": digest, "Size": len(document)}})
    target.dist.store.publish("image", "push", str(name), {**image.labels, "name": name.familiar_name})


async def _original(target: Target, image: Image, original: Original) -> tuple[str, bytes]:
    """What the tag is to stand for of an image that keeps its manifest: the manifest, or the index that it came from,
    where the repository has, or is now given, all that the index names.
    """
    digest = digest_of(original.data)
    if not target.dist.store.attachments.of(image.id, digest):
        return original.media_type, original.data
    await referrers.put(target, digest, original.media_type, original.data)
    await referrers.push(target, image.id, digest)
    index = await referrers.index_for(target, image.id, digest)
    return (index.media_type, index.data) if index else (original.media_type, original.data)


def manifest(config: bytes, layers: list[Descriptor]) -> tuple[str, bytes]:
    """Media type and bytes of an image's manifest: Docker's while all layers are gzip, as most registries expect."""
    docker = all(layer.media_type in (DOCKER_LAYER, f"{spec.OCI_LAYER}+gzip") for layer in layers)
    kind = DOCKER_MANIFEST if docker else spec.OCI_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": DOCKER_CONFIG if docker else spec.OCI_CONFIG,
            "size": len(config),
            "digest": digest_of(config),
        },
        "layers": [
            {
                "mediaType": DOCKER_LAYER if docker else _oci(layer.media_type),
                "size": layer.size,
                "digest": layer.digest,
            }
            for layer in layers
        ],
    }
    return kind, msgspec.json.format(msgspec.json.encode(document), indent=3)


def _oci(media_type: str) -> str:
    """OCI's name of a layer's media type; distribution of what Docker calls foreign is for others to restrict."""
    for ending, compressed in ((".gzip", "+gzip"), ("+gzip", "+gzip"), (".zstd", "+zstd"), ("+zstd", "+zstd")):
        if media_type.endswith(ending):
            return spec.OCI_LAYER + compressed
    return spec.OCI_LAYER


async def _layer(target: Target, wanted: Wanted) -> None:
    """See that the repository has the layer, as a blob that `target.done` says."""
    id = messages.short(wanted.diff_id)
    if wanted.key in target.done:
        target.emit(messages.status(id, "Layer already exists"))
        return
    if target.dist.uploads.full:
        target.emit(messages.status(id, "Waiting"))
    async with target.dist.uploads.one():
        found = await _known(target, wanted) or await _packed(target, wanted)
    target.done[wanted.key] = found
    target.dist.origins.remember(wanted.diff_id, target.name, found)


async def _known(target: Target, wanted: Wanted) -> Descriptor | None:
    """A blob of the layer that the registry has already, made part of the repository if it was not.

    The blob that is wanted, if it can be had; any other one of the layer otherwise.
    """
    origins = target.dist.origins.of(wanted.diff_id, target.domain)
    if wanted.blob is None:
        return await _one_of(target, wanted.diff_id, origins)
    blob = wanted.blob
    same = [origin for origin in origins if origin.digest == blob.digest]
    same.append(Origin(target.name, blob.digest, blob.size, blob.media_type))  # it need not be known to be there
    others = [origin for origin in origins if origin.digest != blob.digest]
    return await _one_of(target, wanted.diff_id, same) or await _one_of(target, wanted.diff_id, others)


async def _one_of(target: Target, diff_id: str, origins: list[Origin]) -> Descriptor | None:
    """The first of these blobs that the repository has, or else gets from another one of its registry."""
    id = messages.short(diff_id)
    for origin in {origin.digest: origin for origin in origins}.values():
        if await target.has(origin.digest):
            target.emit(messages.status(id, "Layer already exists"))
            return Descriptor(origin.media_type, origin.digest, origin.size)
    for origin in origins:
        if origin.repository == target.name:
            target.dist.origins.forget(diff_id, origin)
        elif await _mounted(target, origin):
            target.emit(messages.status(id, f"Mounted from {origin.path}"))
            return Descriptor(origin.media_type, origin.digest, origin.size)
    return None


async def _mounted(target: Target, origin: Origin) -> bool:
    query = urlencode({"mount": origin.digest, "from": origin.path})
    scopes = [*target.scopes, f"repository:{origin.path}:pull"]
    try:
        answer = await target.registry.call("POST", target.url(f"blobs/uploads/?{query}"), scopes, ok=(201, 202))
    except Refused:
        return False  # no right to read there, or gone: it is sent instead
    if answer.status == 202:  # it has begun an upload that nobody wants
        await _cancel(target, answer)
    return answer.status == 201


async def _cancel(target: Target, answer: http.Answer) -> None:
    location = answer.headers.get("Location")
    if location:
        try:
            await target.registry.call(
                "DELETE", urljoin(answer.url, location), target.scopes, ok=(200, 202, 204), tries=1
            )
        except (Refused, Unreachable):
            return  # the registry sweeps such things itself


async def _packed(target: Target, wanted: Wanted) -> Descriptor:
    """Make the layer's archive again, compress it and send it."""
    id = messages.short(wanted.diff_id)
    store = target.dist.store
    with spool.unnamed(store.spool.directory) as fd:
        blob = await compressed(store.snapshotter.archive(wanted.chain_id), fd)
        found = Descriptor(DOCKER_LAYER, blob.digest, blob.size)
        if await target.has(blob.digest):
            target.emit(messages.status(id, "Layer already exists"))
            return found
        await upload(target, blob, Bar(target.emit, id, "Pushing", blob.size))
    target.emit(messages.status(id, "Pushed"))
    return found


async def compressed(archive: AsyncGenerator[bytes, None], fd: int) -> Blob:
    """Write the archive to the empty file `fd`, as gzip; the same archive gives the same blob."""
    packer, found, size = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP), hashlib.sha256(), 0
    rest = b""

    def step(batch: list[bytes], last: bool) -> int:
        nonlocal rest
        data = b"".join((rest, *batch))
        end = len(data) if last else len(data) - len(data) % _UNIT
        packed = [packer.compress(data[start : min(start + _UNIT, end)]) for start in range(0, end, _UNIT)]
        rest = data[end:]
        if last:
            packed.append(packer.flush())
        for piece in packed:
            found.update(piece)
        return spool.write(fd, packed, size)

    async with aclosing(archive):
        batch: list[bytes] = []
        pending = 0
        async for piece in archive:
            batch.append(piece)
            pending += len(piece)
            if pending >= _BATCH:
                size += await in_thread(step, batch, False)
                batch, pending = [], 0
        size += await in_thread(step, batch, True)
    return Blob(fd, f"sha256:{found.hexdigest()}", size)


async def _config(target: Target, image: Image, config: bytes) -> None:
    if await target.has(image.id):
        return
    with spool.unnamed(target.dist.store.spool.directory) as fd:
        spool.write(fd, [config], 0)
        await upload(target, Blob(fd, image.id, len(config)), lambda position: None)
