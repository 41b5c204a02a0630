"""OCI image types (image-spec 1.1), and Docker's: descriptors, manifests, indexes and the image configuration.

All of it comes from strangers.  Decoding checks the type of every field that anybody here reads; like Go's decoder it
takes null for the zero value and ignores what it does not know.  Bounds on sizes are the reader's.
"""

import re
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

T = TypeVar("T")

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES = (OCI_INDEX, DOCKER_LIST)

# Nobody builds images near these; decoding beyond them is work for an attacker.
MOST_LAYERS = 500
MOST_HISTORY = 10_000
# Labels are attributes of every event, hundreds of which are remembered; every volume is made at every create.
MOST_LABELS = 1000
MOST_VOLUMES = 256


class Invalid(ValueError):
    """The document is not what it should be; the text says where."""


class Platform(Struct, omit_defaults=True):
    """What an image runs on."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = field(default="", name="os.version")


class Descriptor(Struct, omit_defaults=True, rename="camel"):
    """A reference to a blob: `size` in bytes, `digest` "sha256:…"."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    annotations: dict[str, str] = {}
    platform: Platform | None = None


class Manifest(Struct, omit_defaults=True, rename="camel"):
    """The manifest of one image, or with `manifests` an index of several."""

    schema_version: int = 0
    media_type: str = ""
    config: Descriptor = field(default_factory=Descriptor)
    layers: list[Descriptor] = []
    manifests: list[Descriptor] = []
    annotations: dict[str, str] = {}
    artifact_type: str = ""
    subject: Descriptor | None = None


class ArchiveItem(Struct, rename="pascal"):
    """One image of a docker-archive's manifest.json."""

    config: str = ""
    repo_tags: list[str] = []
    layers: list[str] = []


class Healthcheck(Struct, omit_defaults=True, rename="pascal"):
    """HEALTHCHECK; durations in nanoseconds."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Defaults(Struct, omit_defaults=True, rename="pascal"):
    """What a container of the image starts from: the `config` of an image's configuration."""

    user: str = ""
    exposed_ports: dict[str, dict[str, Any]] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    on_build: list[str] | None = None
    shell: list[str] | None = None
    args_escaped: bool = False
    # Docker's own, of old images.
    hostname: str = ""
    domainname: str = ""
    stop_timeout: int | None = None


class RootFS(Struct):
    """The layers, base first, by the digests of their uncompressed archives."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(Struct, omit_defaults=True):
    """One step of how the image was made; `empty_layer` steps have no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(Struct, omit_defaults=True):
    """An image's configuration; its digest is the image's id."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = field(default="", name="os.version")
    created: str = ""
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    config: Defaults = field(default_factory=Defaults)
    rootfs: RootFS = field(default_factory=RootFS)
    history: list[History] = []


def decode_config(data: bytes) -> ImageConfig:
    """Read an image's configuration.  Raises Invalid."""
    document = _json(data)
    defaults = document.get("config")
    if isinstance(defaults, dict):
        for name in ("Cmd", "Entrypoint", "Shell"):  # a lone string is a list of one (Docker's strslice)
            if isinstance(defaults.get(name), str):
                defaults[name] = [defaults[name]]
    config = _convert(document, ImageConfig)
    if len(config.rootfs.diff_ids) > MOST_LAYERS:
        raise Invalid("max depth exceeded")
    if not all(DIGEST.fullmatch(diff_id) for diff_id in config.rootfs.diff_ids):
        raise Invalid("invalid image configuration: a layer's digest is malformed")
    if len(config.history) > MOST_HISTORY:
        raise Invalid(f"invalid image configuration: a history of more than {MOST_HISTORY} steps")
    if len(config.config.labels or ()) > MOST_LABELS:
        raise Invalid(f"invalid image configuration: more than {MOST_LABELS} labels")
    if len(config.config.volumes or ()) > MOST_VOLUMES:
        raise Invalid(f"invalid image configuration: more than {MOST_VOLUMES} volumes")
    return config


def encode_config(config: ImageConfig) -> bytes:
    """The configuration as JSON; empty fields are left out, `rootfs` never."""
    document = msgspec.to_builtins(config)
    document["rootfs"] = {"type": config.rootfs.type, "diff_ids": config.rootfs.diff_ids}
    return msgspec.json.encode(document)


def decode_manifest(data: bytes) -> Manifest:
    """Read a manifest or an index.  Raises Invalid."""
    manifest = _convert(_json(data), Manifest)
    for descriptor in (*manifest.layers, *manifest.manifests):
        if not DIGEST.fullmatch(descriptor.digest):
            raise Invalid("invalid manifest: a digest is malformed")
    return manifest


def with_manifest(data: bytes, entry: dict[str, Any]) -> bytes:
    """An index (b"": an empty one), as it is if it names the entry's digest, and otherwise with one entry more."""
    index = _json(data) if data else {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    listed = index.get("manifests")
    listed = listed if isinstance(listed, list) else []
    if any(isinstance(each, dict) and each.get("digest") == entry["digest"] for each in listed):
        return data
    return msgspec.json.encode({**index, "manifests": [*listed, entry]})


def decode_platform(value: Any) -> Platform:
    """Read a platform, decoded JSON.  Raises Invalid."""
    return _convert(value, Platform)


def decode_archive(data: bytes) -> list[ArchiveItem]:
    """Read the manifest.json of a docker-archive.  Raises Invalid."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Invalid(f"invalid manifest.json: {error}") from None
    if not isinstance(value, list):
        raise Invalid("invalid manifest.json: it is no list of images")
    return [_convert(item, ArchiveItem) for item in value]


def this_moment() -> str:
    """Now, as a configuration tells when its image was made: RFC 3339 in UTC, with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds(created: str) -> int:
    """An RFC 3339 time as whole seconds since the epoch; Go's zero time for what is none."""
    try:
        # At most six digits of a second: what datetime takes.
        moment = datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", created.replace("Z", "+00:00")))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return -62135596800


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Invalid(f"invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise Invalid("invalid JSON: an object is expected")
    return value


def _convert(value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(_without_nulls(value, 16), kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Invalid(f"invalid {kind.__name__}: {error}") from None


def _without_nulls(value: Any, depth: int) -> Any:
    """null means "leave the zero value"; nothing that is read is nested deeper than `depth`."""
    if isinstance(value, dict) and depth:
        return {key: _without_nulls(item, depth - 1) for key, item in value.items() if item is not None}
    if isinstance(value, list) and depth:
        return [_without_nulls(item, depth - 1) for item in value if item is not None]
    return value
