"""What this host can do, read once: cgroup controllers, kernel features, memory, names."""

import os
from functools import lru_cache
from typing import Any

import msgspec

from boxwright.libcontainer.cgroups.host import capabilities


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The abilities that settings are checked against and /info reports.

    cpus, mems: the lists that the parent cpuset offers, "0-3".  cgroup_version: "1" or "2".
    """

    memory_limit: bool = False
    swap_limit: bool = False
    memory_swappiness: bool = False
    memory_reservation: bool = False
    oom_kill_disable: bool = False
    pids_limit: bool = False
    cpu_shares: bool = False
    cpu_cfs: bool = False
    cpu_realtime: bool = False
    cpuset: bool = False
    blkio_weight: bool = False
    blkio_weight_device: bool = False
    blkio_read_bps: bool = False
    blkio_write_bps: bool = False
    blkio_read_iops: bool = False
    blkio_write_iops: bool = False
    hugetlb: bool = False
    cgroup_namespaces: bool = False
    cgroup_version: str = "1"
    cgroup_driver: str = "cgroupfs"
    cpus: str = ""
    mems: str = ""


@lru_cache(maxsize=1)
def host() -> HostInfo:
    """This machine's abilities."""
    found: dict[str, Any] = capabilities()
    return HostInfo(**{name: found[name] for name in HostInfo.__struct_fields__ if name in found})


def read(path: str, default: str = "") -> str:
    """A short file of /proc, /sys or /etc without its last newline; `default` when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536).rstrip("\n")
    except OSError:
        return default


def apparmor() -> bool:
    """Whether this kernel confines programs with AppArmor: its own answer, which needs no securityfs."""
    return read("/sys/module/apparmor/parameters/enabled").startswith("Y")


def memory_total() -> int:
    """Bytes of memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def operating_system() -> tuple[str, str]:
    """(PRETTY_NAME, VERSION_ID) of os-release(5)."""
    values: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        for line in read(path).splitlines():
            key, equals, value = line.partition("=")
            if equals:
                values.setdefault(key, value.strip("\"'"))
    return values.get("PRETTY_NAME", "Linux"), values.get("VERSION_ID", "")


def ip_forwarding() -> bool:
    """Whether the kernel forwards IPv4."""
    return read("/proc/sys/net/ipv4/ip_forward") == "1"
