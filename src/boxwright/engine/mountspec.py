"""Mount strings and mount objects of a request → MountPoint: `-v`, `--mount`, `--tmpfs`, `--volumes-from`.

Texts and the order of the checks are Docker's (volume/mounts); nothing here touches the host but for the existence of
a bind's source, which `--mount` demands at create.
"""

import os
import posixpath

from boxwright.engine.mountpoint import MountPoint
from boxwright.errdefs import InvalidParameter, NotImplemented_
from boxwright.types.mount import Mount

PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_ACCESS = frozenset({"ro", "rw"})
_LABELS = frozenset({"z", "Z"})
_COPY = frozenset({"nocopy"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated"})
_TMPFS_FLAGS = {
    "exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro", "async": "sync", "atime": "noatime",
    "diratime": "nodiratime", "strictatime": "relatime",
}  # fmt: skip
_TMPFS_OPPOSITE = _TMPFS_FLAGS | {off: on for on, off in _TMPFS_FLAGS.items()}
_TMPFS_KEYS = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})


def clean(path: str) -> str:
    """An absolute path in its shortest spelling ("//a/../b/" → "/b"); no symbolic link is followed."""
    return "/" + posixpath.normpath(path).lstrip("/")


def valid_mode(mode: str) -> bool:
    """Whether `mode` is a list of known mount modes, at most one of each kind."""
    if not mode:
        return True
    words = mode.split(",")
    kinds = (_ACCESS, PROPAGATIONS, _LABELS, _COPY, _CONSISTENCY)
    known = [sum(word in kind for word in words) for kind in kinds]
    return sum(known) == len(words) and max(known) == 1


def parse_bind(text: str, volume_driver: str = "") -> MountPoint:
    """`-v` with at least a source and a destination: "SOURCE:DESTINATION[:MODE]"; a relative source names a volume."""
    parts = text.split(":")
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and parts[1] and valid_mode(parts[1])):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source, destination = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    mode = parts[2] if len(parts) == 3 else ""
    if not valid_mode(mode):
        raise InvalidParameter(f"invalid mode: {mode}")
    words = mode.split(",")
    bind = source.startswith("/")
    kind = "bind" if bind else "volume"
    try:
        _check_destination(kind, destination)
        if bind and "nocopy" in words:
            raise _bad(kind, "field VolumeOptions must not be specified")
        propagation = next((word for word in words if word in PROPAGATIONS), "")
        if propagation and not bind:
            raise _bad(kind, "field BindOptions must not be specified")
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid volume specification: '{text}': {error}") from None
    point = MountPoint(type=kind, destination=clean(destination), mode=mode, rw="ro" not in words)
    if bind:
        point.source, point.propagation, point.create_source = clean(source), propagation, True
    else:
        point.name, point.named, point.copy = source, bool(source), "nocopy" not in words
        point.driver = volume_driver
    return point


def parse_mount(mount: Mount) -> MountPoint:
    """`--mount`: an entry of HostConfig.Mounts."""
    if not mount.target:
        raise _bad(mount.type, "field Target must not be empty")
    if mount.type == "bind":
        return _bind(mount)
    if mount.type == "volume":
        return _volume(mount)
    if mount.type == "tmpfs":
        return _tmpfs(mount)
    if mount.type == "image":
        raise NotImplemented_("HostConfig.Mounts: mounts of type image are not supported by this engine yet")
    if mount.type in ("cluster", "npipe"):
        raise NotImplemented_(f"HostConfig.Mounts: mounts of type {mount.type} are not supported by this engine")
    raise _bad(mount.type, "mount type unknown")


def parse_volumes_from(text: str) -> tuple[str, str]:
    """`--volumes-from` "CONTAINER[:MODE]" → (container, mode); the mode is "ro", "rw" and labels only."""
    if not text:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    name, colon, mode = text.partition(":")
    if not colon:
        return name, "rw"
    words = mode.split(",")
    if not valid_mode(mode) or any(word in PROPAGATIONS or word in _COPY for word in words):
        raise InvalidParameter(f"invalid mode: {mode}")
    return name, mode


def tmpfs_options(text: str) -> list[str]:
    """Mount options of a tmpfs: the safe defaults, each of which the user's comma-separated options may turn round.

    Of one setting the last value counts.  Raises InvalidParameter for an option that tmpfs does not have.
    """
    chosen = {"noexec": "noexec", "nosuid": "nosuid", "nodev": "nodev"}
    for option in filter(None, text.split(",")):
        key, equals, value = option.partition("=")
        if option in _TMPFS_OPPOSITE:
            chosen.pop(_TMPFS_OPPOSITE[option], None)
        elif option not in PROPAGATIONS and not (equals and value and key in _TMPFS_KEYS):
            raise InvalidParameter(f'invalid tmpfs option ["{option}"]')
        chosen[key] = option
    return list(chosen.values())


def check_tmpfs_destination(destination: str) -> None:
    """A key of HostConfig.Tmpfs has to be an absolute path other than "/"."""
    _not_root(destination)
    _absolute(destination)


def volume_destination(path: str) -> str:
    """Where a volume of Config.Volumes goes, which may be an image's.  Raises InvalidParameter."""
    _absolute("/" + path)
    return clean("/" + path)


def _bind(mount: Mount) -> MountPoint:
    options = mount.bind_options
    if not mount.source:
        raise _bad("bind", "field Source must not be empty")
    _check_destination("bind", mount.target)
    if options and options.propagation and options.propagation not in PROPAGATIONS:
        raise _bad("bind", f"invalid propagation mode: {options.propagation}")
    _no_extra(mount, "volume_options", "tmpfs_options", "image_options")
    try:
        _absolute(mount.source)
    except InvalidParameter as error:
        raise _bad("bind", str(error)) from None
    create = bool(options and options.create_mountpoint)
    if not create and not os.path.exists(mount.source):
        raise _bad("bind", f"bind source path does not exist: {mount.source}")
    point = MountPoint(
        type="bind",
        source=clean(mount.source),
        destination=clean(mount.target),
        rw=not mount.read_only,
        create_source=create,
    )
    if options:
        if options.read_only_non_recursive and not mount.read_only:
            raise _bad("bind", "mount cannot be recursively read-only, because it is not read-only")
        point.propagation = options.propagation
        point.non_recursive = options.non_recursive
        point.read_only_non_recursive = options.read_only_non_recursive
        point.read_only_force_recursive = options.read_only_force_recursive
    return point


def _volume(mount: Mount) -> MountPoint:
    _check_destination("volume", mount.target)
    _no_extra(mount, "bind_options", "tmpfs_options", "image_options")
    if not mount.source and mount.read_only:
        raise _bad("volume", "must not set ReadOnly mode when using anonymous volumes")
    options = mount.volume_options
    point = MountPoint(
        type="volume",
        name=mount.source,
        named=bool(mount.source),
        destination=clean(mount.target),
        rw=not mount.read_only,
        copy=not (options and options.no_copy),
    )
    if options:
        point.subpath = _subpath(mount, options.subpath)
        point.labels = options.labels or {}
        if options.driver_config:
            point.driver = options.driver_config.name
            point.volume_options = options.driver_config.options or {}
    return point


def _subpath(mount: Mount, path: str) -> str:
    """The shortest spelling of a path below the volume; "" is the volume itself."""
    if not path:
        return ""
    if not mount.source:
        raise _bad("volume", "must not set Subpath when using anonymous volumes")
    shortest = posixpath.normpath(path)
    if path.startswith("/") or shortest == ".." or shortest.startswith("../") or "\0" in path:
        raise _bad("volume", "subpath must be a relative path within the volume")
    return "" if shortest == "." else shortest


def _tmpfs(mount: Mount) -> MountPoint:
    _check_destination("tmpfs", mount.target)
    _no_extra(mount, "source", "bind_options", "volume_options", "image_options")
    options = mount.tmpfs_options
    words = ["ro"] if mount.read_only else []
    if options:
        if options.size_bytes < 0:
            raise _bad("tmpfs", f"invalid tmpfs size: {options.size_bytes}")
        words += [f"mode={options.mode:o}"] if options.mode else []
        words += [f"size={options.size_bytes}"] if options.size_bytes else []
        for entry in options.options or []:
            words.append(_tmpfs_flag(entry))
    return MountPoint(
        type="tmpfs",
        destination=clean(mount.target),
        rw=not mount.read_only,
        options=tmpfs_options(",".join(words)),
    )


def _tmpfs_flag(entry: list[str]) -> str:
    if len(entry) == 1 and entry[0] in ("exec", "noexec"):
        return entry[0]
    if len(entry) == 2 and entry[0] in ("uid", "gid"):
        return "=".join(entry)
    raise _bad("tmpfs", f"invalid option: {'='.join(entry)}")


def _check_destination(kind: str, destination: str) -> None:
    try:
        _not_root(destination)
        _absolute(destination)
    except InvalidParameter as error:
        raise _bad(kind, str(error)) from None


def _not_root(path: str) -> None:
    if path.startswith("/") and clean(path) == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")


def _absolute(path: str) -> None:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")
    if "\0" in path:
        raise InvalidParameter("invalid mount path: it holds a NUL byte")


def _no_extra(mount: Mount, *fields: str) -> None:
    for field in fields:
        if getattr(mount, field) not in (None, ""):
            name = "".join(word.capitalize() for word in field.split("_"))
            raise _bad(mount.type, f"field {name} must not be specified")


def _bad(kind: str, text: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{kind}": {text}')
