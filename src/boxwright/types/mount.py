"""Mounts of a container: `HostConfig.Mounts` and the options of each type."""

from typing import Any, ClassVar

from .base import Int64, Model, Uint32


class BindOptions(Model):
    """Options of a mount of type `bind`."""

    omitempty: ClassVar = frozenset(
        {"propagation", "non_recursive", "create_mountpoint", "read_only_non_recursive", "read_only_force_recursive"}
    )
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class MountDriver(Model):
    """The volume driver that makes the volume of a mount (`DriverConfig`)."""

    omitempty: ClassVar = frozenset({"name", "options"})
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Model):
    """Options of a mount of type `volume`."""

    omitempty: ClassVar = frozenset({"no_copy", "labels", "subpath", "driver_config"})
    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: MountDriver | None = None


class ImageOptions(Model):
    """Options of a mount of type `image`."""

    omitempty: ClassVar = frozenset({"subpath"})
    subpath: str = ""


class TmpfsOptions(Model):
    """Options of a mount of type `tmpfs`; `size_bytes` 0 is the kernel's default, `mode` is octal permission bits."""

    omitempty: ClassVar = frozenset({"size_bytes", "mode", "options"})
    size_bytes: Int64 = 0
    mode: Uint32 = 0
    options: list[list[str]] | None = None


class ClusterOptions(Model):
    """Options of a mount of type `cluster`, which swarm alone has; kept so that it can be refused by name."""


class Mount(Model):
    """One entry of `HostConfig.Mounts`; `type` is bind, volume, tmpfs, image, npipe or cluster."""

    omitempty: ClassVar = frozenset(
        {
            "type",
            "source",
            "target",
            "read_only",
            "consistency",
            "bind_options",
            "volume_options",
            "image_options",
            "tmpfs_options",
            "cluster_options",
        }
    )
    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: ClusterOptions | None = None


class VolumeCreateRequest(Model):
    """Body of POST /volumes/create; an empty name asks for an anonymous volume, an empty driver for `local`."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None
