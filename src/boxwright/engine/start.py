"""`POST /containers/{name}/start`: from a decided configuration to a running first process, or to nothing left behind.

    claim ─ verify ─┬─ plan: generation, addresses, ports (one transaction, the intent) ─ files, mounts, spec
                    └─ driver.start: clone ─ cgroup, rootfs ║ network ─ go ─ execve ─ running ─ `start`

Whatever fails after the claim is undone by an ExitStack, recorded in the state, and announced by `die`.
"""

from __future__ import annotations

import errno
import logging
from contextlib import AsyncExitStack
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from boxwright.engine import (
    endpoints,
    exits,
    health,
    limit,
    links,
    logdest,
    monitor,
    mounts,
    settings,
    spec,
    startbody,
    wait,
)  # fmt: skip
from boxwright.engine.hooks import ContainerHooks
from boxwright.engine.state import Operation, Status
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, NotModified, StepError, System, host_failure
from boxwright.execdriver import StartRequest
from boxwright.libcontainer import cgroups, faults
from boxwright.trace import Timeline

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.execdriver import Running
    from boxwright.types.container import HostConfig

NOT_FOUND, NOT_EXECUTABLE, OTHER = 127, 126, 128  # exit codes of a start that failed, Docker's convention

log = logging.getLogger(__name__)


async def start(eng: Engine, name: str, host_config: HostConfig | None = None, received_ns: int = 0) -> None:
    """Start container `name`; a `host_config` (old clients) replaces the one of create.

    received_ns: when the request came (CLOCK_MONOTONIC), for the timeline.
    Raises NotFound, NotModified (already started), Conflict (paused, being removed, dead), InvalidParameter (settings,
    or a program that cannot be executed), StepError and System for what failed on the way.
    """
    timeline = Timeline()
    if received_ns:
        timeline.add("decode", received_ns, monotonic_ns())
    with timeline.step("lookup", name):
        container = eng.store.get(name)
    await eng.shielded(_by_hand(eng, container, host_config, timeline))


async def _by_hand(eng: Engine, container: Container, host_config: HostConfig | None, timeline: Timeline) -> None:
    async with eng.store.claim(container, None):
        refuse_dead(container)
        if container.state.status is Status.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.state.running:
            raise NotModified(f"container {container.id} is already running")
        if host_config is not None:
            await startbody.adopt(eng, container, host_config)
        await afresh(eng, container, timeline)


def refuse_dead(container: Container) -> None:
    """Raises Conflict for a container that is past starting."""
    if container.state.status in (Status.REMOVING, Status.DEAD):
        raise Conflict("container is marked for removal and cannot be started")


async def afresh(eng: Engine, container: Container, timeline: Timeline | None = None) -> None:
    """A start that a person asked for: the monitor's memory of earlier lives is dropped."""
    monitor.cancel(container)
    container.live.delay = 0.0
    await run(eng, container, timeline, restart_count=0, manually_stopped=False)


async def run(eng: Engine, container: Container, timeline: Timeline | None = None, **changes: Any) -> None:
    """Start a claimed container that does not run; `changes` go into its state together with the intent."""
    timeline = timeline or Timeline()
    with timeline.step("verify"):
        settings.verify_start(eng, container)
    container.live.exit_on_next = False
    if container.endpoints:  # of an earlier life, which could not be released then (a full disk)
        await endpoints.release(eng, container)
    prepared = False
    try:
        async with AsyncExitStack() as undo:
            with timeline.step("address") as step:
                _plan(eng, container, undo, changes)
                step.detail = " ".join(endpoint.address for endpoint in container.endpoints.values())
            request = await _prepare(eng, container, undo, timeline)
            prepared = True
            running = await eng.driver_of(container).start(request, ContainerHooks(eng, container))
            undo.pop_all()
    except Exception as error:
        failure = _failed(eng, container, timeline, error, prepared)
        raise failure from error
    _started(eng, container, running, timeline)


def _plan(eng: Engine, container: Container, undo: AsyncExitStack, changes: dict[str, Any]) -> None:
    """The intent: operation, generation, addresses, names and ports in one transaction, before anything is made.

    An engine that finds STARTING knows by this that the generation is the interrupted start's and no earlier life's.
    """
    generation = container.state.generation + 1
    changes |= {"operation": Operation.STARTING, "generation": generation, "start_error": None, "error": ""}
    with eng.db.transaction():
        eng.store.change(container, **changes)
        planned = endpoints.plan(eng, container, generation)
    container.endpoints = planned
    undo.push_async_callback(endpoints.release, eng, container)
    endpoints.announce(eng, container, "connect")


async def _prepare(eng: Engine, container: Container, undo: AsyncExitStack, timeline: Timeline) -> StartRequest:
    """Everything that the driver is told."""
    with timeline.step("files"):
        endpoints.write_files(eng, container)
    with timeline.step("volumes"):
        undo.push_async_callback(mounts.give_back, eng, container)
        await mounts.prepare(eng, container)
    with timeline.step("spec"):
        document = spec.build(eng, container, links.environment(eng, container))
    with timeline.step("seccomp"):
        program = await spec.seccomp_path(eng, container.host_config)
    with timeline.step("snapshot"):
        rootfs = eng.snapshotter.mount(container.id, volatile=container.host_config.auto_remove or eng.config.volatile)
    config, host_config, live = container.config, container.host_config, container.live
    attach, live.pending = live.pending, []
    return StartRequest(
        container.id,
        container.state.generation,
        document,
        rootfs,
        eng.container_dir(container.id),
        cgroup=cgroup(eng, container),
        log=logdest.destination(eng, container),
        seccomp_path=program,
        tty=config.tty,
        open_stdin=config.open_stdin,
        stdin_once=config.stdin_once,
        init=eng.config.init if host_config.init is None else host_config.init,
        limit=limit.of(container),
        configure_network=any(endpoint.link for endpoint in container.endpoints.values()),
        attach=attach,
        relayed=[
            [port.protocol, port.host_ip, port.host_port, endpoint.address, port.container_port]
            for endpoint in container.endpoints.values()
            for port in endpoint.relayed
        ],
    )


def cgroup(eng: Engine, container: Container) -> dict[str, str]:
    """Where the container's cgroup is, for the driver."""
    parent = container.host_config.cgroup_parent or eng.cgroup_parent
    return {"driver": cgroups.detect(), "parent": parent, "name": container.id}


def _started(eng: Engine, container: Container, running: Running, timeline: Timeline) -> None:
    """The program runs: persist, tell, and watch for its end."""
    timeline.extend(running.timeline)
    steps = _in_order(timeline)
    eng.store.settle(
        container,
        operation=Operation.NONE,
        status=Status.RUNNING,
        pid=running.pid,
        exit_code=0,
        oom_killed=False,
        timed_out=False,
        health=health.at_start(container),
        started_at=running.started_at,
        timeline=steps,
    )
    eng.announce(container, "start")
    if eng.telemetry is not None:
        eng.telemetry.started(container, steps)
    exits.watch(eng, container, running)
    health.watch(eng, container)


def _in_order(timeline: Timeline) -> list[list[Any]]:
    """The steps of engine, shim and init, as they began: one clock for all of them."""
    return sorted(timeline.steps, key=lambda step: step[1])


def _failed(eng: Engine, container: Container, timeline: Timeline, error: Exception, prepared: bool) -> Exception:
    """All has been undone: record why, tell those who wait, and return what the client is to hear."""
    if not isinstance(error, (Error, OSError)):
        log.error("container %s: the start failed by a fault of the engine", container.id, exc_info=error)
    told, code = _readable(error, prepared)
    timeline.extend(getattr(error, "steps", None) or [])
    steps = _in_order(timeline)
    status = container.state.status
    eng.store.settle(
        container,
        operation=Operation.NONE,
        status=Status.EXITED if status is Status.RESTARTING else status,
        pid=0,
        exit_code=code,
        error=str(told),
        start_error=_cause(error),
        timeline=steps,
    )
    container.live.dismiss()
    if status is Status.RESTARTING:
        # Who waits for a container that never ran is answered by its removal, as by dockerd.
        container.live.stopped(wait.outcome(container))
    eng.announce(container, "die", exitCode=str(code))
    if eng.telemetry is not None:
        eng.telemetry.started(container, steps, error)
    # It claims the container, which this start still holds.
    eng.spawn(exits.finish(eng, container))
    return told


def _cause(error: Exception) -> dict[str, Any] | None:
    """The failed step as the timeline's reader gets it; the steps before it are the timeline's."""
    if not isinstance(error, StepError):
        return None
    return {key: value for key, value in error.to_dict().items() if key != "steps"}


def _readable(error: Exception, prepared: bool) -> tuple[Exception, int]:
    """The error in the words and the category that clients know, and the exit code of the container.

    prepared: everything was decided, and it was the driver's turn.
    """
    if isinstance(error, StepError) and error.step == "subpath":
        return (NotFound if error.errno == errno.ENOENT else InvalidParameter)(error.message), OTHER
    if isinstance(error, StepError):
        # A user is looked up by dockerd itself, without a runtime to wrap the answer.
        text = faults.docker_text(error) if prepared and error.step != "user" else error.message
        told = InvalidParameter(text) if error.exit_code in (NOT_FOUND, NOT_EXECUTABLE) else System(text)
        return told, error.exit_code
    if isinstance(error, Error) and str(error):
        return error, OTHER
    return System(host_failure(error) or str(error) or f"the start failed: {type(error).__name__}"), OTHER
