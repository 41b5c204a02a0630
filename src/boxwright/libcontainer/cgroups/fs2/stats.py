"""Usage of a v2 group in the shape of Manager.stats."""

from boxwright.libcontainer.cgroups import files


def collect(directory: str) -> dict[str, object]:
    """All sections; see Manager.stats."""
    controllers = files.read_or(f"{directory}/cgroup.controllers", "").split()
    return {
        "cpu": _cpu(directory),
        "memory": _memory(directory) if "memory" in controllers else {},
        "pids": _pids(directory) if "pids" in controllers else {},
        "blkio": _io(directory) if "io" in controllers else {},
        "hugetlb": _hugetlb(directory) if "hugetlb" in controllers else {},
    }


def _cpu(directory: str) -> dict[str, object]:
    table = files.table(f"{directory}/cpu.stat")
    if not table:
        return {}
    return {
        "usage_ns": table.get("usage_usec", 0) * 1000,
        "user_ns": table.get("user_usec", 0) * 1000,
        "system_ns": table.get("system_usec", 0) * 1000,
        "percpu_ns": [],
        "periods": table.get("nr_periods", 0),
        "throttled_periods": table.get("nr_throttled", 0),
        "throttled_ns": table.get("throttled_usec", 0) * 1000,
    }


def _memory(directory: str) -> dict[str, object]:
    events = files.table(f"{directory}/memory.events")
    usage = files.number(f"{directory}/memory.current")
    return {
        "usage": usage,
        # memory.peak came with kernel 5.19.
        "max_usage": files.number(f"{directory}/memory.peak", usage),
        "limit": files.number(f"{directory}/memory.max", -1),
        "swap_usage": files.number(f"{directory}/memory.swap.current"),
        "swap_limit": files.number(f"{directory}/memory.swap.max", -1),
        "failures": events.get("max", 0),
        "oom_kills": events.get("oom_kill", 0),
        "stat": files.table(f"{directory}/memory.stat"),
    }


def _pids(directory: str) -> dict[str, object]:
    return {
        "current": files.number(f"{directory}/pids.current"),
        "limit": files.number(f"{directory}/pids.max", -1),
    }


def _io(directory: str) -> dict[str, object]:
    size: list[dict[str, object]] = []
    count: list[dict[str, object]] = []
    for line in files.read_or(f"{directory}/io.stat", "").splitlines():
        device, _, rest = line.partition(" ")
        major, _, minor = device.partition(":")
        if not (major.isdigit() and minor.isdigit()):
            continue
        fields = dict(word.split("=", 1) for word in rest.split() if "=" in word)
        for key, table, operation in (
            ("rbytes", size, "read"),
            ("wbytes", size, "write"),
            ("rios", count, "read"),
            ("wios", count, "write"),
        ):
            value = files.as_number(fields.get(key, "0"))
            table.append({"major": int(major), "minor": int(minor), "op": operation, "value": value})
    return {"io_service_bytes_recursive": size, "io_serviced_recursive": count}


def _hugetlb(directory: str) -> dict[str, object]:
    result: dict[str, object] = {}
    for size in files.page_sizes():
        base = f"{directory}/hugetlb.{size}"
        usage = files.number(f"{base}.current")
        result[size] = {
            "usage": usage,
            # v2 does not keep a maximum.
            "max_usage": usage,
            "failures": files.table(f"{base}.events").get("max", 0),
        }
    return result
