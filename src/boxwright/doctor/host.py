"""Whether this machine can carry containers, and how well."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import boxwright
from boxwright.doctor.findings import Finding
from boxwright.engine import hostinfo
from boxwright.errdefs import Error
from boxwright.linux import memfd
from boxwright.network.nftables import Nftables
from boxwright.storage import overlay

OLDEST_KERNEL = (5, 10)
SPACE, SHARE = 1 << 30, 0.05  # bytes; part of the file system
DESCRIPTORS = 4096


def check(data_root: str, instance: str) -> Iterator[Finding]:
    """instance: of the data root, "" when no engine has been there."""
    yield from _kernel()
    yield from _cgroups()
    yield from _storage(data_root)
    yield from _network(instance)
    yield from _limits()
    yield from _interpreter()


def _kernel() -> Iterator[Finding]:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST_KERNEL:
        yield Finding(
            "error", "kernel", release, "too old: containers are made by calls of 5.10 and later", "upgrade it"
        )
    if hostinfo.read("/proc/sys/user/max_user_namespaces") == "0":
        yield Finding(
            "warning",
            "user namespaces",
            "user.max_user_namespaces",
            "none may be made",
            "sysctl -w user.max_user_namespaces=15000",
        )
    actions = hostinfo.read("/proc/sys/kernel/seccomp/actions_avail").split()
    if "errno" not in actions:
        yield Finding(
            "error",
            "seccomp",
            "kernel",
            "no seccomp filter: containers reach every system call",
            "a kernel with CONFIG_SECCOMP_FILTER",
        )
    if time.time() < os.stat(boxwright.__file__).st_mtime - 86400:
        yield Finding("error", "clock", time.ctime(), "it is behind this program's own files", "set the clock")


def _cgroups() -> Iterator[Finding]:
    try:
        host = hostinfo.host()
    except Error as error:
        yield Finding("error", "cgroups", "/sys/fs/cgroup", str(error), "mount cgroup2 there")
        return
    for ability, what in (
        ("memory_limit", "memory limits"),
        ("pids_limit", "limits of processes (fork bombs are not held)"),
        ("cpu_cfs", "CPU limits"),
        ("cpuset", "CPU sets"),
        ("swap_limit", "swap limits"),
    ):
        if not getattr(host, ability):
            advice = "enable the controller for this level, or boot with cgroup_enable="
            yield Finding("warning", "cgroups", ability.replace("_", " "), f"this host has no {what}", advice)


def _storage(data_root: str) -> Iterator[Finding]:
    directory = data_root
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory) or "/"
    if "overlay" not in hostinfo.read("/proc/filesystems"):
        yield Finding(
            "warning",
            "overlay",
            "kernel",
            "no overlay file system: every container gets a copy of its image",
            "modprobe overlay",
        )
    elif os.path.isdir(data_root) and not overlay.supported(data_root):
        yield Finding(
            "warning",
            "overlay",
            data_root,
            "its file system cannot carry one: vfs copies images",
            "a data root on ext4 or xfs",
        )
    found = os.statvfs(directory)
    free, whole = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    if free < min(SPACE, whole * SHARE):
        yield Finding("warning", "space", data_root, f"{free >> 20} MiB are free", "make room: boxwright images, rm")
    if found.f_files and found.f_favail < found.f_files * SHARE:
        yield Finding(
            "warning", "inodes", data_root, f"{found.f_favail} are free", "remove images, or make the file system anew"
        )
    if os.path.isdir(data_root) and (mode := os.stat(data_root).st_mode & 0o777) & 0o027:
        yield Finding(
            "error",
            "data root",
            data_root,
            f"others can look into it (mode {mode:04o}, CVE-2021-41091)",
            f"chmod 0710 {data_root}",
        )


def _network(instance: str) -> Iterator[Finding]:
    try:
        nft = Nftables()
    except Error as error:
        yield Finding("error", "nftables", "libnftables.so.1", str(error), "install libnftables1")
        return
    with closing(nft):
        try:
            yield from _dropping(nft, instance)
        except Error as error:
            yield Finding("warning", "nftables", "ruleset", f"it cannot be read: {error}", "nft list ruleset shows why")
    if instance and not hostinfo.ip_forwarding():
        yield Finding(
            "warning",
            "forwarding",
            "net.ipv4.ip_forward",
            "off: containers reach nothing outside",
            "restart the engine, which turns it on",
        )


def _dropping(nft: Nftables, instance: str) -> Iterator[Finding]:
    """Chains of other programs that drop what is forwarded, and have no accept rule of ours (any more)."""
    if not instance:
        return
    for item in nft.query("list chains"):
        chain = item.get("chain", {})
        if chain.get("hook") != "forward" or chain.get("policy") != "drop" or chain.get("family") not in ("ip", "inet"):
            continue
        where = f"{chain['family']} {chain['table']} {chain['name']}"
        rules = [rule for listed in nft.query(f"list chain {where}") if (rule := listed.get("rule"))]
        if not any(rule.get("comment") == f"boxwright_{instance}" for rule in rules):
            yield Finding(
                "warning",
                "firewall",
                where,
                "it drops forwarded packets and has no accept rule of ours: published ports and the way out are cut",
                "restart the engine, which inserts its accept rules; containers run on",
            )


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        yield Finding(
            "warning", "limits", "RLIMIT_NOFILE", f"{soft} of {hard} descriptors", "LimitNOFILE=1048576 in the unit"
        )
    for path, low in (("kernel/pid_max", 4096), ("fs/inotify/max_user_instances", 128), ("kernel/keys/maxkeys", 200)):
        value = hostinfo.read(f"/proc/sys/{path}", str(low))
        if value.isdigit() and int(value) < low:
            yield Finding("warning", "limits", path.replace("/", "."), f"{value} is little", f"at least {low}")


def _interpreter() -> Iterator[Finding]:
    if hostinfo.read("/proc/sys/vm/memfd_noexec") == "2":
        yield Finding(
            "warning",
            "memfd",
            "vm.memfd_noexec=2",
            "no sealed copy of Python can be executed: a read-only mount of it is used",
            "nothing: the way round is as tight",
        )
    if directory := memfd.origin_library_directory(os.path.realpath(sys.executable)):
        yield Finding(
            "warning",
            "python",
            sys.executable,
            f"it finds libpython by $ORIGIN; started with LD_LIBRARY_PATH={directory}",
            "nothing, while that directory stays there",
        )
