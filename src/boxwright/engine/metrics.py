"""`GET /metrics`: the engine and each running container in Prometheus' text format.

Names of the engine's own figures are dockerd's where it has them; a container's are ours.  prometheus_client comes in
with the first request only: an engine that nobody scrapes does not carry it.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import boxwright
from boxwright.engine import hostinfo
from boxwright.engine.state import Status
from boxwright.errdefs import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from boxwright.engine.engine import Engine
    from boxwright.execdriver import Running

    Labels = list[str]
    Life = tuple[Labels, Running]

_CONTAINER = ["id", "name", "image"]
# Metric → (whether it only grows, what it says, section and key of `Running.stats`, units in one of the metric's).
_FIGURES = {
    "cpu_usage_seconds": (True, "CPU time used.", "cpu", "usage_ns", 1e9),
    "cpu_user_seconds": (True, "CPU time used in user mode.", "cpu", "user_ns", 1e9),
    "cpu_system_seconds": (True, "CPU time used in kernel mode.", "cpu", "system_ns", 1e9),
    "cpu_periods": (True, "Periods in which a CPU quota was enforced.", "cpu", "periods", 1),
    "cpu_throttled_periods": (True, "Periods in which the quota ran out.", "cpu", "throttled_periods", 1),
    "cpu_throttled_seconds": (True, "Time for which the quota held processes back.", "cpu", "throttled_ns", 1e9),
    "memory_usage_bytes": (False, "Memory in use, caches too.", "memory", "usage", 1),
    "memory_limit_bytes": (False, "Limit of memory; absent without one.", "memory", "limit", 1),
    "memory_swap_bytes": (False, "Swap in use.", "memory", "swap_usage", 1),
    "memory_failures": (True, "How often the memory limit was met.", "memory", "failures", 1),
    "oom_kills": (True, "Processes that the kernel killed for lack of memory.", "memory", "oom_kills", 1),
    "pids": (False, "Processes and threads.", "pids", "current", 1),
    "pids_limit": (False, "Limit of processes and threads; absent without one.", "pids", "limit", 1),
}


async def exposition(eng: Engine) -> bytes:
    """The text of every metric, read in one job of a thread."""
    lives = [
        ([container.id, container.name, container.config.image], container.running)
        for container in eng.store
        if container.running is not None
    ]
    own = list(_engine(eng))
    return await asyncio.to_thread(_expose, own, lives)


def _engine(eng: Engine) -> Iterator[Metric]:
    """What only the loop's thread may read."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    system, host = os.uname(), hostinfo.operating_system()[0]
    labels = ["version", "kernel", "os", "graphdriver", "daemon_id"]
    info = GaugeMetricFamily("engine_daemon_engine_info", "The engine and the host that it runs on.", labels=labels)
    info.add_metric([boxwright.__version__, system.release, host, eng.snapshotter.name, eng.id], 1)
    yield info
    yield GaugeMetricFamily("engine_daemon_engine_cpus_cpus", "CPUs of the host.", os.cpu_count() or 1)
    yield GaugeMetricFamily("engine_daemon_engine_memory_bytes", "Memory of the host.", hostinfo.memory_total())
    counts = Counter(container.state.status for container in eng.store)
    states = GaugeMetricFamily(
        "engine_daemon_container_states_containers", "Containers in each state.", labels=["state"]
    )
    running = counts[Status.RUNNING] + counts[Status.RESTARTING]
    for state, count in (("running", running), ("paused", counts[Status.PAUSED])):
        states.add_metric([state], count)
    states.add_metric(["stopped"], len(eng.store) - running - counts[Status.PAUSED])
    yield states
    yield GaugeMetricFamily("boxwright_images", "Images.", len(eng.images.all()))
    yield GaugeMetricFamily("boxwright_event_listeners", "Clients that listen to events.", eng.bus.listeners)
    yield GaugeMetricFamily("boxwright_mutations", "Verbs that are under way.", eng.tasks)
    restarts = CounterMetricFamily("boxwright_container_restarts", "Restarts by policy.", labels=_CONTAINER)
    for container in eng.store:
        restarts.add_metric([container.id, container.name, container.config.image], container.state.restart_count)
    yield restarts


def _expose(own: list[Metric], lives: list[Life]) -> bytes:
    """The text; blocks for some 0.3 ms a container."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.registry import Collector

    class Everything(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from own
            yield from _containers(lives)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Everything())
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def _containers(lives: list[Life]) -> Iterator[Metric]:
    read = [(labels, figures) for labels, life in lives if (figures := _figures(life)) is not None]
    for name, (grows, text, section, key, units) in _FIGURES.items():
        metric = _family(name, text, grows, _CONTAINER)
        for labels, figures in read:
            value = (figures.get(section) or {}).get(key, -1)
            if value >= 0:
                metric.add_metric(labels, value / units)
        yield metric
    yield from _networks(read)
    yield from _block_devices(read)


def _figures(life: Running) -> dict[str, Any] | None:
    try:
        return life.stats()
    except Error:
        return None  # it has just ended


def _family(name: str, text: str, grows: bool, labels: Labels) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    family = CounterMetricFamily if grows else GaugeMetricFamily
    return family(f"boxwright_container_{name}", text, labels=labels)


def _networks(read: list[tuple[Labels, dict[str, Any]]]) -> Iterator[Metric]:
    for way, said in (("rx", "received"), ("tx", "sent")):
        for what in ("bytes", "packets", "errors", "dropped"):
            text = f"Network {what} {said}, as the container sees it."
            metric = _family(f"network_{way}_{what}", text, True, [*_CONTAINER, "interface"])
            for labels, figures in read:
                for interface, counters in figures["networks"].items():
                    metric.add_metric([*labels, interface], counters[f"{way}_{what}"])
            yield metric


def _block_devices(read: list[tuple[Labels, dict[str, Any]]]) -> Iterator[Metric]:
    tables = {"blkio_bytes": "io_service_bytes_recursive", "blkio_operations": "io_serviced_recursive"}
    for name, table in tables.items():
        text = f"Block I/O {name.partition('_')[2]} by device and operation."
        metric = _family(name, text, True, [*_CONTAINER, "device", "operation"])
        for labels, figures in read:
            for entry in (figures.get("blkio") or {}).get(table) or ():
                device = f"{entry['major']}:{entry['minor']}"
                metric.add_metric([*labels, device, entry["op"]], entry["value"])
        yield metric
