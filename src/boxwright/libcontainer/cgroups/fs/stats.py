"""Usage of a v1 group in the shape of Manager.stats."""

import os
from time import monotonic

from boxwright.libcontainer.cgroups import files

# sysconf(_SC_CLK_TCK) is 100 on every Linux architecture that Python runs on; cpuacct.stat counts in it.
_TICK_NS = 10_000_000
_TABLES_SECONDS = 10.0  # for so long the groups below one parent are taken to have the same files
# "No limit" is the largest page multiple below 2^63.
_UNLIMITED = 1 << 62

_BLKIO = {
    "io_service_bytes_recursive": ("blkio.bfq.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive"),
    "io_serviced_recursive": ("blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"),
    "io_queue_recursive": ("blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive"),
    "io_service_time_recursive": ("blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive"),
    "io_wait_time_recursive": ("blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive"),
    "io_merged_recursive": ("blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive"),
    "io_time_recursive": ("blkio.bfq.time_recursive", "blkio.time_recursive"),
    "sectors_recursive": ("blkio.bfq.sectors_recursive", "blkio.sectors_recursive"),
}


def collect(paths: dict[str, str]) -> dict[str, object]:
    """All sections; see Manager.stats."""
    return {
        "cpu": _cpu(paths.get("cpu"), paths.get("cpuacct")),
        "memory": _memory(paths.get("memory")),
        "pids": _pids(paths.get("pids")),
        "blkio": _blkio(paths.get("blkio")),
        "hugetlb": _hugetlb(paths.get("hugetlb")),
    }


def _cpu(cpu: str | None, account: str | None) -> dict[str, object]:
    result: dict[str, object] = {}
    if account:
        ticks = files.table(f"{account}/cpuacct.stat")
        each = [int(n) for n in files.read_or(f"{account}/cpuacct.usage_percpu", "").split()]
        result = {
            "usage_ns": sum(each),  # cpuacct.usage is the same sum, for a file more
            "user_ns": ticks.get("user", 0) * _TICK_NS,
            "system_ns": ticks.get("system", 0) * _TICK_NS,
            "percpu_ns": each,
        }
    if cpu:
        throttling = files.table(f"{cpu}/cpu.stat")
        result["periods"] = throttling.get("nr_periods", 0)
        result["throttled_periods"] = throttling.get("nr_throttled", 0)
        result["throttled_ns"] = throttling.get("throttled_time", 0)
    return result


def _memory(directory: str | None) -> dict[str, object]:
    if not directory:
        return {}
    stat = files.table(f"{directory}/memory.stat")
    # What memory.memsw.* say, for two files less.
    both = [_bound(stat.get(f"hierarchical_{name}_limit", -1)) for name in ("memsw", "memory")]
    control = files.table(f"{directory}/memory.oom_control")
    return {
        "usage": files.number(f"{directory}/memory.usage_in_bytes"),
        "max_usage": files.number(f"{directory}/memory.max_usage_in_bytes"),
        "limit": _bound(files.number(f"{directory}/memory.limit_in_bytes", -1)),
        "swap_usage": max(0, stat.get("total_swap", 0) - stat.get("total_swapcached", 0)),
        "swap_limit": both[0] - both[1] if -1 not in both else -1,
        "failures": files.number(f"{directory}/memory.failcnt"),
        "oom_kills": control.get("oom_kill", 0),
        "stat": stat,
    }


def _bound(value: int) -> int:
    return -1 if value > _UNLIMITED else value


def _pids(directory: str | None) -> dict[str, object]:
    if not directory:
        return {}
    return {
        "current": files.number(f"{directory}/pids.current"),
        "limit": files.number(f"{directory}/pids.max", -1),
    }


def _blkio(directory: str | None) -> dict[str, object]:
    if not directory:
        return {}
    result: dict[str, object] = {}
    for table, name in _tables(directory):
        if table not in result and (text := files.read_or(f"{directory}/{name}", "")):
            result[table] = [entry for line in text.splitlines() if (entry := _entry(line))]
    return {**{table: [] for table in _BLKIO}, **result}


_seen: dict[str, tuple[float, list[tuple[str, str]]]] = {}  # parent directory → (when it was looked at, tables)


def _tables(directory: str) -> list[tuple[str, str]]:
    """(table, file) of what this group has, the first to be believed first.

    Most kernels have but two of the sixteen, and a listing costs as much as reading four files: the groups below one
    parent have the same, until a scheduler's module comes or goes.
    """
    parent = os.path.dirname(directory)
    since, found = _seen.get(parent, (0.0, []))
    if not found or monotonic() - since > _TABLES_SECONDS:
        present = files.names(directory)
        found = [(table, name) for table, names in _BLKIO.items() for name in names if name in present]
        if len(_seen) > 64:  # parents of containers that are long gone
            _seen.clear()
        _seen[parent] = (monotonic(), found)
    return found


def _entry(line: str) -> dict[str, object] | None:
    """ "8:0 Read 4096" or "8:0 4096"; the "Total" line over all devices is left out."""
    words = line.split()
    if len(words) < 2 or ":" not in words[0]:
        return None
    major, _, minor = words[0].partition(":")
    operation = words[1].lower() if len(words) == 3 else ""
    return {"major": int(major), "minor": int(minor), "op": operation, "value": int(words[-1])}


def _hugetlb(directory: str | None) -> dict[str, object]:
    if not directory:
        return {}
    result: dict[str, object] = {}
    for size in files.page_sizes():
        base = f"{directory}/hugetlb.{size}"
        result[size] = {
            "usage": files.number(f"{base}.usage_in_bytes"),
            "max_usage": files.number(f"{base}.max_usage_in_bytes"),
            "failures": files.number(f"{base}.failcnt"),
        }
    return result
