"""OCI resources → the v1 files to write."""

from boxwright.libcontainer.cgroups import resources as res

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from boxwright.libcontainer.cgroups.resources import Group, Resources


def plan(resources: "Resources", has: "Callable[[str, str], bool]") -> "list[Group]":
    """Every file that `resources` asks for, devices excepted.  Not named → not written.

    has: whether the group has file (controller, name); asked for a block I/O weight, which has two names, and where a
    limit is lifted: without the file there is none.
    """
    groups: list[Group] = [
        *_memory(res.section(resources, "memory"), has),
        *_cpu(res.section(resources, "cpu")),
        *_pids(res.section(resources, "pids"), has),
        *_blkio(res.section(resources, "blockIO"), has),
        *_hugetlb(resources),
        *_network(res.section(resources, "network")),
        *res.rdma(resources),
    ]
    unified = res.section(resources, "unified")
    for name, value in unified.items():
        raise res.refused(name, value, "unified settings need cgroup v2, and this host has v1")
    return groups


def _memory(memory: "Resources", has: "Callable[[str, str], bool]") -> "list[Group]":
    limit, swap = res.integer(memory, "limit"), res.integer(memory, "swap")
    if limit == -1 and not swap:
        # Without this the old limit with swap stays as the real limit.
        swap = -1
    bounds: Group = []
    if limit:
        bounds.append(("memory", "memory.limit_in_bytes", str(limit)))
    if swap and (swap > 0 or has("memory", "memory.memsw.limit_in_bytes")):
        bounds.append(("memory", "memory.memsw.limit_in_bytes", str(swap)))
    groups: list[Group] = [bounds] if bounds else []
    for key, name in (
        ("reservation", "memory.soft_limit_in_bytes"),
        ("kernel", "memory.kmem.limit_in_bytes"),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
    ):
        if value := res.integer(memory, key):
            groups.append([("memory", name, str(value))])
    if (swappiness := res.integer(memory, "swappiness")) is not None:
        if not 0 <= swappiness <= 100:
            raise res.refused("memory.swappiness", swappiness, "valid memory swappiness range is 0-100")
        groups.append([("memory", "memory.swappiness", str(swappiness))])
    disable = memory.get("disableOOMKiller")
    if disable is not None:
        groups.append([("memory", "memory.oom_control", "1" if disable else "0")])
    return groups


def _cpu(cpu: "Resources") -> "list[Group]":
    groups: list[Group] = []
    if (shares := res.shares(cpu)) is not None:
        groups.append([("cpu", "cpu.shares", str(shares))])
    for first, second in (
        (("realtimePeriod", "cpu.rt_period_us"), ("realtimeRuntime", "cpu.rt_runtime_us")),
        (("period", "cpu.cfs_period_us"), ("quota", "cpu.cfs_quota_us")),
    ):
        pair = [("cpu", name, str(value)) for key, name in (first, second) if (value := res.integer(cpu, key))]
        if pair:
            groups.append(pair)
    if (burst := res.integer(cpu, "burst")) is not None:
        groups.append([("cpu", "cpu.cfs_burst_us", str(burst))])
    if (idle := res.integer(cpu, "idle")) is not None:
        groups.append([("cpu", "cpu.idle", str(idle))])
    for key in ("cpus", "mems"):
        if value := cpu.get(key):
            groups.append([("cpuset", f"cpuset.{key}", str(value))])
    return groups


def _pids(pids: "Resources", has: "Callable[[str, str], bool]") -> "list[Group]":
    value = res.integer(pids, "limit")
    if value is None or (value <= 0 and not has("pids", "pids.max")):
        return []
    return [[("pids", "pids.max", res.limit(value or -1))]]


def _blkio(block: "Resources", has: "Callable[[str, str], bool]") -> "list[Group]":
    groups: list[Group] = []
    weight, devices = res.integer(block, "weight"), res.items(block, "weightDevice")
    if weight or devices:
        # CFQ and its blkio.weight left the kernel with 5.0; BFQ brings its own file.
        name = "blkio.bfq.weight" if has("blkio", "blkio.bfq.weight") else "blkio.weight"
        if weight:
            groups.append([("blkio", name, str(weight))])
        for item in devices:
            groups.append([("blkio", f"{name}_device", f"{res.device(item)} {res.integer(item, 'weight')}")])
    if leaf := res.integer(block, "leafWeight"):
        groups.append([("blkio", "blkio.leaf_weight", str(leaf))])
    for key, name in (
        ("throttleReadBpsDevice", "read_bps"),
        ("throttleWriteBpsDevice", "write_bps"),
        ("throttleReadIOPSDevice", "read_iops"),
        ("throttleWriteIOPSDevice", "write_iops"),
    ):
        for item in res.items(block, key):
            value = f"{res.device(item)} {res.integer(item, 'rate')}"
            groups.append([("blkio", f"blkio.throttle.{name}_device", value)])
    return groups


def _hugetlb(resources: "Resources") -> "list[Group]":
    return [
        [("hugetlb", f"hugetlb.{res.page_size(item)}.limit_in_bytes", str(res.integer(item, "limit")))]
        for item in res.items(resources, "hugepageLimits")
    ]


def _network(network: "Resources") -> "list[Group]":
    groups: list[Group] = []
    if class_id := res.integer(network, "classID"):
        groups.append([("net_cls", "net_cls.classid", str(class_id))])
    for item in res.items(network, "priorities"):
        value = f"{item.get('name')} {res.integer(item, 'priority')}"
        groups.append([("net_prio", "net_prio.ifpriomap", value)])
    return groups
