"""The engine comes back: finds its shims again, reads the exits it has missed, finishes or undoes what was under way.

Every container is recovered by itself, so that one that cannot be does not keep the others down.  Nothing here knows
how the last engine ended: an orderly stop leaves the same to find as SIGKILL does, only less of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from boxwright.engine import (
    clock,
    endpoints,
    exec,
    exits,
    health,
    hostinfo,
    monitor,
    mounts,
    remove,
    start,
    stop,
    update,
)
from boxwright.engine.hooks import ContainerHooks
from boxwright.engine.state import ALIVE, Operation, Status
from boxwright.execdriver import ExitStatus

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.execdriver import Running

AT_ONCE = 32  # containers recovered side by side
UNDONE = "the engine ended while it was starting this container, before the program ran; the start was undone"

log = logging.getLogger(__name__)


async def restore(eng: Engine) -> None:
    """Bring every container's state in line with what runs; policies and interrupted verbs go on as engine tasks."""
    limit = asyncio.Semaphore(AT_ONCE)
    booted = _machine_was_booted(eng)

    async def guarded(container: Container) -> None:
        async with limit:
            try:
                await _recover(eng, container, booted)
            except Exception:
                log.exception("container %s could not be restored", container.id)

    await asyncio.gather(*(guarded(container) for container in eng.store))


def _machine_was_booted(eng: Engine) -> bool:
    """Whether the machine has been booted since the last engine ran here; remembers this boot."""
    path, present = eng.config.path("boot"), hostinfo.read("/proc/sys/kernel/random/boot_id")
    if hostinfo.read(path) == present:
        return False
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{present}\n")
    return True


async def _recover(eng: Engine, container: Container, booted: bool) -> None:
    await _known_endpoints(eng, container)
    interrupted = container.state.operation
    if container.state.status in (Status.REMOVING, Status.DEAD):
        eng.store.change(container, operation=Operation.NONE)
        eng.spawn(remove.auto_remove(eng, container))
        return
    driver, state = eng.driver_of(container), container.state
    life = None
    if state.generation:
        directory = eng.container_dir(container.id)
        life = await driver.adopt(container.id, state.generation, ContainerHooks(eng, container), directory)
    if state.status in ALIVE or interrupted is Operation.STARTING:
        if life is not None:
            _adopt(eng, container, life)
        else:
            await driver.cleanup(container.id, eng.container_dir(container.id), start.cgroup(eng, container))
            await _without_life(eng, container)
    else:
        if life is not None:
            await life.release()  # its exit had been persisted, but it was not told
        if container.endpoints:
            await endpoints.release(eng, container)
    await update.recover(eng, container)
    eng.store.change(container, operation=Operation.NONE)
    _go_on(eng, container, interrupted, booted)


async def _known_endpoints(eng: Engine, container: Container) -> None:
    """The endpoints of the present life; those of an earlier one, which could not be released, are released."""
    for endpoint in eng.network.endpoints(container.id):
        if endpoint.generation == container.state.generation:
            container.endpoints[endpoint.network] = endpoint
        else:
            await eng.network.release(endpoint)


def _adopt(eng: Engine, container: Container, life: Running) -> None:
    """A shim of this container lives."""
    known = container.state.status in ALIVE
    changes: dict[str, Any] = {"status": Status.PAUSED if life.paused else Status.RUNNING, "pid": life.pid}
    if not known:
        changes |= {"started_at": life.started_at, "timeline": life.timeline, "exit_code": 0, "oom_killed": False}
        changes |= {"health": health.at_start(container)}
    if container.state.status is not Status.PAUSED:
        # The table leads to paused from running only.
        eng.store.change(container, **changes | {"status": Status.RUNNING})
    eng.store.change(container, **changes)
    exec.adopt(eng, container, life.execs)
    if not known:
        eng.announce(container, "start")
    exits.watch(eng, container, life)
    if life.problem:
        log.warning("container %s runs on, but %s", container.id, life.problem)
    elif not life.paused:
        health.watch(eng, container)


async def _without_life(eng: Engine, container: Container) -> None:
    """No shim: it has ended, or it never came to run the program."""
    state = container.state
    status = eng.driver_of(container).recorded(eng.container_dir(container.id), state.generation)
    if status is None and state.status not in ALIVE:
        await mounts.release(eng, container)
        await endpoints.release(eng, container)
        if state.status is not Status.RESTARTING:  # whose policy tries again
            eng.store.change(container, exit_code=start.OTHER, error=UNDONE)
        return
    if status is None:
        status = ExitStatus(stop.KILLED, stop.SIGKILL, False, clock.now())
    if state.status not in ALIVE:
        eng.store.change(container, status=Status.RUNNING, started_at=status.started_at or status.finished_at)
        eng.announce(container, "start")
    await exits.conclude(eng, container, status)


def _go_on(eng: Engine, container: Container, interrupted: Operation, booted: bool) -> None:
    """Finish the verb that was under way, or what the policy wants.

    An `always` container that was stopped by hand starts again with the machine, as it does with dockerd.  It does not
    with the engine: that an engine dies and comes back is nothing that containers notice.
    """
    status, policy = container.state.status, container.host_config.restart_policy.name
    if interrupted is Operation.RESTARTING:
        eng.spawn(stop.again(eng, container, stop.stop_signal(container), container.state.stop_timeout))
    elif interrupted is Operation.STOPPING and status in ALIVE:
        eng.spawn(stop.stop(eng, container.id, None, container.state.stop_timeout))
    elif status is Status.RESTARTING and container.live.timer is None:
        monitor.schedule(eng, container, monitor.FIRST_DELAY)
    elif container.host_config.auto_remove and (
        status is Status.EXITED or (status is Status.CREATED and interrupted is Operation.STARTING)
    ):
        eng.spawn(exits.finish(eng, container))
    elif status is Status.EXITED and (
        (policy == "always" and booted)
        or (policy in ("always", "unless-stopped") and not container.state.manually_stopped)
    ):
        # An on-failure policy answers exits only, not the engine's return.
        eng.store.change(container, status=Status.RESTARTING)
        monitor.schedule(eng, container, 0.0)
