"""What this host can set, so that the engine warns or refuses before a container is made."""

import os

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups import files, fs2, hierarchy
from boxwright.linux import seccomp

# Ability → v1 controller and a file that must be in its root group; "" when being mounted is enough.
_V1 = {
    "memory_limit": ("memory", "memory.limit_in_bytes"),
    "memory_reservation": ("memory", "memory.soft_limit_in_bytes"),
    "memory_swappiness": ("memory", "memory.swappiness"),
    "swap_limit": ("memory", "memory.memsw.limit_in_bytes"),
    "oom_kill_disable": ("memory", "memory.oom_control"),
    "cpu_shares": ("cpu", "cpu.shares"),
    "cpu_cfs": ("cpu", "cpu.cfs_quota_us"),
    "cpu_realtime": ("cpu", "cpu.rt_runtime_us"),
    "cpuset": ("cpuset", "cpuset.cpus"),
    "blkio_read_bps": ("blkio", "blkio.throttle.read_bps_device"),
    "blkio_write_bps": ("blkio", "blkio.throttle.write_bps_device"),
    "blkio_read_iops": ("blkio", "blkio.throttle.read_iops_device"),
    "blkio_write_iops": ("blkio", "blkio.throttle.write_iops_device"),
    "pids_limit": ("pids", ""),
    "hugetlb": ("hugetlb", ""),
    "devices": ("devices", ""),
    "freezer": ("freezer", ""),
}

# Ability → a file of a group below the root; None: v2 cannot.
_V2 = {
    "memory_limit": "memory.max",
    "memory_reservation": "memory.low",
    "memory_swappiness": None,
    "swap_limit": "memory.swap.max",
    "oom_kill_disable": None,
    "cpu_shares": "cpu.weight",
    "cpu_cfs": "cpu.max",
    "cpu_realtime": None,
    "cpuset": "cpuset.cpus",
    "blkio_read_bps": "io.max",
    "blkio_write_bps": "io.max",
    "blkio_read_iops": "io.max",
    "blkio_write_iops": "io.max",
    "pids_limit": "pids.max",
    "freezer": "cgroup.freeze",
}


def capabilities(parent: str = "/") -> dict[str, object]:
    """What can be set for a group below `parent`.

    bools: memory_limit, memory_reservation, memory_swappiness, swap_limit, oom_kill_disable, cpu_shares, cpu_cfs,
    cpu_realtime, cpuset, blkio_weight, blkio_weight_device, blkio_{read,write}_{bps,iops}, pids_limit, hugetlb,
    devices, freezer, cgroup_namespaces, seccomp.
    cgroup_version: "1" or "2".  cgroup_driver: "cgroupfs".  cpus, mems: what may be asked for ("0-3"), "" without
    cpusets.  page_sizes: huge page sizes ("2MB").

    Files that only lower groups have are looked up in a group that is made for it and removed again.
    """
    driver = hierarchy.detect()
    found = _v1(parent) if driver == "fs" else _v2(parent)
    found.update(
        cgroup_version="1" if driver == "fs" else "2",
        cgroup_driver="cgroupfs",
        cgroup_namespaces=os.path.exists("/proc/self/ns/cgroup"),
        page_sizes=files.page_sizes(),
        seccomp=seccomp.action_available(seccomp.RET_ERRNO),
    )
    return found


def _v1(parent: str) -> dict[str, object]:
    mounts = hierarchy.host().v1
    found: dict[str, object] = {}
    for ability, (controller, name) in _V1.items():
        found[ability] = controller in mounts and os.path.exists(f"{mounts[controller].point}/{name}")
    weight = device = False
    if "blkio" in mounts:
        names = _names_of_a_group(_probe("blkio", parent))
        weight = bool(names & {"blkio.weight", "blkio.bfq.weight"})
        device = bool(names & {"blkio.weight_device", "blkio.bfq.weight_device"})
    point = mounts["cpuset"].point if "cpuset" in mounts else ""
    return {
        **found,
        "blkio_weight": weight,
        "blkio_weight_device": device,
        "cpus": files.read_or(f"{point}/cpuset.cpus", ""),
        "mems": files.read_or(f"{point}/cpuset.mems", ""),
    }


def _v2(parent: str) -> dict[str, object]:
    mount = hierarchy.host().v2
    point = mount.point if mount else ""
    probe = _probe("", parent)
    group = fs2.Manager({"": probe}, {}, point)
    try:
        group.make()
        names = set(os.listdir(probe))
        devices = group.can_attach_devices()
    except (OSError, StepError):
        # Without the right to make a group nothing can be set.
        names, devices = set(), False
    finally:
        group.destroy()
    weight = bool(names & {"io.weight", "io.bfq.weight"})
    return {
        **{ability: name is not None and name in names for ability, name in _V2.items()},
        "blkio_weight": weight,
        "blkio_weight_device": weight,
        "hugetlb": any(name.startswith("hugetlb.") for name in names),
        "devices": devices,
        "cpus": files.read_or(f"{point}/cpuset.cpus.effective", ""),
        "mems": files.read_or(f"{point}/cpuset.mems.effective", ""),
    }


def _probe(controller: str, parent: str) -> str:
    host = hierarchy.host()
    mount = host.v1[controller] if controller else host.v2
    if mount is None:
        raise StepError("cgroup: cgroup v2 is not mounted", step="cgroup", operation="detect")
    return hierarchy.directory(mount, host.own.get(controller, "/"), parent, f"boxwright-probe-{os.getpid()}")


def _names_of_a_group(directory: str) -> set[str]:
    try:
        os.mkdir(directory)
    except OSError:
        return set()
    try:
        return set(os.listdir(directory))
    finally:
        os.rmdir(directory)
