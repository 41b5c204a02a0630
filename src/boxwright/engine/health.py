"""Health checks: a probe, run as an exec in the container, again and again; its results become `State.Health`.

    starting ──exit 0──► healthy ◄──exit 0── unhealthy
        └── `retries` failures in a row, those of the start period not counted ──►┘ ◄── also from healthy

One timer for each container between probes, no task and no thread.  Pause and exit stop it and leave `unhealthy`, as
dockerd does; a new engine goes on with the state that it finds.  The time limit of a probe is the shim's
(`launcher/limits.py`): it holds while no engine is there.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from boxwright.engine import clock, exec
from boxwright.errdefs import Error
from boxwright.types import ExecConfig

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.types.container import ContainerConfig, HealthConfig

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
INTERVAL = TIMEOUT = 30 * 10**9  # nanoseconds, where nothing is configured
START_INTERVAL = 5 * 10**9
RETRIES = 3
OUTPUT_BYTES = 4096  # kept of a probe's output
RESULTS = 5  # kept of a container
FAILED = -1  # "exit code" of a probe that could not be run, or took too long
LONGEST = 10**9  # seconds, of a timer


def command(config: ContainerConfig) -> list[str] | None:
    """The probe's program and arguments, None when there is no health check."""
    test = (config.healthcheck and config.healthcheck.test) or []
    if test[:1] == ["CMD"] and len(test) > 1:
        return test[1:]
    if test[:1] == ["CMD-SHELL"]:
        return [*(config.shell or ("/bin/sh", "-c")), *test[1:]]
    return None


def at_start(container: Container) -> dict[str, Any] | None:
    """`State.Health` at the start of a life: the results of earlier ones stay."""
    if command(container.config) is None:
        return None
    return {"Status": STARTING, "FailingStreak": 0, "Log": (container.state.health or {}).get("Log", [])}


def at_rest(container: Container) -> dict[str, Any] | None:
    """`State.Health` once nothing is probed any more."""
    health = container.state.health
    return health and {**health, "Status": UNHEALTHY}


def watch(eng: Engine, container: Container) -> None:
    """Probe from now on: a life has begun or goes on.  Nothing happens without a health check."""
    program = command(container.config)
    if program is None or container.config.healthcheck is None:
        return
    dismiss(container)
    if container.state.health is None:
        eng.store.change(container, health=at_start(container))
    container.live.health = Monitor(eng, container, program, container.config.healthcheck)


def dismiss(container: Container) -> None:
    """Probe no longer; a probe that is under way has no result."""
    monitor, container.live.health = container.live.health, None
    if monitor is not None:
        monitor.close()


class Monitor:
    """The probing of one life."""

    __slots__ = ("_born", "_check", "_closed", "_container", "_eng", "_last", "_program", "_task", "_timer")

    def __init__(self, eng: Engine, container: Container, program: list[str], check: HealthConfig) -> None:
        self._eng, self._container, self._program, self._check = eng, container, program, check
        self._closed = False
        # Wall-clock time is asked once: it may jump, and the start period does not.
        age = time.time_ns() - clock.nanoseconds(container.state.started_at)
        self._born = time.monotonic_ns() - max(0, age)
        self._last: exec.Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer = self._arm()

    def close(self) -> None:
        """See `dismiss`."""
        self._closed = True
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._forget_last()

    def _arm(self) -> asyncio.TimerHandle:
        seconds = min(self._interval_ns() / 1e9, LONGEST)
        return asyncio.get_running_loop().call_later(seconds, self._begin)

    def _interval_ns(self) -> int:
        """Until the next probe: shorter in the start period, as long as nothing has been healthy."""
        check, health = self._check, self._container.state.health or {}
        if self._in_start_period(time.monotonic_ns()) and health.get("Status") == STARTING:
            return _or_default(check.start_interval, START_INTERVAL)
        return _or_default(check.interval, INTERVAL)

    def _in_start_period(self, moment_ns: int) -> bool:
        """At a time of CLOCK_MONOTONIC."""
        return moment_ns - self._born < max(0, self._check.start_period)

    def _begin(self) -> None:
        self._task = self._eng.spawn(self._probe())

    async def _probe(self) -> None:
        began, moment = time.time_ns(), time.monotonic_ns()
        code, output = await self._run()
        self._task = None
        if self._closed:
            return
        result = {
            "Start": clock.rfc3339(began),
            "End": clock.now(),
            "ExitCode": code,
            "Output": output,
        }
        self._judge(result, moment)
        self._timer = self._arm()

    async def _run(self) -> tuple[int, str]:
        """Run the probe: (exit code, output)."""
        eng, container = self._eng, self._container
        config = ExecConfig(cmd=self._program, attach_stdout=True, attach_stderr=True)
        session = exec.Session(os.urandom(32).hex(), container.id, config, b"")
        session.is_probe = True
        session.limit_ns = timeout = min(_or_default(self._check.timeout, TIMEOUT), LONGEST * 10**9)
        self._forget_last()
        self._last = session
        output = Output()
        try:
            exec.add(eng, container, session)
            await exec.start(eng, session.id, False, False, None, output)
        except Error as error:
            return FAILED, str(error)
        if session.timed_out:
            said = f": {output}" if output.data else ""
            return FAILED, f"Health check exceeded timeout ({duration(timeout)}){said}"
        if not session.pid or session.exit_code is None:
            return FAILED, str(output).rstrip("\r\n")  # it could not be started: the stream tells why
        return session.exit_code, str(output)

    def _forget_last(self) -> None:
        """Results are in the log: only the last session can be inspected."""
        last, self._last = self._last, None
        if last is not None:
            exec.forget(self._eng, last)

    def _judge(self, result: dict[str, Any], began_ns: int) -> None:
        """Write a result, and tell when it changes the status."""
        health = self._container.state.health or {"Status": STARTING, "FailingStreak": 0, "Log": []}
        before, streak = health["Status"], health["FailingStreak"]
        status = before
        if result["ExitCode"] == 0:
            status, streak = HEALTHY, 0
        elif before != STARTING or not self._in_start_period(began_ns):
            streak += 1
            if streak >= (self._check.retries if self._check.retries > 0 else RETRIES):
                status = UNHEALTHY
        log = [*health["Log"], result][-RESULTS:]
        self._eng.store.settle(self._container, health={"Status": status, "FailingStreak": streak, "Log": log})
        if status != before:
            self._eng.announce(self._container, f"health_status: {status}")


class Output:
    """Takes a probe's framed output in the place of a client, and keeps its beginning."""

    __slots__ = ("_head", "_left", "closed", "data", "truncated")

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.data = b""
        self.truncated = False
        self._head, self._left = b"", 0

    def __str__(self) -> str:
        return self.data.decode(errors="replace") + ("..." if self.truncated else "")

    async def open(self, multiplexed: bool) -> None:
        """Nobody has to be answered."""

    async def read(self, n: int) -> bytes:
        """A probe has no input."""
        return b""

    def write(self, data: bytes) -> None:
        """Frames of Docker's stream format (8 bytes of head: stream, three zeros, big-endian length), cut anywhere."""
        while data:
            if not self._left:
                missing = 8 - len(self._head)
                self._head += data[:missing]
                data = data[missing:]
                if len(self._head) == 8:
                    self._left, self._head = int.from_bytes(self._head[4:]), b""
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            room = OUTPUT_BYTES - len(self.data)
            self.data += piece[:room]
            self.truncated = self.truncated or len(piece) > room

    async def drain(self) -> None:
        """There is always room: what is too much is dropped."""

    async def close(self) -> None:
        """The probe has ended."""
        self.closed.set()


def _or_default(configured: int, default: int) -> int:
    return configured if configured > 0 else default


def duration(ns: int) -> str:
    """Nanoseconds as Go prints a time.Duration: 500ms, 1.5s, 1m30s, 2h0m0s."""
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if ns < size * 1000:
            return f"{_decimal(ns, size)}{unit}"
    minutes, rest = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_decimal(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
