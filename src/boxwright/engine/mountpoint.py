"""One mount of a container as the engine keeps it: what inspect's `Mounts` shows, and what the spec is made from."""

from typing import Any

import msgspec


class MountPoint(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A bind, volume or tmpfs with every default decided at create.

    source: absolute path on the host; of a volume, where its data lies.
    name, driver: of a volume; until it is made, driver "" is whichever has one of this name, or local.
    named: the user named it, so `rm -v` leaves it.
    mode: the options as the user wrote them ("ro,z"); SELinux labels among them have no effect on this engine.
    subpath: of a volume, what of it the container sees: a relative path that is looked up at each start.
    copy: an empty volume takes the image's files at `destination`.
    options: of a tmpfs, as mount options; volume_options, labels: for the volume's driver when it makes the volume.
    create_source: a missing source directory of a bind is made (`-v` does, `--mount` does not).
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    named: bool = False
    subpath: str = ""
    copy: bool = False
    options: list[str] = msgspec.field(default_factory=list)
    volume_options: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    create_source: bool = False

    def to_docker(self) -> dict[str, Any]:
        """The entry of `Mounts` in inspect and list."""
        shown: dict[str, Any] = {"Type": self.type}
        if self.name:
            shown["Name"] = self.name
        shown |= {"Source": self.source, "Destination": self.destination}
        if self.driver:
            shown["Driver"] = self.driver
        return shown | {"Mode": self.mode, "RW": self.rw, "Propagation": self.propagation}
