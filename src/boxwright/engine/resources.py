"""Resource settings: Docker's limits and warnings, what it discards when the kernel lacks it, and their OCI form."""

import os
import stat
from collections.abc import Sequence
from typing import Any

import msgspec

from boxwright.engine.hostinfo import HostInfo
from boxwright.errdefs import InvalidParameter, NotImplemented_, StepError
from boxwright.types.container import HostConfig, Resources, ThrottleDevice, WeightDevice

MIN_MEMORY = 6 << 20
CPU_PERIOD = 100_000  # microseconds, of the quota that NanoCpus means

_DISCARDED = "Your kernel does not support {} or the cgroup is not mounted. {} discarded."


def adapt(host_config: HostConfig) -> None:
    """Fill in what Docker fills in: swap is twice the memory, swappiness -1 is the kernel's own."""
    if host_config.memory > 0 and host_config.memory_swap == 0:
        host_config.memory_swap = host_config.memory * 2
    if host_config.memory_swappiness == -1:
        host_config.memory_swappiness = None
    if host_config.pids_limit is not None and host_config.pids_limit <= 0:
        host_config.pids_limit = None


def verify(r: Resources, host: HostInfo, update: bool = False) -> list[str]:
    """Check `r`, discard what this host cannot do and return the warnings; raises InvalidParameter."""
    warnings: list[str] = []
    _memory(r, host, warnings, update)
    _pids(r, host, warnings)
    _cpu(r, host, warnings)
    _cpuset(r, host, warnings)
    _blkio(r, host, warnings)
    _foreign(r, warnings)
    return warnings


def _memory(r: Resources, host: HostInfo, warnings: list[str], update: bool) -> None:
    if 0 != r.memory < MIN_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if r.memory > 0 and not host.memory_limit:
        warnings.append(_DISCARDED.format("memory limit capabilities", "Limitation"))
        r.memory, r.memory_swap = 0, -1
    if r.memory > 0 and r.memory_swap != -1 and not host.swap_limit:
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
        r.memory_swap = -1
    if 0 < r.memory_swap < r.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if r.memory == 0 and r.memory_swap > 0 and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if r.memory_swappiness is not None and not host.memory_swappiness:
        warnings.append(_DISCARDED.format("memory swappiness capabilities", "Memory swappiness"))
        r.memory_swappiness = None
    if r.memory_swappiness is not None and not 0 <= r.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {r.memory_swappiness}, valid memory swappiness range is 0-100")
    if r.memory_reservation > 0 and not host.memory_reservation:
        warnings.append(_DISCARDED.format("memory soft limit capabilities", "Limitation"))
        r.memory_reservation = 0
    if 0 < r.memory_reservation < MIN_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < r.memory < r.memory_reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    _oom(r, host, warnings)


def _oom(r: Resources, host: HostInfo, warnings: list[str]) -> None:
    if r.oom_kill_disable is not None and not host.oom_kill_disable:
        if r.oom_kill_disable:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        r.oom_kill_disable = None
    if r.oom_kill_disable and r.memory == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )


def _pids(r: Resources, host: HostInfo, warnings: list[str]) -> None:
    if r.pids_limit is not None and not host.pids_limit:
        if r.pids_limit > 0:
            warnings.append(_DISCARDED.format("PIDs limit capabilities", "PIDs limit"))
        r.pids_limit = None


def _cpu(r: Resources, host: HostInfo, warnings: list[str]) -> None:
    if r.nano_cpus > 0 and r.cpu_period > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if r.nano_cpus > 0 and r.cpu_quota > 0:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if r.nano_cpus > 0 and not host.cpu_cfs:
        raise InvalidParameter(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
        )
    if r.nano_cpus:
        cpus = os.cpu_count() or 1
        if not 0 < r.nano_cpus <= cpus * 1_000_000_000:
            raise InvalidParameter(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if r.cpu_shares > 0 and not host.cpu_shares:
        warnings.append(_DISCARDED.format("CPU shares", "Shares"))
        r.cpu_shares = 0
    if r.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({r.cpu_shares}): value must be a positive integer")
    if (r.cpu_period or r.cpu_quota) and not host.cpu_cfs:
        warnings.append("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.")
        r.cpu_period = r.cpu_quota = 0
    if r.cpu_period and not 1000 <= r.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < r.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (r.cpu_realtime_period or r.cpu_realtime_runtime) and not host.cpu_realtime:
        raise InvalidParameter("Your kernel does not support CPU real-time scheduler")
    if r.cpu_realtime_runtime > r.cpu_realtime_period > 0:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")


def _cpuset(r: Resources, host: HostInfo, warnings: list[str]) -> None:
    if (r.cpuset_cpus or r.cpuset_mems) and not host.cpuset:
        warnings.append(_DISCARDED.format("cpuset", "Cpuset"))
        r.cpuset_cpus = r.cpuset_mems = ""
    for wanted, offered, short, long in (
        (r.cpuset_cpus, host.cpus, "cpus", "CPUs"),
        (r.cpuset_mems, host.mems, "mems", "memory nodes"),
    ):
        if not wanted:
            continue
        try:
            missing = parse_list(wanted) - parse_list(offered)
        except ValueError:
            raise InvalidParameter(f"invalid value {wanted} for cpuset {short}") from None
        if missing and offered:
            raise InvalidParameter(f"Requested {long} are not available - requested {wanted}, available: {offered}")


def parse_list(text: str) -> set[int]:
    """The kernel's list format, "0-2,7" → {0, 1, 2, 7}; raises ValueError, also for more than 8,192 numbers."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or max(len(first), len(last)) > 5:
            raise ValueError(text)
        low, high = int(first), int(last or first)
        if high < low or high > 8192:
            raise ValueError(text)
        numbers.update(range(low, high + 1))
    return numbers


def _blkio(r: Resources, host: HostInfo, warnings: list[str]) -> None:
    if r.blkio_weight and not host.blkio_weight:
        warnings.append(_DISCARDED.format("Block I/O weight", "Weight"))
        r.blkio_weight = 0
    if r.blkio_weight and not 10 <= r.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if r.blkio_weight_device and not host.blkio_weight_device:
        warnings.append(_DISCARDED.format("Block I/O weight_device", "Weight-device"))
        r.blkio_weight_device = None
    for field, kind, direction in (
        ("blkio_device_read_bps", "BPS", "read"),
        ("blkio_device_write_bps", "BPS", "write"),
        ("blkio_device_read_iops", "IOPS", "read"),
        ("blkio_device_write_iops", "IOPS", "write"),
    ):
        if getattr(r, field) and not getattr(host, field.replace("device_", "")):
            what = f"{kind} Block I/O {direction} limit"
            warnings.append(_DISCARDED.format(what, f"Block I/O {kind} {direction} limit"))
            setattr(r, field, None)


def _foreign(r: Resources, warnings: list[str]) -> None:
    """What Linux, or this age, does not have."""
    if r.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        r.cpu_percent = 0
    if r.io_maximum_iops or r.io_maximum_bandwidth:
        what = "IOPs" if r.io_maximum_iops else "bandwidth"
        raise InvalidParameter(f"invalid QoS settings: linux does not support configuration of maximum {what}")
    if r.kernel_memory:
        warnings.append("Specifying a kernel memory limit is deprecated and will be removed in a future release.")
        r.kernel_memory = 0
    if r.kernel_memory_tcp:
        raise NotImplemented_("HostConfig.KernelMemoryTCP is not supported by this engine")


def copy(host_config: HostConfig) -> HostConfig:
    """A copy that `verify` and `adapt` may change."""
    return msgspec.structs.replace(host_config)


def to_spec(r: Resources) -> dict[str, Any]:
    """The OCI `linux.resources`, device rules excepted; only what is set is in it.

    Raises StepError when a block device that has a limit does not exist.
    """
    found = {"memory": _oci_memory(r), "cpu": _oci_cpu(r), "blockIO": _oci_blkio(r)}
    result: dict[str, Any] = {name: values for name, values in found.items() if values}
    if r.pids_limit:
        result["pids"] = {"limit": r.pids_limit}
    return result


def _oci_memory(r: Resources) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if r.memory > 0:
        values["limit"] = r.memory
    if r.memory_swap:
        values["swap"] = r.memory_swap
    if r.memory_reservation > 0:
        values["reservation"] = r.memory_reservation
    if r.memory_swappiness is not None:
        values["swappiness"] = r.memory_swappiness
    if r.oom_kill_disable:
        values["disableOOMKiller"] = True
    return values


def _oci_cpu(r: Resources) -> dict[str, Any]:
    quota, period = r.cpu_quota, r.cpu_period
    if r.nano_cpus > 0:
        quota, period = r.nano_cpus * CPU_PERIOD // 1_000_000_000, CPU_PERIOD
    values = {
        "shares": r.cpu_shares,
        "quota": quota,
        "period": period,
        "realtimeRuntime": r.cpu_realtime_runtime,
        "realtimePeriod": r.cpu_realtime_period,
        "cpus": r.cpuset_cpus,
        "mems": r.cpuset_mems,
    }
    return {name: value for name, value in values.items() if value}


def _oci_blkio(r: Resources) -> dict[str, Any]:
    values: dict[str, Any] = {
        "weight": r.blkio_weight,
        "weightDevice": _limits(r.blkio_weight_device, "weight"),
        "throttleReadBpsDevice": _limits(r.blkio_device_read_bps, "rate"),
        "throttleWriteBpsDevice": _limits(r.blkio_device_write_bps, "rate"),
        "throttleReadIOPSDevice": _limits(r.blkio_device_read_iops, "rate"),
        "throttleWriteIOPSDevice": _limits(r.blkio_device_write_iops, "rate"),
    }
    return {name: value for name, value in values.items() if value}


def _limits(devices: Sequence[WeightDevice | ThrottleDevice] | None, key: str) -> list[dict[str, int]]:
    found = []
    for device in devices or ():
        try:
            info = os.stat(device.path)
        except OSError as error:
            raise StepError(
                f"stat {device.path}: {(error.strerror or '').lower()}",
                step="cgroup",
                operation="stat",
                path=device.path,
                errno=error.errno or 0,
            ) from error
        if not stat.S_ISBLK(info.st_mode):
            raise StepError(f"{device.path}: not a block device", step="cgroup", operation="stat", path=device.path)
        found.append({"major": os.major(info.st_rdev), "minor": os.minor(info.st_rdev), key: getattr(device, key)})
    return found
