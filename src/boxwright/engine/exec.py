"""Exec sessions: created, started at most once, and remembered for a while after their end.

An exec's exit code is recorded before its stream closes: the shim keeps the stream open until the engine has heard of
the exit.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from typing import TYPE_CHECKING, Any

from boxwright.engine import detachkeys, limit, links, live, signals, spec
from boxwright.engine.attach import Pair, Stream
from boxwright.engine.state import Status
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, StepError, System, Unavailable
from boxwright.libcontainer import faults

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.execdriver import Running
    from boxwright.types import ExecConfig

KEPT = 300.0  # seconds for which an ended session can still be inspected
KILLED = 137  # exit code of a session that its container's end took along
BEGIN_SECONDS = 10.0  # for which a resize waits until a session has begun
NOT_FOUND, NOT_STARTED = 127, 126  # exit codes of a session that could not begin

log = logging.getLogger(__name__)


class Session:
    """One exec session.  exit_code is None until it has ended; `started` is for ever, a session runs once.

    begun: set when its process runs, or when that has failed.
    limit_ns: nanoseconds after which its process is killed, 0 for never; timed_out: that has happened.
    is_probe: of a health check, which forgets it itself.
    """

    __slots__ = (
        "begun",
        "config",
        "container_id",
        "exit_code",
        "id",
        "is_probe",
        "keys",
        "limit_ns",
        "pid",
        "running",
        "started",
        "timed_out",
    )

    def __init__(self, id: str, container_id: str, config: ExecConfig, keys: bytes) -> None:
        self.id, self.container_id, self.config, self.keys = id, container_id, config, keys
        self.started = self.running = self.timed_out = self.is_probe = False
        self.limit_ns = config.timeout * 1_000_000_000
        self.pid = 0
        self.exit_code: int | None = None
        self.begun = asyncio.Event()

    @property
    def command(self) -> list[str]:
        """The program and its arguments."""
        return list(self.config.cmd or ())

    @property
    def told(self) -> str:
        """The command as events tell it: without arguments a space stays, as dockerd leaves it."""
        program, *arguments = self.command
        return f"{program} {' '.join(arguments)}"


async def create(eng: Engine, name: str, config: ExecConfig) -> dict[str, str]:
    """A session in container `name`, not yet started: `{"Id": …}`.

    Raises NotFound, Conflict (not running, paused, restarting), InvalidParameter (no command, bad detach keys).
    """
    if not config.cmd:
        raise InvalidParameter("No exec command specified")
    container = eng.store.get(name)
    keys = detachkeys.parse(config.detach_keys, "escape")
    if not 0 <= config.timeout <= limit.LONGEST:
        raise InvalidParameter(f"Timeout of an exec must be 0 to {limit.LONGEST} seconds: {config.timeout}")
    _active(container)
    return {"Id": add(eng, container, Session(os.urandom(32).hex(), container.id, config, keys))}


def add(eng: Engine, container: Container, session: Session) -> str:
    """Make a session known; its id."""
    eng.sessions[session.id] = session
    container.exec_ids.append(session.id)
    eng.announce(container, f"exec_create: {session.told}", execID=session.id)
    return session.id


async def start(
    eng: Engine,
    exec_id: str,
    detach: bool,
    tty: bool,
    console_size: tuple[int, int] | None,
    stream: Stream | None,
) -> None:
    """Run session `exec_id`; with a stream, returns when the session ends, the client leaves or detaches.

    console_size: (height, width) of the terminal.
    Raises NotFound and Conflict before the stream is opened; from then on errors are told in the stream, and the exit
    code says the rest, as Docker does.  Detached, a program that cannot be executed raises InvalidParameter.
    """
    session = find(eng, exec_id)
    container = eng.store.get(session.container_id)
    if session.exit_code is not None:
        raise Conflict(f"Error: Exec command {exec_id} has already run")
    if session.started:
        raise Conflict(f"Error: Exec command {exec_id} is already running")
    life = _active(container)
    if console_size and not tty:
        raise InvalidParameter("console size is only supported with TTY")
    session.started = True
    eng.announce(container, f"exec_start: {session.told}", execID=exec_id)
    size = console_size or session.config.console_size
    if detach or stream is None:
        await eng.shielded(_run(eng, container, life, session, size, None))
        return
    config = session.config
    pair = Pair(config.attach_stdin, config.attach_stdout, config.attach_stderr, mux=not tty)
    try:
        await stream.open(not tty)
        try:
            await eng.shielded(_run(eng, container, life, session, size, pair))
        except Error as error:
            _tell(stream, f"{error}\r\n", framed=not tty)
            return
        escape = detachkeys.Escape(session.keys) if config.tty and config.attach_stdin else None
        if await pair.relay(stream, escape):
            eng.announce(container, "exec_detach", execID=exec_id)
    except ConnectionError:
        log.debug("exec %s: the client left before its session began", exec_id)
    finally:
        pair.close()
        await stream.close()


async def _run(
    eng: Engine,
    container: Container,
    life: Running,
    session: Session,
    size: tuple[int, int] | None,
    pair: Pair | None,
) -> None:
    """Start the session's process; returns after its execve."""
    config = session.config
    try:
        process = spec.exec_process(eng, container, config, links.environment(eng, container, alive=True))
        if size and config.tty:
            process["consoleSize"] = {"height": size[0], "width": size[1]}
        session.running = True
        session.pid = await life.exec(
            session.id,
            process,
            tty=config.tty,
            attach=pair.hand_over() if pair else None,
            open_stdin=config.attach_stdin,
            detach=pair is None,
            seccomp_path=None if config.privileged else await spec.seccomp_path(eng, container.host_config),
            limit_ns=session.limit_ns,
        )
    except Error as error:
        # 126 where nothing says more, as dockerd has it for sessions.
        found = isinstance(error, StepError) and error.exit_code == NOT_FOUND
        _over(eng, session, NOT_FOUND if found else NOT_STARTED)
        raise _readable(container, error) from error
    finally:
        session.begun.set()


def _readable(container: Container, error: Error) -> Error:
    if isinstance(error, StepError) and error.errno == errno.ESRCH:
        return Conflict(f"container {container.id} is not running")  # it ended while it was being entered
    if isinstance(error, StepError):
        # A user is looked up by dockerd itself, without a runtime to wrap the answer.
        text = error.message if error.step == "user" else faults.docker_text(error, exec_session=True)
        return InvalidParameter(text) if error.exit_code in (NOT_FOUND, NOT_STARTED) else System(text)
    return error


def ended(eng: Engine, container: Container, exec_id: str, exit_code: int, timed_out: bool = False) -> None:
    """The shim reports the end of a session; its stream is still open."""
    session = eng.sessions.get(exec_id)
    if session is None or session.exit_code is not None:
        return
    session.timed_out = timed_out
    _over(eng, session, exit_code)
    limited = {"timedOut": "true"} if timed_out else {}
    eng.announce(container, "exec_die", execID=exec_id, exitCode=str(exit_code), **limited)


def end_all(eng: Engine, container: Container) -> None:
    """The container has ended, and every session in it."""
    for exec_id in container.exec_ids:
        session = eng.sessions.get(exec_id)
        if session is not None and session.running:
            ended(eng, container, exec_id, KILLED)


def adopt(eng: Engine, container: Container, execs: dict[str, dict[str, Any]]) -> None:
    """Know again the sessions that a shim has run for an earlier engine."""
    from boxwright.types import ExecConfig

    for exec_id, known in execs.items():
        session = Session(exec_id, container.id, ExecConfig(cmd=known.get("args")), detachkeys.DEFAULT)
        session.started, session.running, session.pid = True, bool(known["running"]), int(known["pid"])
        session.begun.set()
        if not session.running:
            session.timed_out = bool(known.get("timed_out"))
            _over(eng, session, int(known["exit_code"] or 0))
        eng.sessions[exec_id] = session
        container.exec_ids.append(exec_id)


def inspect(eng: Engine, exec_id: str) -> dict[str, Any]:
    """The session as `GET /exec/{id}/json` shows it."""
    session = find(eng, exec_id)
    config, command = session.config, session.command
    process: dict[str, Any] = {
        "tty": config.tty,
        "entrypoint": command[0] if command else "",
        "arguments": command[1:],
        "privileged": config.privileged,
    }
    if config.user:
        process["user"] = config.user
    return {
        "ID": session.id,
        "Running": session.running,
        "ExitCode": session.exit_code,
        "ProcessConfig": process,
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": False,
        "ContainerID": session.container_id,
        "DetachKeys": config.detach_keys,
        "Pid": session.pid,
        "Boxwright": {"Timeout": config.timeout, "TimedOut": session.timed_out},
    }


async def resize(eng: Engine, exec_id: str, height: int, width: int) -> None:
    """Set the terminal of a running session; raises NotFound, Conflict."""
    session = find(eng, exec_id)
    container = eng.store.get(session.container_id)
    if session.started:
        # Clients set the size as soon as they have the stream, which is before the process runs.
        try:
            await asyncio.wait_for(session.begun.wait(), BEGIN_SECONDS)
        except TimeoutError:
            raise Unavailable(f"exec {exec_id}: timeout waiting for exec session ready") from None
    if not session.running:
        raise Conflict(f"exec {exec_id} is not running")
    await live.running(container).exec_resize(exec_id, height, width)


async def kill(eng: Engine, exec_id: str, signal: str | None) -> None:
    """Send a signal to a running session; None is SIGKILL, which ends its descendants too.

    Raises NotFound, Conflict (it does not run), InvalidParameter (no such signal).
    """
    session = find(eng, exec_id)
    number = signals.parse(signal) if signal else signals.parse("KILL")
    if not session.running or not session.pid:
        raise Conflict(f"exec {exec_id} is not running")
    await live.running(eng.store.get(session.container_id)).exec_signal(exec_id, number)


def find(eng: Engine, exec_id: str) -> Session:
    """The session, or NotFound with Docker's text."""
    session: Session | None = eng.sessions.get(exec_id)
    if session is None or eng.store.by_id(session.container_id) is None:
        raise NotFound(f"No such exec instance: {exec_id}")
    return session


def _active(container: Container) -> Running:
    life = live.running(container)
    if container.state.status is Status.PAUSED:
        raise Conflict(f"container {container.id} is paused, unpause the container before exec")
    if container.state.status is Status.RESTARTING:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    return life


def forget_all(eng: Engine, container: Container) -> None:
    """The container is gone, and what was known of its sessions with it."""
    for exec_id in container.exec_ids:
        eng.sessions.pop(exec_id, None)
    container.exec_ids = []


def _over(eng: Engine, session: Session, exit_code: int) -> None:
    session.running, session.exit_code = False, exit_code
    if not session.is_probe:
        asyncio.get_running_loop().call_later(KEPT, forget, eng, session)


def forget(eng: Engine, session: Session) -> None:
    """Remember the session no longer."""
    if eng.sessions.pop(session.id, None) is not None:
        container = eng.store.by_id(session.container_id)
        if container is not None:
            container.exec_ids.remove(session.id)


def _tell(stream: Stream, text: str, framed: bool) -> None:
    data = text.encode()
    header = b"\x01\0\0\0" + len(data).to_bytes(4, "big") if framed else b""
    stream.write(header + data)
