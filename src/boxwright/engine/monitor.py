"""The monitor: decides after an exit whether the container starts again, and when.

The back-off is 100 ms, doubles up to one minute, and begins anew once a life has lasted ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from boxwright.engine import start, wait
from boxwright.engine.state import Status
from boxwright.errdefs import Error

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.types.container import RestartPolicy

FIRST_DELAY, LONGEST_DELAY = 0.1, 60.0  # seconds
LONG_LIFE = 10.0  # seconds

log = logging.getLogger(__name__)


def next_delay(delay: float, lived: float) -> float:
    """Seconds until the next start, after back-off `delay` (0.0: none so far) and a life of `lived` seconds."""
    if delay == 0.0 or lived >= LONG_LIFE:
        return FIRST_DELAY
    return min(delay * 2, LONGEST_DELAY)


def wants_restart(policy: RestartPolicy, exit_code: int, restarts: int, manually_stopped: bool) -> bool:
    """Whether `policy` starts a container again that ended with `exit_code` after `restarts` restarts.

    `always` disregards a manual stop: within the life that was stopped the caller does not ask, and a new engine
    starts such a container again, as Docker does.
    """
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not manually_stopped
    if policy.name == "on-failure":
        allowed = policy.maximum_retry_count
        return exit_code != 0 and (not allowed or restarts < allowed)
    return False


def schedule(eng: Engine, container: Container, delay: float) -> None:
    """Start the container, whose status is restarting, after `delay` seconds, unless `abandon` comes first."""
    container.live.delay = delay
    generation = container.state.generation
    container.live.timer = asyncio.get_running_loop().call_later(
        delay, lambda: eng.spawn(_again(eng, container, generation))
    )


def abandon(eng: Engine, container: Container) -> None:
    """End the back-off: the container has exited for good."""
    cancel(container)
    eng.store.change(container, status=Status.EXITED)
    container.live.stopped(wait.outcome(container))


def cancel(container: Container) -> None:
    """Stop the timer of the back-off, if one runs."""
    timer, container.live.timer = container.live.timer, None
    if timer is not None:
        timer.cancel()


async def _again(eng: Engine, container: Container, generation: int) -> None:
    container.live.timer = None
    try:
        async with eng.store.claim(container, None):
            state = container.state
            # A verb that held the claim may have stopped or removed it, or started it by hand.
            if state.status is Status.RESTARTING and state.generation == generation:
                await start.run(eng, container)
    except Error as error:
        log.warning("container %s: the restart failed: %s", container.id, error)
        if container.state.status is Status.RESTARTING and container.state.generation == generation:
            abandon(eng, container)  # refused before it was tried
