"""The end of a life, in this order: reap → drain the streams (both in the shim) → release the network → persist → wake
stop waiters → `die` → auto-remove → wake removal waiters → `destroy` (the last two in `remove.py`), or the next start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from boxwright.engine import clock, endpoints, exec, health, monitor, mounts, remove, wait
from boxwright.engine.state import Status
from boxwright.errdefs import Error

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.execdriver import ExitStatus, Running

log = logging.getLogger(__name__)


def watch(eng: Engine, container: Container, running: Running) -> None:
    """From now on `running` is the container's life, and its exit is handled.

    A future's callback, not a task: a thousand sleeping containers cost no task each.
    """
    container.running = running
    container.live.over = asyncio.get_running_loop().create_future()
    running.exit.add_done_callback(lambda exit: eng.spawn(handle(eng, container, running, exit.result())))


async def handle(eng: Engine, container: Container, running: Running, status: ExitStatus) -> None:
    """All that the exit of `running` brings about."""
    over = container.live.over
    if container.running is not running or over is None:
        return  # the late exit of another life
    restart = False
    try:
        restart = await _end(eng, container, status)
        await _release(running, container)
    finally:
        over.set_result(None)
    await _afterwards(eng, container, restart)


async def conclude(eng: Engine, container: Container, status: ExitStatus) -> None:
    """The exit of a life that no shim is left of: it ended while no engine was there."""
    await _afterwards(eng, container, await _end(eng, container, status))


async def _end(eng: Engine, container: Container, status: ExitStatus) -> bool:
    """Release, persist, wake, `die`; True when the container is to start again."""
    health.dismiss(container)
    exec.end_all(eng, container)
    for release in (endpoints.release, mounts.release):
        try:
            await release(eng, container)
        except (Error, OSError):
            # The exit is told in any case; what is still held stays in the database, and the next engine gives it back.
            log.exception("container %s: releasing what it used", container.id)
    lived = _lived(container, status)
    restart = _persist(eng, container, status, lived)
    container.running = None
    container.live.stopped(wait.outcome(container))
    limited = {"timedOut": "true"} if status.timed_out else {}
    eng.announce(container, "die", exitCode=str(status.exit_code), execDuration=str(int(lived)), **limited)
    return restart


async def _afterwards(eng: Engine, container: Container, restart: bool) -> None:
    if restart:
        monitor.schedule(eng, container, container.live.delay)
    else:
        await finish(eng, container)


async def finish(eng: Engine, container: Container) -> None:
    """The container does not start again: remove it if it was made for that."""
    if container.host_config.auto_remove and not container.live.by_hand:
        try:
            await remove.auto_remove(eng, container)
        except Error as error:
            log.warning("container %s: automatic removal failed: %s", container.id, error)
            remove.refuse_waiters(container, str(error))


def _persist(eng: Engine, container: Container, status: ExitStatus, lived: float) -> bool:
    """Write what became of the container; True when it is to start again after `live.delay` seconds."""
    state, live = container.state, container.live
    restart = not (live.exit_on_next or status.timed_out) and monitor.wants_restart(
        container.host_config.restart_policy, status.exit_code, state.restart_count, state.manually_stopped
    )
    live.delay = monitor.next_delay(live.delay, lived) if restart else 0.0
    changes: dict[str, Any] = {
        "status": Status.RESTARTING if restart else Status.EXITED,
        "pid": 0,
        "exit_code": status.exit_code,
        "oom_killed": status.oom_killed,
        "finished_at": status.finished_at,
        "error": status.error,
        "restart_count": state.restart_count + restart,
        "timed_out": status.timed_out,
        "health": health.at_rest(container),
        "manually_stopped": state.manually_stopped or status.timed_out,
    }
    eng.store.settle(container, **changes)
    return restart


async def _release(running: Running, container: Container) -> None:
    try:
        await running.release()
    except (OSError, Error) as error:
        # A shim that died has nothing to be released from; its record on disk goes with the next start.
        log.debug("container %s: releasing the shim: %s", container.id, error)


def _lived(container: Container, status: ExitStatus) -> float:
    """Seconds between start and exit; by the wall clock, which may jump, where nobody has counted them."""
    if status.lived is not None:
        return status.lived
    ended = clock.nanoseconds(status.finished_at) or time.time_ns()
    return max(0.0, (ended - clock.nanoseconds(container.state.started_at)) / 1e9)
