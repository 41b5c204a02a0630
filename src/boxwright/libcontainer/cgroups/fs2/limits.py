"""OCI resources → the v2 files to write."""

from math import ceil, log2

from boxwright.libcontainer.cgroups import resources as res

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from boxwright.libcontainer.cgroups.resources import Group, Resources


def plan(resources: "Resources", current: "Callable[[str], str | None]") -> "list[Group]":
    """Every file that `resources` asks for, devices excepted.  Not named → not written.

    current: the content of a file of the group, None when it has no such file.  Asked where v2 puts two v1 settings
    into one file and only one of them is given, for a block I/O weight, which has two names, and where a limit is
    lifted: without the file there is none.
    """
    groups: list[Group] = [
        *_memory(res.section(resources, "memory"), current),
        *_cpu(res.section(resources, "cpu"), current),
        *_pids(res.section(resources, "pids"), current),
        *_io(res.section(resources, "blockIO"), current),
        *_hugetlb(resources, current),
        *res.rdma(resources),
    ]
    for key, value in res.section(resources, "network").items():
        if value:
            raise res.refused(f"network.{key}", value, "cgroup v2 has no network classes and priorities")
    for name, value in res.section(resources, "unified").items():
        if "/" in name or "." not in name or not isinstance(value, str):
            raise res.refused(f"unified.{name}", value, "it must name a file of the group and give its text")
        groups.append([(name.partition(".")[0], name, value)])
    return groups


def _memory(memory: "Resources", current: "Callable[[str], str | None]") -> "list[Group]":
    for key in ("kernel", "kernelTCP", "swappiness"):
        if memory.get(key):
            raise res.refused(f"memory.{key}", memory[key], "cgroup v2 does not have it")
    if memory.get("disableOOMKiller"):
        raise res.refused("memory.disableOOMKiller", True, "cgroup v2 cannot disable the OOM killer")
    limit, swap = res.integer(memory, "limit"), res.integer(memory, "swap")
    groups: list[Group] = []
    if limit:
        groups.append([("memory", "memory.max", res.limit(limit))])
    if limit == -1 and not swap:
        swap = -1
    if swap and (swap > 0 or current("memory.swap.max") is not None):
        groups.append([("memory", "memory.swap.max", res.limit(_swap(swap, limit, current)))])
    if low := res.integer(memory, "reservation"):
        groups.append([("memory", "memory.low", res.limit(low))])
    return groups


def _swap(swap: int, limit: int | None, current: "Callable[[str], str | None]") -> int:
    """OCI counts memory and swap together, v2 counts swap alone."""
    if swap < 0:
        return -1
    if not limit:
        text = current("memory.max") or "max"
        limit = -1 if text == "max" else int(text)
    if limit < 0:
        raise res.refused("memory.swap", swap, "a swap limit needs a memory limit")
    if swap < limit:
        raise res.refused("memory.swap", swap, f"it counts memory too and is below the memory limit {limit}")
    return swap - limit


def weight_of_shares(shares: int) -> int:
    """cpu.shares (2..262144, usually 1024) → cpu.weight (1..10000, usually 100).

    A curve in the logarithms through the three pairs (minimum, usual, maximum), as runc 1.4 and crun have it; the
    straight line that was used before gave the usual 1024 shares only weight 39.
    """
    exponent = log2(shares)
    return ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def weight_of_blkio(weight: int) -> int:
    """blkio.weight (10..1000) → io.weight (1..10000)."""
    return 1 + (weight - 10) * 9999 // 990


def _cpu(cpu: "Resources", current: "Callable[[str], str | None]") -> "list[Group]":
    for key in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(key):
            raise res.refused(f"cpu.{key}", cpu[key], "cgroup v2 does not schedule real-time groups")
    groups: list[Group] = []
    if (idle := res.integer(cpu, "idle")) is not None:
        groups.append([("cpu", "cpu.idle", str(idle))])
    if (shares := res.shares(cpu)) is not None:
        groups.append([("cpu", "cpu.weight", str(weight_of_shares(shares)))])
    quota, period = res.integer(cpu, "quota"), res.integer(cpu, "period")
    if quota or period:
        text = res.limit(quota) if quota else (current("cpu.max") or "max").split()[0]
        groups.append([("cpu", "cpu.max", f"{text} {period}" if period else text)])
    if (burst := res.integer(cpu, "burst")) is not None:
        groups.append([("cpu", "cpu.max.burst", str(burst))])
    for key in ("cpus", "mems"):
        if value := cpu.get(key):
            groups.append([("cpuset", f"cpuset.{key}", str(value))])
    return groups


def _pids(pids: "Resources", current: "Callable[[str], str | None]") -> "list[Group]":
    value = res.integer(pids, "limit")
    if value is None or (value <= 0 and current("pids.max") is None):
        return []
    return [[("pids", "pids.max", res.limit(value or -1))]]


def _io(block: "Resources", current: "Callable[[str], str | None]") -> "list[Group]":
    groups: list[Group] = []
    weight, devices = res.integer(block, "weight"), res.items(block, "weightDevice")
    if leaf := res.integer(block, "leafWeight"):
        raise res.refused("blockIO.leafWeight", leaf, "cgroup v2 does not have it")
    if weight or devices:
        bfq = current("io.bfq.weight") is not None
        name = "io.bfq.weight" if bfq else "io.weight"
        if weight:
            groups.append([("io", name, str(weight if bfq else weight_of_blkio(weight)))])
        for item in devices:
            own = res.integer(item, "weight") or 0
            groups.append([("io", name, f"{res.device(item)} {own if bfq else weight_of_blkio(own)}")])
    for key, name in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for item in res.items(block, key):
            groups.append([("io", "io.max", f"{res.device(item)} {name}={res.integer(item, 'rate') or 'max'}")])
    return groups


def _hugetlb(resources: "Resources", current: "Callable[[str], str | None]") -> "list[Group]":
    groups: list[Group] = []
    for item in res.items(resources, "hugepageLimits"):
        size, value = res.page_size(item), res.limit(res.integer(item, "limit") or 0)
        groups.append([("hugetlb", f"hugetlb.{size}.max", value)])
        # Without it a reservation that is never touched escapes the limit (kernel 5.7 and later have the file).
        if current(f"hugetlb.{size}.rsvd.max") is not None:
            groups.append([("hugetlb", f"hugetlb.{size}.rsvd.max", value)])
    return groups
