"""What a test could leave on the machine: taken before and after a module, and compared."""

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

WATCHED_DIRECTORIES = ("/run", "/run/boxwright", "/var/lib", "/dev/shm", "/tmp", "/run/netns", "/etc")


@dataclass
class Snapshot:
    """Sets of readable names, by kind."""

    kinds: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def take(cls) -> "Snapshot":
        return cls(
            {
                "mounts": set(_mounts()),
                "links": set(os.listdir("/sys/class/net")),
                "netns": set(_network_namespaces()),
                "cgroups": set(_cgroups()),
                "processes": set(_processes()),
                "nft tables": set(_nft_tables()),
                "directories": {
                    f"{d}/{name}" for d in WATCHED_DIRECTORIES if os.path.isdir(d) for name in os.listdir(d)
                },
            }
        )

    def left_behind(self, after: "Snapshot") -> list[str]:
        """Lines `kind: name` for what is in `after` and was not here before."""
        return [
            f"{kind}: {name}"
            for kind in self.kinds
            for name in sorted(after.kinds[kind] - self.kinds[kind])
            if not _ignored(name)
        ]


def _ignored(name: str) -> bool:
    # pytest's own temporary directories are kept for three runs by design.
    return "/pytest-of-" in name or name.endswith("/.hypothesis")


def _mounts() -> Iterable[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        yield f"{fields[4]} ({line.split(' - ')[1].split()[0]})"


def _network_namespaces() -> Iterable[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            continue


def _cgroups() -> Iterable[str]:
    # Only groups that carry our name: the machine's own (process managers') come and go by themselves.
    for root, directories, _ in os.walk("/sys/fs/cgroup"):
        for d in directories:
            if re.search(r"boxwright|bwt", f"{root}/{d}"):
                yield f"{root}/{d}"


def _processes() -> Iterable[str]:
    me = os.getpid()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]
        if int(pid) == me or (not command and state != "Z") or parent == "2":
            continue
        if _ours(int(pid), command):
            yield f"{pid} {state} {command[:100]}"


def _ours(pid: int, command: str) -> bool:
    """Processes of the product or of the tests; the machine's own come and go by themselves."""
    if "boxwright" in command or "/launcher" in command:
        return True
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
    return "boxwright" in groups


def _nft_tables() -> Iterable[str]:
    try:
        out = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, timeout=30).stdout
    except FileNotFoundError:
        return []
    return [line for line in out.splitlines() if "boxwright" in line or "bwt" in line]
