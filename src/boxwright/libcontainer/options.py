"""Mount options as OCI and mount(8) spell them → attributes, propagation and the file system's own settings."""

from boxwright.linux import mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# option: (attributes to set, attributes to clear)
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (mount.ATTR_RDONLY, 0),
    "rw": (0, mount.ATTR_RDONLY),
    "nosuid": (mount.ATTR_NOSUID, 0),
    "suid": (0, mount.ATTR_NOSUID),
    "nodev": (mount.ATTR_NODEV, 0),
    "dev": (0, mount.ATTR_NODEV),
    "noexec": (mount.ATTR_NOEXEC, 0),
    "exec": (0, mount.ATTR_NOEXEC),
    "noatime": (mount.ATTR_NOATIME, mount.ATTR_ATIME),
    "atime": (0, mount.ATTR_ATIME),
    "relatime": (0, mount.ATTR_ATIME),
    "norelatime": (0, mount.ATTR_ATIME),
    "strictatime": (mount.ATTR_STRICTATIME, mount.ATTR_ATIME),
    "nostrictatime": (0, mount.ATTR_ATIME),
    "nodiratime": (mount.ATTR_NODIRATIME, 0),
    "diratime": (0, mount.ATTR_NODIRATIME),
    "nosymfollow": (mount.ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, mount.ATTR_NOSYMFOLLOW),
}
PROPAGATION: dict[str, tuple[int, bool]] = {
    prefix + name: (value, bool(prefix))
    for name, value in (
        ("private", mount.PROPAGATION_PRIVATE),
        ("shared", mount.PROPAGATION_SHARED),
        ("slave", mount.PROPAGATION_SLAVE),
        ("unbindable", mount.PROPAGATION_UNBINDABLE),
    )
    for prefix in ("", "r")
}
_SUPERBLOCK_FLAGS = frozenset(("sync", "dirsync", "lazytime", "mand", "iversion", "silent"))
_NOTHING = frozenset(("defaults", "async", "nolazytime", "nomand", "noiversion", "loud", "remount", "norro", ""))
_UNSUPPORTED = frozenset(("idmap", "ridmap", "tmpcopyup", "copyup"))


class Options:
    """A parsed option list.

    add, remove: attributes of the mount itself.  add_all, remove_all: of everything below it too (`rro`, `rnosuid`).
    propagation: (PROPAGATION_ value, recursive), or None when none is named.
    bind, recursive: `bind` or `rbind`.  data: settings of the file system: (key, value or None for a bare flag).
    """

    __slots__ = ("add", "add_all", "bind", "data", "propagation", "recursive", "remove", "remove_all")

    def __init__(self) -> None:
        self.add = self.remove = self.add_all = self.remove_all = 0
        self.propagation: tuple[int, bool] | None = None
        self.bind = self.recursive = False
        self.data: list[tuple[str, str | None]] = []


def parse(options: "Iterable[str]") -> Options:
    """Parse an OCI option list; a later option overrides an earlier one.  Raises ValueError for an unsupported one."""
    result = Options()
    for option in options:
        if option in _ATTRIBUTES:
            add, remove = _ATTRIBUTES[option]
            result.add, result.remove = result.add & ~remove | add, result.remove & ~add | remove
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            add, remove = _ATTRIBUTES[option[1:]]
            result.add_all, result.remove_all = result.add_all & ~remove | add, result.remove_all & ~add | remove
        elif option in PROPAGATION:
            result.propagation = PROPAGATION[option]
        elif option in ("bind", "rbind"):
            result.bind, result.recursive = True, option == "rbind"
        elif option in _UNSUPPORTED:
            raise ValueError(f"mount option {option} is not supported")
        elif option not in _NOTHING:
            key, separator, value = option.partition("=")
            result.data.append((key, value if separator else None))
    return result


def is_superblock_flag(key: str) -> bool:
    """Whether a bare option belongs to every file system (VFS superblock flags) rather than to its own parser."""
    return key in _SUPERBLOCK_FLAGS
