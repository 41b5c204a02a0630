"""Manifests: from a tag or digest to the one image that runs here, every byte of it checked against its digest."""

from typing import NamedTuple

from boxwright.errdefs import InvalidParameter, NotFound
from boxwright.images.reference import Reference
from boxwright.specs import image as spec
from boxwright.specs.image import Descriptor, ImageConfig, Manifest, Platform
from boxwright.storage.content import digest_of

from . import platforms
from .client import LARGEST_DOCUMENT, Registry
from .http import Answer

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
MANIFESTS = (spec.OCI_MANIFEST, DOCKER_MANIFEST)
ACCEPT = ", ".join((*MANIFESTS, *spec.INDEXES))
_CONFIGS = (spec.OCI_CONFIG, DOCKER_CONFIG)
_LAYERS = (
    DOCKER_LAYER, "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.zstd",
    spec.OCI_LAYER, f"{spec.OCI_LAYER}+gzip", f"{spec.OCI_LAYER}+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
)  # fmt: skip
# An index may name an index; nobody nests deeper.
DEEPEST = 3


class Document(NamedTuple):
    """A manifest or an index as it was received, and what it says."""

    media_type: str
    digest: str
    data: bytes
    manifest: Manifest

    @property
    def is_index(self) -> bool:
        """Whether it names manifests instead of layers."""
        return self.media_type in spec.INDEXES


class Resolved(NamedTuple):
    """An image in a registry.  digest: what the name stands for; source: the index, if it is one; config: its bytes."""

    digest: str
    document: Document
    layers: list[Descriptor]
    config: bytes
    parsed: ImageConfig
    source: Document | None = None


def pull_scope(repository: str) -> list[str]:
    """What a pull asks a token server for."""
    return [f"repository:{repository}:pull"]


async def fetch(registry: Registry, repository: str, target: str) -> Document:
    """The manifest or index behind a tag or digest.

    Raises Refused, Unreachable, InvalidParameter for what is none or has another digest.
    """
    url = registry.url(f"{repository}/manifests/{target}")
    answer = await registry.call("GET", url, pull_scope(repository), {"Accept": ACCEPT}, what="the manifest")
    digest = digest_of(answer.body)
    claimed = target if ":" in target else answer.headers.get("Docker-Content-Digest", digest)
    if claimed.startswith("sha256:") and claimed != digest:
        raise InvalidParameter(f"manifest verification failed for digest {claimed}")
    return read(answer, digest)


async def fetch_any(registry: Registry, repository: str, target: str) -> Document:
    """As `fetch`, a manifest of anything: what is about an image need not look like one; asked for once."""
    url = registry.url(f"{repository}/manifests/{target}")
    answer = await registry.call("GET", url, pull_scope(repository), {"Accept": ACCEPT}, what="a manifest", tries=1)
    digest = digest_of(answer.body)
    if ":" in target and target != digest:
        raise InvalidParameter(f"manifest verification failed for digest {target}")
    try:
        manifest = spec.decode_manifest(answer.body)
    except spec.Invalid as error:
        raise InvalidParameter(str(error)) from None
    media_type = answer.headers.get("Content-Type", "").split(";", 1)[0].strip().lower()
    if media_type not in (*MANIFESTS, *spec.INDEXES):
        raise InvalidParameter(f"unsupported manifest media type {media_type!r}")
    return Document(media_type, digest, answer.body, manifest)


def read(answer: Answer, digest: str) -> Document:
    """Decode what was received.  Raises InvalidParameter."""
    media_type = answer.headers.get("Content-Type", "").split(";", 1)[0].strip().lower()
    try:
        manifest = spec.decode_manifest(answer.body)
    except spec.Invalid as error:
        raise InvalidParameter(str(error)) from None
    if media_type in _SCHEMA_1 or manifest.schema_version == 1:
        raise InvalidParameter(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 are not supported: the image has to"
            " be pushed again by a newer client"
        )
    if media_type not in (*MANIFESTS, *spec.INDEXES):
        media_type = manifest.media_type or (spec.OCI_INDEX if manifest.manifests else spec.OCI_MANIFEST)
    # CVE-2021-41190: one document must not be two things, for us and for whoever has looked at it before.
    if manifest.media_type and manifest.media_type != media_type:
        raise InvalidParameter(
            f"invalid manifest: it is {manifest.media_type!r} by itself, and {media_type!r} by the registry"
        )
    if media_type not in (*MANIFESTS, *spec.INDEXES):
        raise InvalidParameter(f"unsupported manifest media type {media_type!r}")
    if (media_type in spec.INDEXES) == bool(manifest.layers or manifest.config.digest):
        raise InvalidParameter("invalid manifest: it is neither a manifest nor an index, or both")
    return Document(media_type, digest, answer.body, manifest)


async def resolve(registry: Registry, ref: Reference, wanted: Platform, explicit: bool) -> Resolved:
    """The image for `wanted` (normalised) behind a name.  explicit: a client asked for that platform.

    Raises as `fetch` does, and NotFound when there is none for the platform.
    """
    document = top = await fetch(registry, ref.path, ref.digest or ref.tag)
    for _ in range(DEEPEST):
        if not document.is_index:
            break
        chosen = platforms.choose(document.manifest.manifests, wanted)
        if chosen is None:
            raise NotFound(
                f"no matching manifest for {platforms.text(wanted)} in the manifest list entries:"
                f" {_offered(document.manifest)}"
            )
        document = await fetch(registry, ref.path, chosen.digest)
    else:
        if document.is_index:
            raise InvalidParameter(f"invalid index: more than {DEEPEST} of them, one inside the other")
    data = await _config(registry, ref.path, document.manifest)
    try:
        parsed = spec.decode_config(data)
    except spec.Invalid as error:
        raise InvalidParameter(str(error)) from None
    _check(ref, document.manifest, parsed, wanted if explicit else None)
    source = top if top.is_index else None
    return Resolved(top.digest, document, document.manifest.layers, data, parsed, source)


def _offered(index: Manifest) -> str:
    found = sorted({platforms.text(entry.platform) for entry in index.manifests if entry.platform})
    return f"there are {', '.join(found[:20])}" if found else "none of them names a platform"


async def _config(registry: Registry, repository: str, manifest: Manifest) -> bytes:
    descriptor = manifest.config
    if not spec.DIGEST.fullmatch(descriptor.digest):
        raise InvalidParameter("invalid manifest: the digest of its configuration is malformed")
    if descriptor.media_type and descriptor.media_type not in _CONFIGS:
        raise InvalidParameter(f'Encountered remote "{descriptor.media_type}"(unknown) when fetching')
    if not 0 <= descriptor.size <= LARGEST_DOCUMENT:
        raise InvalidParameter(f"invalid manifest: a configuration of {descriptor.size} bytes")
    url = registry.url(f"{repository}/blobs/{descriptor.digest}")
    answer = await registry.call("GET", url, pull_scope(repository), what="the image's configuration")
    if digest_of(answer.body) != descriptor.digest:
        raise InvalidParameter(f"image config verification failed for digest {descriptor.digest}")
    return answer.body


def _check(ref: Reference, manifest: Manifest, config: ImageConfig, wanted: Platform | None) -> None:
    if config.os and config.os != "linux":
        raise NotFound(f'image operating system "{config.os}" cannot be used on this platform: {ref}')
    own = platforms.normalised(Platform(config.architecture, config.os or "linux", config.variant))
    if wanted is not None and platforms.rank(wanted, own) is None:
        raise NotFound(
            f"image with reference {ref} was found but does not match the specified platform: wanted"
            f" {platforms.text(wanted)}, actual: {platforms.text(own)}"
        )
    for layer in manifest.layers:
        if layer.media_type not in _LAYERS:
            raise InvalidParameter(f"unsupported layer media type {layer.media_type!r}")
        if layer.size < 0:
            raise InvalidParameter(f"invalid manifest: a layer of {layer.size} bytes")
    if len(manifest.layers) != len(config.rootfs.diff_ids):
        raise InvalidParameter("layers from manifest don't match image configuration")


async def platforms_of(registry: Registry, repository: str, document: Document) -> list[Platform]:
    """What the manifest or index is for; attestations are for nothing."""
    if document.is_index:
        found = [entry.platform for entry in document.manifest.manifests if entry.platform]
        return [platform for platform in found if platform.os != "unknown"]
    try:
        config = spec.decode_config(await _config(registry, repository, document.manifest))
    except spec.Invalid as error:
        raise InvalidParameter(str(error)) from None
    return [Platform(config.architecture, config.os, config.variant, config.os_version)]
