"""What a life uses: the figures of its cgroup and the counters of its network interfaces.

The engine reads them itself: they are the kernel's own files, no namespace is entered, and a hundred shims are not
woken for one `docker stats`.
"""

import os
from functools import lru_cache
from typing import Any

from boxwright.libcontainer import cgroups

_COUNTERS = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
_COLUMNS = (0, 1, 2, 3, 8, 9, 10, 11)
_DEV_BYTES = 1 << 20


def read(cgroup: dict[str, str], pid: int) -> dict[str, Any]:
    """`Manager.stats` of `cgroup`, with `"networks"`: the counters of `interfaces(pid)`.

    Blocks for some 0.3 ms; a group or process that is gone has empty sections.
    """
    group = _group(cgroup["driver"], cgroup["parent"], cgroup["name"])
    return {**group.stats(), "networks": interfaces(pid)}


@lru_cache(maxsize=256)
def _group(driver: str, parent: str, name: str) -> cgroups.Manager:
    """Only its paths, which take as long to put together as four files to read."""
    return cgroups.manager(driver, parent, name)


def interfaces(pid: int) -> dict[str, dict[str, int]]:
    """Counters by interface of the network namespace of process `pid`, as seen from inside it, lo left out (proc(5)).

    {} for a process that is gone, and for one in our own namespace: the host's interfaces are no container's.
    """
    try:
        theirs = os.stat(f"/proc/{pid}/ns/net")
        if (theirs.st_dev, theirs.st_ino) == _ours():
            return {}
        with open(f"/proc/{pid}/net/dev", "rb", buffering=0) as file:
            text = b""
            while len(text) < _DEV_BYTES and (piece := file.read(65536)):
                text += piece
    except OSError:
        return {}
    return parse(text)


@lru_cache(maxsize=1)
def _ours() -> tuple[int, int]:
    """Our own network namespace, which an engine never leaves."""
    found = os.stat("/proc/self/ns/net")
    return found.st_dev, found.st_ino


def parse(text: bytes) -> dict[str, dict[str, int]]:
    """The counters in the text of /proc/net/dev: two lines of titles, then `name: number…` a line."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(b":")
        columns = numbers.split()
        if name.strip() != b"lo" and len(columns) >= 16:
            values = [int(columns[i]) for i in _COLUMNS]
            found[name.strip().decode("utf-8", "replace")] = dict(zip(_COUNTERS, values, strict=True))
    return found
