"""An image as the rest of the engine sees it."""

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from boxwright.errdefs import InvalidParameter, NotFound
from boxwright.specs import image as spec
from boxwright.specs.image import ImageConfig

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def host_architecture() -> str:
    """This machine's processor, as images name it."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


class Image:
    """A value: what `ImageStore.get` found.

    id: "sha256:…", the digest of the configuration.
    config: the configuration (OCI image-spec) as a dict; fields that are empty are absent, the types of all others have
    been checked.
    chain_ids: its layers, base first, as snapshotters take them.
    repo_tags, repo_digests: familiar forms, "busybox:latest" and "busybox@sha256:…".
    size: bytes of all layers.  created: seconds since the epoch.
    mounts, masked_paths: what a container of it needs beside its root (of hostfs only): OCI mounts, absolute paths.
    """

    __slots__ = (
        "architecture", "chain_ids", "config", "created", "id", "masked_paths", "mounts", "os", "parent", "parsed",
        "repo_digests", "repo_tags", "size", "tagged",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        parsed: ImageConfig,
        chain_ids: list[str],
        *,
        size: int = 0,
        created: int = 0,
        parent: str = "",
        tagged: str = "",
        repo_tags: Sequence[str] = (),
        repo_digests: Sequence[str] = (),
    ) -> None:
        self.id = id
        self.parsed = parsed
        self.config: dict[str, Any] = msgspec.to_builtins(parsed)
        self.chain_ids = chain_ids
        self.size, self.created, self.parent, self.tagged = size, created, parent, tagged
        self.repo_tags, self.repo_digests = list(repo_tags), list(repo_digests)
        self.architecture, self.os = parsed.architecture, parsed.os
        self.mounts: list[dict[str, Any]] = []
        self.masked_paths: list[str] = []

    @property
    def defaults(self) -> dict[str, Any]:
        """What a container starts from: User, Env, Cmd, Entrypoint, …; absent when empty."""
        found: dict[str, Any] = self.config.get("config") or {}
        return found

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels."""
        return self.parsed.config.labels or {}


def check_platform(image: Image, value: dict[str, Any]) -> None:
    """See that the image is for the platform, which is as OCI's JSON has it.

    Raises InvalidParameter for what is no platform, NotFound in dockerd's words when it is for another one.
    """
    try:
        wanted = spec.decode_platform(value)
    except spec.Invalid as error:
        raise InvalidParameter(str(error)) from None
    own = image.parsed
    if (wanted.os or "linux", wanted.architecture) != (own.os, own.architecture) or (
        wanted.variant and wanted.variant != own.variant
    ):
        shown = "/".join(part for part in (wanted.os or "linux", wanted.architecture, wanted.variant) if part)
        raise NotFound(f"image {image.id} was found but does not match the specified platform: wanted {shown}")
