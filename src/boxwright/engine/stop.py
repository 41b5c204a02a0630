"""Stop, kill and restart.

A stop claims the container; a kill does not, because it must also reach a container whose stop is under way.  Neither
is refused because nothing can be written: who wants to mend a full or read-only disk has to be able to end containers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from boxwright.engine import monitor, pause, signals, start
from boxwright.engine.state import Operation, Status
from boxwright.errdefs import Conflict, Error, NotModified, System

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.execdriver import Running

SIGKILL, SIGTERM = 9, 15
KILLED = 128 + SIGKILL  # exit code of a container that SIGKILL ended
DEFAULT_TIMEOUT = 10  # seconds
DELIVERY_TIMEOUT = 5.0  # seconds that a signal's way is waited for: a shim that is slower acts on it when it can
KILL_TIMEOUT = 10.0  # seconds from SIGKILL to the exit: longer only in uninterruptible I/O

log = logging.getLogger(__name__)


async def stop(eng: Engine, name: str, signal: str | None, timeout: int | None) -> None:
    """Send the stop signal, wait `timeout` seconds (-1: for ever), then SIGKILL; the container's own when None.

    Raises NotFound, NotModified when it does not run, InvalidParameter for a bad signal.
    """
    container = eng.store.get(name)
    number = signals.parse(signal) if signal else stop_signal(container)
    await eng.shielded(_stop(eng, container, number, timeout))


async def _stop(eng: Engine, container: Container, signal: int, timeout: int | None) -> None:
    if not container.state.running and not container.lock.locked():
        raise NotModified(f"container {container.id} is already stopped")
    async with eng.store.claim(container, Operation.STOPPING, in_any_case=True, stop_timeout=timeout):
        if not container.state.running:
            raise NotModified(f"container {container.id} is already stopped")
        await halt(eng, container, signal, timeout)


async def kill(eng: Engine, name: str, signal: str | None) -> None:
    """Send `signal` (None: SIGKILL, which waits for the exit); raises NotFound, Conflict, InvalidParameter."""
    container = eng.store.get(name)
    number = signals.parse(signal) if signal else SIGKILL
    if not container.state.running:
        raise Conflict(f"cannot kill container: {name}: container {container.id} is not running")
    await eng.shielded(end(eng, container) if number == SIGKILL else send(eng, container, number))


async def restart(eng: Engine, name: str, signal: str | None, timeout: int | None) -> None:
    """Stop the container if it runs, then start it; the restart count begins anew."""
    container = eng.store.get(name)
    number = signals.parse(signal) if signal else stop_signal(container)
    await eng.shielded(again(eng, container, number, timeout))


async def again(eng: Engine, container: Container, signal: int, timeout: int | None) -> None:
    """The whole of a restart."""
    async with eng.store.claim(container, Operation.RESTARTING, stop_timeout=timeout):
        start.refuse_dead(container)
        container.live.by_hand = True
        try:
            if container.state.running:
                await halt(eng, container, signal, timeout)
            await start.afresh(eng, container)
        finally:
            container.live.by_hand = False
        eng.announce(container, "restart")


async def halt(eng: Engine, container: Container, signal: int, timeout: int | None) -> None:
    """End a running container, politely first; its exit has been handled whole when this returns."""
    if timeout is None:
        configured = container.config.stop_timeout
        timeout = DEFAULT_TIMEOUT if configured is None else configured
    over = container.live.over
    await send(eng, container, signal)
    if not await _ended(over, None if timeout < 0 else float(timeout)):
        await end(eng, container)
    eng.announce(container, "stop")


async def end(eng: Engine, container: Container) -> None:
    """SIGKILL, and wait until the exit has been handled whole; also ends a restart back-off.

    A container that does not end by that in time is ended past its shim.  Raises System when it still does not: a
    process in uninterruptible I/O.
    """
    over = container.live.over
    try:
        await send(eng, container, SIGKILL)
    except Conflict:
        pass  # it ended by itself meanwhile
    if await _ended(over, KILL_TIMEOUT):
        return
    why = ""
    if (life := container.running) is not None:
        log.warning("container %s: it did not end within %g s of SIGKILL", container.id, KILL_TIMEOUT)
        try:
            await life.destroy()
        except Error as error:
            why = f": {error}"
    if not await _ended(over, KILL_TIMEOUT):
        text = f"tried to kill the container, but it did not receive an exit event{why}"
        raise System(f"container {container.id}: {text}")


async def settled(container: Container) -> None:
    """Wait until an exit that is being handled has been handled whole: its shim is gone."""
    over = container.live.over
    if over is not None and container.running is None:
        await asyncio.shield(over)


async def send(eng: Engine, container: Container, signal: int) -> None:
    """Send one signal on a person's behalf: from now on the next exit is their doing."""
    stops = not container.config.stop_signal or signal in (SIGKILL, stop_signal(container))
    if stops:
        container.live.exit_on_next = True
    if not container.state.manually_stopped:
        eng.store.settle(container, manually_stopped=True)
    if container.state.status is Status.RESTARTING:
        monitor.abandon(eng, container)
        return
    life = container.running
    if life is None:
        raise Conflict(f"container {container.id} is not running")
    thaws = stops and container.state.status is Status.PAUSED
    await _deliver(life, signal)
    eng.announce(container, "kill", signal=str(signal))
    if thaws and container.running is life:
        # The frozen processes act on the signal only now.
        try:
            await pause.thaw(eng, container)
        except Conflict:
            log.debug("container %s ended while it was thawed", container.id)


async def _deliver(life: Running, signal: int) -> None:
    try:
        async with asyncio.timeout(DELIVERY_TIMEOUT):
            await life.signal(signal)
    except Conflict:
        pass  # a process that has gone is what a signal was to achieve; its exit is on the way
    except (Error, TimeoutError) as error:
        # A shim that does not answer is dead or stuck; what follows (SIGKILL by cgroup, rule 12) ends the container.
        log.warning("container %s: sending signal %d: %s", life.id, signal, error or "no answer")


async def _ended(over: asyncio.Future[None] | None, timeout: float | None) -> bool:
    """Wait at most `timeout` seconds (None: for ever) for the end of a life; False when it did not come."""
    if over is None or over.done():
        return True
    try:
        await asyncio.wait_for(asyncio.shield(over), timeout)
    except TimeoutError:
        return False
    return True


def stop_signal(container: Container) -> int:
    """The signal that asks this container to stop."""
    return signals.parse(container.config.stop_signal) if container.config.stop_signal else SIGTERM
