"""`docker save`: images as one archive, a docker-archive and an OCI layout in the same files, as Docker 25 and later.

    blobs/sha256/<hex>     layers (uncompressed), configurations and manifests, each once
    manifest.json          docker-archive: Config, RepoTags, Layers
    index.json, oci-layout OCI: manifests, with the images' names as annotations
    repositories           names for readers before Docker 1.10

Layers are made again from their records while the archive is sent; they stay until it is complete, even when an image
is removed meanwhile.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from boxwright.errdefs import InvalidParameter, NotFound, System
from boxwright.images import hostfs, reference, spool
from boxwright.images.image import Image, check_platform
from boxwright.images.reference import Reference
from boxwright.specs import image as spec
from boxwright.storage.content import digest_of
from boxwright.storage.snapshotter import HOSTFS
from boxwright.storage.tarwriter import BLOCK_SIZE, END, header

if TYPE_CHECKING:
    from boxwright.images.store import ImageStore

MOST_NAMES = 1000
_CHUNK = 1 << 20
_BLOBS = "blobs/sha256/"
_CREATED = 0  # of what is not dated itself: the archive of an image is always the same one


class Saved:
    """One image of the archive, and the names that it is saved under."""

    __slots__ = ("config", "image", "names")

    def __init__(self, image: Image, config: bytes) -> None:
        self.image, self.config = image, config
        self.names: list[Reference] = []


async def save(
    store: "ImageStore", names: Sequence[str], platform: dict[str, Any] | None = None
) -> AsyncGenerator[bytes, None]:
    """The archive, piece by piece.

    Raises NotFound, InvalidParameter and what the layers' archives raise, before the first piece as far as it is known.
    """
    if len(names) > MOST_NAMES:
        raise InvalidParameter(f"more than {MOST_NAMES} images at once")
    images = _resolve(store, names)
    if platform is not None:
        for saved in images:
            check_platform(saved.image, platform)
    layers = {
        chain_id: diff_id
        for saved in images
        for chain_id, diff_id in zip(saved.image.chain_ids, saved.image.parsed.rootfs.diff_ids, strict=True)
    }
    with store.reading([saved.image for saved in images]), ExitStack() as held:
        packed = {
            chain_id: await _packed(store, chain_id, diff_id, held)
            for chain_id, diff_id in layers.items()
            if store.snapshotter.archive_size(chain_id) < 0
        }
        sizes = {
            chain_id: packed[chain_id][1] if chain_id in packed else store.snapshotter.archive_size(chain_id)
            for chain_id in layers
        }
        for saved in images:
            store.announce("save", saved.image, saved.image.id)
        yield header(b"blobs/", b"5", mode=0o755) + header(_BLOBS.encode(), b"5", mode=0o755)
        written: set[str] = set()
        for chain_id, diff_id in layers.items():
            if diff_id in written:
                continue
            written.add(diff_id)
            yield header((_BLOBS + diff_id[7:]).encode(), mode=0o644, size=sizes[chain_id])
            stream = _file(packed[chain_id][0]) if chain_id in packed else store.snapshotter.archive(chain_id)
            async with aclosing(stream):
                async for piece in stream:
                    yield piece
            yield bytes(-sizes[chain_id] % BLOCK_SIZE)
        for piece in _documents(images, sizes):
            yield piece
        yield END


def manifest(image: Image, config: bytes, sizes: dict[str, int]) -> bytes:
    """The OCI manifest of an image with uncompressed layers.  sizes: of their archives, by chain id."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": spec.OCI_MANIFEST,
            "config": {"mediaType": spec.OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [
                {"mediaType": spec.OCI_LAYER, "digest": diff_id, "size": sizes[chain_id]}
                for chain_id, diff_id in zip(image.chain_ids, image.parsed.rootfs.diff_ids, strict=True)
            ],
        }
    )


def _resolve(store: "ImageStore", names: Sequence[str]) -> list[Saved]:
    """Which images are meant, each once: a repository stands for all of its tags."""
    found: dict[str, Saved] = {}

    def add(image: Image, name: Reference | None) -> None:
        if image.chain_ids == [HOSTFS]:
            raise InvalidParameter(f"{hostfs.NAME} is a built-in image and cannot be saved")
        saved = found.get(image.id) or found.setdefault(image.id, Saved(image, store.content.get(image.id)))
        if name is not None and name.tag and name not in saved.names:
            saved.names.append(name)

    for text in names:
        parsed = reference.parse_any(text)
        if isinstance(parsed, Reference) and not parsed.tag and not parsed.digest:
            tagged = store.repository(parsed.name)
            for name, identifier in tagged:
                add(store.load_row(identifier), name)
            if tagged:
                continue
        try:
            image = store.get(text)
        except NotFound:
            bare = isinstance(parsed, Reference) and not parsed.tag and not parsed.digest
            raise NotFound(f"No such image: {text}" if bare else "reference does not exist") from None
        add(image, parsed if isinstance(parsed, Reference) and parsed in store.names(image.id) else None)
    return list(found.values())


async def _packed(store: "ImageStore", chain_id: str, diff_id: str, held: ExitStack) -> tuple[int, int]:
    """A layer without a record (an engine before this one has unpacked it), packed again: its file and size.

    Raises System when the archive is another one than the image says: nobody could load it.
    """
    fd = held.enter_context(spool.unnamed(store.spool.directory))
    size = await spool.receive(store.snapshotter.archive(chain_id), fd)
    digest = await asyncio.to_thread(_digest, fd, size)
    if digest != diff_id:
        raise System(
            f"layer {diff_id} has no record of its archive, because it was unpacked by an older version; packed again"
            f" it is {digest}, which the image does not know: pull or load the image again to save it"
        )
    return fd, size


def _digest(fd: int, size: int) -> str:
    found, position = hashlib.sha256(), 0
    while position < size:
        data = os.pread(fd, _CHUNK, position)
        if not data:
            break
        found.update(data)
        position += len(data)
    return f"sha256:{found.hexdigest()}"


async def _file(fd: int) -> AsyncGenerator[bytes, None]:
    position = 0
    while data := await asyncio.to_thread(os.pread, fd, _CHUNK, position):
        position += len(data)
        yield data


def _documents(images: list[Saved], sizes: dict[str, int]) -> Iterator[bytes]:
    """Configurations, manifests and the lists of them."""
    blobs: dict[str, bytes] = {}
    listed: list[dict[str, Any]] = []
    indexed: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for saved in images:
        document = manifest(saved.image, saved.config, sizes)
        blobs[digest_of(saved.config)] = saved.config
        blobs[digest_of(document)] = document
        diff_ids = saved.image.parsed.rootfs.diff_ids
        listed.append(_listed(saved, sizes))
        descriptor = {"mediaType": spec.OCI_MANIFEST, "digest": digest_of(document), "size": len(document)}
        for name in saved.names:
            annotations = {
                "io.containerd.image.name": f"{name.name}:{name.tag}",
                "org.opencontainers.image.ref.name": name.tag,
            }
            indexed.append({**descriptor, "annotations": annotations})
            if diff_ids:
                repositories.setdefault(name.familiar_name, {})[name.tag] = diff_ids[-1][7:]
        if not saved.names:
            indexed.append(descriptor)
    for digest, data in blobs.items():
        yield _member(_BLOBS + digest[7:], data)
    yield _member("index.json", msgspec.json.encode(
        {"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": indexed}
    ))  # fmt: skip
    yield _member("manifest.json", msgspec.json.encode(listed))
    yield _member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    if repositories:
        yield _member("repositories", msgspec.json.encode(repositories))


def _listed(saved: Saved, sizes: dict[str, int]) -> dict[str, Any]:
    """The image's item of manifest.json."""
    image = saved.image
    sources = {
        diff_id: {"mediaType": spec.OCI_LAYER, "size": sizes[chain_id], "digest": diff_id}
        for chain_id, diff_id in zip(image.chain_ids, image.parsed.rootfs.diff_ids, strict=True)
    }
    return {
        "Config": _BLOBS + digest_of(saved.config)[7:],
        "RepoTags": [str(name) for name in saved.names] or None,
        "Layers": [_BLOBS + diff_id[7:] for diff_id in image.parsed.rootfs.diff_ids],
        "LayerSources": sources,
    }


def _member(name: str, data: bytes) -> bytes:
    head = header(name.encode(), mode=0o644, size=len(data), mtime=_CREATED)
    return head + data + bytes(-len(data) % BLOCK_SIZE)
