"""`docker stats`: the figures of running containers in Docker's shape, once or every second.

One collector serves every stream: while anybody listens it reads, once a second and in one job of a thread, the figures
of all containers that are listened to.  A single answer is read where it is asked for: the kernel has its figures in
memory, and handing 0.2 ms of work to a thread costs half as much again.  Those that are asked for together, or while a
reading goes on, share one job of a thread: a hundred requests at once are not a hundred threads in each other's way.
A container that does not run has figures too, empty ones, so a stream that was begun before its start goes on through
start and stop; only the container's removal ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from boxwright.engine import clock, hostinfo
from boxwright.engine.state import Status
from boxwright.errdefs import Error, InvalidParameter

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.execdriver import Running

log = logging.getLogger(__name__)

PERIOD = 1.0  # seconds between two readings
FEW = 2  # so many are read on the event loop in one of its turns
QUICK = 0.002  # seconds; once a reading there took longer, the kernel is busy, and the next is a thread's
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_UNLIMITED = 2**64 - 1  # what cgroup v2's "max" is for Docker

_TABLES = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)

Json = dict[str, Any]


async def stats(eng: Engine, name: str, stream: bool, one_shot: bool) -> AsyncGenerator[Json, None]:
    """The figures of container `name`: every second while `stream`, else once.

    one_shot: at once and without the reading before (`precpu_stats` is zero); otherwise a single answer takes a second,
    and two readings, so that the load can be told from them.
    Raises NotFound, InvalidParameter.
    """
    container = eng.store.get(name)
    if stream and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")
    if stream:
        async with contextlib.aclosing(_stream(eng, container)) as figures:
            async for reading in figures:
                yield reading
        return
    reading = await _collector(eng).once(container)
    if not one_shot and _lives(container):
        before = reading
        await asyncio.sleep(PERIOD)
        if container.gone:
            return
        reading = _after(await _collector(eng).once(container), before)
    yield _named(container, reading)


async def _stream(eng: Engine, container: Container) -> AsyncGenerator[Json, None]:
    subscription = _collector(eng).subscribe(container)
    before: Json | None = None
    try:
        async for figures in subscription:
            yield _named(container, figures if before is None else _after(figures, before))
            before = figures
    finally:
        subscription.close()


def _after(figures: Json, before: Json) -> Json:
    """A reading that says with which other its CPU time is to be compared."""
    return {**figures, "preread": before["read"], "precpu_stats": before["cpu_stats"]}


def _lives(container: Container) -> bool:
    return container.running is not None and container.state.status is not Status.RESTARTING


def _life(container: Container) -> Running | None:
    return container.running if _lives(container) else None


def _named(container: Container, figures: Json) -> Json:
    return {"name": f"/{container.name}", "id": container.id, **figures}


class Subscription:
    """One stream's side of the collector: the newest reading, once each."""

    def __init__(self, collector: Collector, container: Container) -> None:
        self.container = container
        self._collector = collector
        # One place: a client that reads slowly misses readings, and costs no memory.
        self._newest: asyncio.Queue[Json | None] = asyncio.Queue(1)

    def put(self, figures: Json | None) -> None:
        """A reading, or None: there will be no more."""
        if self._newest.full():
            self._newest.get_nowait()
        self._newest.put_nowait(figures)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Json:
        figures = await self._newest.get()
        if figures is None:
            raise StopAsyncIteration
        return figures

    def close(self) -> None:
        self._collector.leave(self)


class Collector:
    """Reads for all subscriptions and for who wants one reading; its tasks run only while there are any."""

    def __init__(self) -> None:
        self._asked: dict[Container, asyncio.Future[Json]] = {}
        self._answering: asyncio.Task[None] | None = None
        self._quick, self._here = True, 0  # _here: readings on the loop in its present turn
        self._subscriptions: list[Subscription] = []
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, container: Container) -> Subscription:
        """From the next reading on; the first subscriber of all begins with one at once."""
        subscription = Subscription(self, container)
        self._subscriptions.append(subscription)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return subscription

    async def once(self, container: Container) -> Json:
        """A reading that begins after this call."""
        loop = asyncio.get_running_loop()
        if self._answering is None and self._quick and self._here < FEW:
            return self._read_here(container, loop)
        answer = self._asked.get(container) or self._asked.setdefault(container, loop.create_future())
        if self._answering is None:
            self._answering = loop.create_task(self._answer())
        return await asyncio.shield(answer)  # who hangs up takes it from nobody else

    async def _answer(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                try:
                    readings = await asyncio.to_thread(_read_each, [_life(container) for container in asked])
                except (OSError, RuntimeError) as error:  # no thread, no descriptor
                    for answer in asked.values():
                        answer.set_exception(error)
                        answer.exception()  # is looked at: those who asked may all have hung up
                else:
                    for answer, figures in zip(asked.values(), readings, strict=True):
                        answer.set_result(figures)
        finally:
            self._answering, self._quick = None, True

    def _read_here(self, container: Container, loop: asyncio.AbstractEventLoop) -> Json:
        if not self._here:
            loop.call_soon(self._end_turn)
        self._here += 1
        begun = time.monotonic()
        (figures,) = _read_each([_life(container)])
        self._quick = time.monotonic() - begun < QUICK
        return figures

    def _end_turn(self) -> None:
        self._here = 0

    def leave(self, subscription: Subscription) -> None:
        """Idempotent."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        if not self._subscriptions and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                await self._read_all()
            except (OSError, RuntimeError):
                log.exception("the figures of containers could not be read")  # no thread, no descriptor: next time
            # A late reading does not make the ones after it come closer together.
            due = max(due + PERIOD, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _read_all(self) -> None:
        wanted = list(dict.fromkeys(s.container for s in self._subscriptions if not s.container.gone))
        lives = [_life(container) for container in wanted]
        found = dict(zip(wanted, await asyncio.to_thread(_read_each, lives), strict=True))
        for subscription in tuple(self._subscriptions):
            if subscription.container.gone:
                subscription.put(None)
            elif subscription.container in found:
                subscription.put(found[subscription.container])


def _collector(eng: Engine) -> Collector:
    if eng.stats is None:
        eng.stats = Collector()
    return eng.stats


def _read_each(lives: list[Running | None]) -> list[Json]:
    """The figures of each life now; in a thread."""
    system = _system(time.monotonic_ns() // _TICK_NS)
    return [_read(life, system) for life in lives]


@lru_cache(maxsize=1)
def _system(tick: int) -> Json:
    """The host's side of the figures.  The kernel counts in ticks: within one of them there is nothing new to read."""
    return {"system_cpu_usage": system_ns(), "online_cpus": os.sysconf("SC_NPROCESSORS_ONLN")}


def _read(life: Running | None, system: Json) -> Json:
    """The figures of one life, empty ones for None and for a life that has just ended; `system`: the host's."""
    try:
        raw = life.stats() if life is not None else None
    except Error:
        raw = None
    if raw is None:
        return _shape({}, clock.ZERO, {"cpu_usage": _cpu_usage({})})
    cpu = {"cpu_usage": _cpu_usage(raw["cpu"]), **system}
    return _shape(raw, clock.rfc3339(time.time_ns()), cpu)


def system_ns() -> int:
    """CPU time of the whole host, idle time too, in nanoseconds (proc(5), first line of /proc/stat)."""
    words = hostinfo.read("/proc/stat").partition("\n")[0].split()
    # user, nice, system, idle, iowait, irq, softirq, as Docker adds them: guest time is in user time already.
    return sum(map(int, words[1:8])) * _TICK_NS


def _cpu_usage(cpu: Json) -> Json:
    percpu = {"percpu_usage": cpu["percpu_ns"]} if cpu.get("percpu_ns") else {}
    return {
        "total_usage": cpu.get("usage_ns", 0),
        **percpu,
        "usage_in_kernelmode": cpu.get("system_ns", 0),
        "usage_in_usermode": cpu.get("user_ns", 0),
    }


def _throttling(cpu: Json) -> Json:
    return {
        "periods": cpu.get("periods", 0),
        "throttled_periods": cpu.get("throttled_periods", 0),
        "throttled_time": cpu.get("throttled_ns", 0),
    }


def _shape(raw: Json, read: str, cpu: Json) -> Json:
    """Docker's `StatsResponse` without the names; what its encoder leaves out when it is zero is left out."""
    v1 = hostinfo.host().cgroup_version == "1"
    figures: Json = {
        "read": read,
        "preread": clock.ZERO,
        "pids_stats": _pids(raw.get("pids") or {}, v1),
        "blkio_stats": _blkio(raw.get("blkio"), v1),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": {**cpu, "throttling_data": _throttling(raw.get("cpu") or {})},
        "precpu_stats": {"cpu_usage": _cpu_usage({}), "throttling_data": _throttling({})},
        "memory_stats": _memory(raw.get("memory") or {}, v1),
    }
    if networks := raw.get("networks"):
        figures["networks"] = networks
    return figures


def _pids(pids: Json, v1: bool) -> Json:
    unlimited = 0 if v1 else _UNLIMITED
    values = {"current": pids.get("current", 0), "limit": pids.get("limit", 0)}
    if values["limit"] == -1:
        values["limit"] = unlimited
    return {name: value for name, value in values.items() if value}


def _memory(memory: Json, v1: bool) -> Json:
    if not memory:
        return {}
    limit, total = memory["limit"], hostinfo.memory_total()
    values = {
        "usage": memory["usage"],
        # cgroup v2 gives neither to Docker; its failures are those that ended in the OOM killer.
        "max_usage": memory["max_usage"] if v1 else 0,
        "stats": memory["stat"],
        "failcnt": memory["failures"] if v1 else memory["oom_kills"],
        "limit": limit if 0 <= limit < total else total,
    }
    return {name: value for name, value in values.items() if value}


def _blkio(tables: Json | None, v1: bool) -> Json:
    if tables is None:
        return dict.fromkeys(_TABLES)
    # v1 spells the operations "Read" and "Write", v2's have always been small.
    return {name: _entries(tables[name], v1) if name in tables else None for name in _TABLES}


def _entries(entries: list[Json], v1: bool) -> list[Json]:
    return [{**entry, "op": entry["op"].capitalize()} if v1 else entry for entry in entries]
