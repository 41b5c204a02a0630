"""An OCI bundle: `config.json` and a root file system beside it."""

import os

from boxwright import errdefs
from boxwright.libcontainer import jsontext, validate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMIT = 16 << 20  # bytes of a config.json


class Bundle:
    """directory: absolute. spec: the decoded configuration. warnings: what is left out on this host."""

    __slots__ = ("directory", "spec", "warnings")

    def __init__(self, directory: str) -> None:
        self.directory = os.path.realpath(directory or ".")
        path = os.path.join(self.directory, "config.json")
        try:
            with open(path, "rb") as file:
                data = file.read(_LIMIT + 1)
        except FileNotFoundError:
            raise errdefs.NotFound(f"JSON specification file {path} not found") from None
        if len(data) > _LIMIT:
            raise errdefs.TooLarge(f"{path} is larger than {_LIMIT} bytes")
        try:
            spec = jsontext.loads(data)
        except ValueError as error:
            raise errdefs.InvalidParameter(f"{path}: {error}") from error
        if not isinstance(spec, dict) or not isinstance(spec.get("process"), dict):
            raise errdefs.InvalidParameter(f"{path} has no process")
        if not (spec.get("root") or {}).get("path"):
            raise errdefs.InvalidParameter(f"{path} has no root file system")
        self.spec: dict[str, Any] = spec
        for mount in spec.get("mounts") or ():
            if _is_bind(mount) and mount.get("source"):
                mount["source"] = os.path.join(self.directory, mount["source"])
        self.warnings = validate.check(spec)

    def root_mount(self) -> "dict[str, Any]":
        """The root file system as a Mount value."""
        path = os.path.join(self.directory, self.spec["root"]["path"])
        return {"type": "bind", "source": path, "readonly": False, "lock": None}

    def filter(self) -> bytes | None:
        """The compiled seccomp filter, or None; libseccomp is loaded only for a spec that has one."""
        config = (self.spec.get("linux") or {}).get("seccomp")
        if not config:
            return None
        from boxwright.libcontainer import seccomp_filter

        return seccomp_filter.compile(config)

    def cgroup_place(self, container_id: str) -> "tuple[str, str]":
        """(parent, name) of `linux.cgroupsPath`: absolute from the hierarchy's root, or relative to our own group."""
        path = (self.spec.get("linux") or {}).get("cgroupsPath") or f"/boxwright-runtime/{container_id}"
        parent, _, name = path.rstrip("/").rpartition("/")
        if not name or ".." in path.split("/"):
            raise errdefs.InvalidParameter(f"invalid cgroupsPath: {path}")
        return parent or ("/" if path.startswith("/") else ""), name


def _is_bind(mount: "dict[str, Any]") -> bool:
    options = mount.get("options") or ()
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options
