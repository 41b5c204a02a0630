"""Kernel settings of a container's own namespaces, written through its private procfs."""

import os

from boxwright.libcontainer import faults
from boxwright.linux import inroot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.libcontainer.world import World

_RESOLVE = inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS | inroot.RESOLVE_NO_XDEV
# Settings per interface exist only once the interface does; these are there from the start.
_ALWAYS = frozenset(("all", "default", "lo"))
_PER_INTERFACE = frozenset(("conf", "neigh"))


def path_of(key: str) -> str:
    """The path below /proc/sys of a sysctl key, as sysctl(8) reads it: the first of "." and "/" in it is what parts
    the words, the other stands for the dot in one ("net.ipv4.conf.eth0/100.forwarding")."""
    dot, slash = key.find("."), key.find("/")
    if slash >= 0 and (dot < 0 or slash < dot):
        return key
    return key.replace(".", "\0").replace("/", ".").replace("\0", "/")


def waits_for_network(key: str) -> bool:
    """Whether a setting belongs to an interface that appears only with the engine's "go"."""
    parts = path_of(key).split("/")
    return len(parts) > 4 and parts[0] == "net" and parts[2] in _PER_INTERFACE and parts[3] not in _ALWAYS


class Sysctls:
    """Write `values` (key → text)."""

    __slots__ = ("values",)
    step = "sysctls"

    def __init__(self, values: "dict[str, str]") -> None:
        self.values = values

    def describe(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values.items())

    def run(self, world: "World") -> None:
        for key, value in self.values.items():
            try:
                fd = inroot.openat2(world.proc(), "sys/" + path_of(key), os.O_WRONLY, _RESOLVE)
                try:
                    os.write(fd, str(value).encode())
                finally:
                    os.close(fd)
            except OSError as error:
                message = f"sysctl {key}={value}"
                raise faults.step_error(error, "sysctls", message, "/proc/sys/" + path_of(key)) from error


def split(values: "dict[str, str] | None") -> "tuple[Sysctls | None, Sysctls | None]":
    """(before the gate, after it); None where there is nothing to write."""
    early = {key: value for key, value in (values or {}).items() if not waits_for_network(key)}
    late = {key: value for key, value in (values or {}).items() if key not in early}
    return (Sysctls(early) if early else None, Sysctls(late) if late else None)
