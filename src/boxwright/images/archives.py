"""Archives of images, as plans: which configuration, which layers, which names.

    docker-archive   manifest.json: [{Config, RepoTags, Layers}]        `docker save`
    OCI layout       index.json → manifests → config and layers, by digest below blobs/

`docker save` of Docker 25 and later writes both into one archive; its manifest.json is then the complete one.
"""

import posixpath
from collections.abc import Callable
from typing import Any, NamedTuple

from boxwright.errdefs import InvalidParameter
from boxwright.images import reference
from boxwright.images.reference import Reference
from boxwright.specs import image as spec
from boxwright.storage.content import digest_of
from boxwright.storage.tarstream import LINK, REGULAR, SYMLINK

LARGEST_CONFIG = 4 << 20
LARGEST_MANIFEST = 4 << 20
MOST_IMAGES = 1000
# Documents of one archive together, bytes; each counts for a page at least, so that indexes which name each other a
# thousand times run out of it (GHSA-72x6-4j93-7w86: manifests that exhaust the engine).
LARGEST_SUM = 64 << 20
_PAGE = 4096
_MOST_LINKS = 8
_DEEPEST_INDEX = 4
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class Member(NamedTuple):
    """One file of the archive: where its bytes are."""

    position: int
    size: int


class Planned(NamedTuple):
    """One image to be made.  layers: base first, as many as the configuration says."""

    config: bytes
    parsed: spec.ImageConfig
    layers: list[Member]
    names: list[Reference]


class Archive:
    """The index of an archive.  `read` gives a member's bytes, up to a limit."""

    def __init__(self, members: list[list[Any]], read: Callable[[Member, int, str], bytes]) -> None:
        """members: [name, kind, position, size, link] as the job `archive.index` reports them; later ones count."""
        self._members = {str(name): (int(kind), Member(int(at), int(size)), str(link))
                         for name, kind, at, size, link in members}  # fmt: skip
        self._read = read
        self._left = LARGEST_SUM

    def plan(self, architecture: str) -> list[Planned]:
        """What to make of it.  Raises InvalidParameter; nothing has been made then."""
        try:
            if "manifest.json" in self._members:
                return self._docker()
            if "index.json" in self._members:
                return self._layout(architecture)
        except spec.Invalid as error:
            raise InvalidParameter(str(error)) from None
        raise InvalidParameter("invalid archive: does not contain a manifest.json")

    def _docker(self) -> list[Planned]:
        items = spec.decode_archive(self._bytes("manifest.json", LARGEST_MANIFEST))
        if len(items) > MOST_IMAGES:
            raise InvalidParameter(f"an archive of more than {MOST_IMAGES} images")
        return [
            self._planned(
                self._bytes(item.config, LARGEST_CONFIG),
                item.layers,
                [_tagged(tag) for tag in item.repo_tags],
            )
            for item in items
        ]

    def _layout(self, architecture: str) -> list[Planned]:
        index = spec.decode_manifest(self._bytes("index.json", LARGEST_MANIFEST))
        planned: dict[bytes, Planned] = {}
        for descriptor in index.manifests[:MOST_IMAGES]:
            manifest = self._manifest(descriptor, architecture, _DEEPEST_INDEX)
            if manifest is None:
                continue
            config = self._blob(manifest.config, LARGEST_CONFIG)
            layers = [_path(layer.digest) for layer in manifest.layers]
            found = planned.get(config) or self._planned(config, layers, [])
            found.names.extend(name for name in _annotated(descriptor) if name not in found.names)
            planned[config] = found
        if not planned:
            raise InvalidParameter(f"invalid archive: index.json names no image for linux/{architecture}")
        return list(planned.values())

    def _manifest(self, descriptor: spec.Descriptor, architecture: str, depth: int) -> spec.Manifest | None:
        """The manifest that a descriptor leads to, through indexes; None when it is not for this host."""
        platform = descriptor.platform
        if platform is not None and (platform.os, platform.architecture) != ("linux", architecture):
            return None
        manifest = spec.decode_manifest(self._blob(descriptor, LARGEST_MANIFEST))
        if not manifest.manifests and descriptor.media_type not in spec.INDEXES:
            return manifest if spec.DIGEST.fullmatch(manifest.config.digest) else None
        if not depth:
            raise InvalidParameter("invalid archive: indexes within indexes")
        for inner in manifest.manifests[:MOST_IMAGES]:
            # Not every index has been complete: what an archive leaves out is for other platforms.
            if _path(inner.digest) in self._members:
                found = self._manifest(inner, architecture, depth - 1)
                if found is not None:
                    return found
        return None

    def _planned(self, config: bytes, layers: list[str], names: list[Reference]) -> Planned:
        parsed = spec.decode_config(config)
        if parsed.os not in ("", "linux"):
            raise InvalidParameter(f"cannot load {parsed.os} image on linux")
        expected = len(parsed.rootfs.diff_ids)
        if len(layers) != expected:
            raise InvalidParameter(f"invalid manifest, layers length mismatch: expected {len(layers)}, got {expected}")
        return Planned(config, parsed, [self._find(layer) for layer in layers], names)

    def _blob(self, descriptor: spec.Descriptor, limit: int) -> bytes:
        data = self._bytes(_path(descriptor.digest), limit)
        if digest_of(data) != descriptor.digest:
            raise InvalidParameter(f"invalid archive: the bytes of {descriptor.digest} have another digest")
        return data

    def _bytes(self, name: str, limit: int) -> bytes:
        member = self._find(name)
        self._left -= max(member.size, _PAGE)
        if self._left < 0:
            raise InvalidParameter(f"invalid archive: its manifests and configurations exceed {LARGEST_SUM} bytes")
        return self._read(member, limit, name)

    def _find(self, name: str) -> Member:
        """The file `name`, through links inside the archive (`docker save` links layers that occur twice)."""
        path = posixpath.normpath(name)
        for _ in range(_MOST_LINKS):
            kind, member, link = self._members.get(path, (-1, Member(0, 0), ""))
            if kind == REGULAR:
                return member
            if kind == SYMLINK:
                path = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            elif kind == LINK:
                path = posixpath.normpath(link)
            else:
                break
        raise InvalidParameter(f"invalid archive: {name[:200]}: no such file")


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _tagged(text: str) -> Reference:
    name = reference.parse(text)
    if not name.tag or name.digest:
        raise InvalidParameter(f'invalid tag "{text}"')
    return name


def _annotated(descriptor: spec.Descriptor) -> list[Reference]:
    """The name that an index gives to an image.  ref.name is often a bare tag, which names nothing by itself."""
    for key in _NAMES:
        text = descriptor.annotations.get(key, "")
        if text and (key == _NAMES[0] or "/" in text or ":" in text):
            return [_tagged(str(reference.parse(text).with_default_tag()))]
    return []
