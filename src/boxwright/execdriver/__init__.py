"""Exec drivers: how a prepared container becomes a process, behind one interface.

`native` (our own launcher, shim and libcontainer) is the default; other OCI runtimes and lxc fit the same shape.  The
engine gives a `StartRequest` and gets a `Running`; everything that a driver needs of the engine comes through `Hooks`.
The conformance suite in `tests/testsuite/execdriver.py` holds for every driver.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio


class AttachRequest:
    """One client's stream on a container's or an exec's stdio.

    fd: one end of a stream socket pair; the driver owns it from the call on and closes it, also on failure.  Data read
        from it goes to the program's stdin, output is written to it; EOF on it is the client's half-close.
    stdin, stdout, stderr: which streams the client takes part in.
    mux: frame the output with Docker's 8-byte headers; otherwise bytes go raw (a tty always does).
    """

    __slots__ = ("fd", "mux", "stderr", "stdin", "stdout")

    def __init__(self, fd: int, *, stdin: bool, stdout: bool, stderr: bool, mux: bool) -> None:
        self.fd, self.stdin, self.stdout, self.stderr, self.mux = fd, stdin, stdout, stderr, mux


class StartRequest:
    """Everything about one start, decided: a driver looks nothing up.

    id, generation: the container and its start number; a late message of an earlier life is told by the second.
    spec: OCI runtime-spec 1.2 as a dict, `linux.seccomp` excepted.
    rootfs: a Mount value (`{"type": "overlay" | "bind", …}`), mounted by the driver, detached from the host.
    container_dir: absolute path; the log and the exit record live there.
    seccomp_path: file with the compiled BPF program, or None.
    cgroup: `{"driver": "fs" | "fs2", "parent": str, "name": str}`.
    log: `{"type": "json-file" | "none", "config": {str: str}, "attrs": {str: str}}` (attrs may be absent).
    tty, open_stdin, stdin_once, init: as in Docker's Config and HostConfig.
    configure_network: call `Hooks.network` between clone and execve.
    limit: None, or the time limit of this life: `{"seconds", "signal", "grace"}`, as `launcher.limits.Limit` takes it.
    attach: clients whose streams begin before the first byte of output.
    relayed: published ports that a relay serves on IPv6, `[protocol, host address, host port, address, port]` each.
    """

    __slots__ = (
        "attach", "cgroup", "configure_network", "container_dir", "generation", "id", "init", "limit", "log",
        "open_stdin", "relayed", "rootfs", "seccomp_path", "spec", "stdin_once", "tty",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        generation: int,
        spec: dict[str, Any],
        rootfs: dict[str, Any],
        container_dir: str,
        *,
        cgroup: dict[str, str],
        log: dict[str, Any],
        seccomp_path: str | None = None,
        tty: bool = False,
        open_stdin: bool = False,
        stdin_once: bool = False,
        init: bool = False,
        configure_network: bool = False,
        limit: dict[str, int] | None = None,
        attach: Sequence[AttachRequest] = (),
        relayed: Sequence[list[Any]] = (),
    ) -> None:
        self.id, self.generation, self.spec, self.rootfs, self.container_dir = (
            id,
            generation,
            spec,
            rootfs,
            container_dir,
        )
        self.cgroup, self.log, self.seccomp_path = cgroup, log, seccomp_path
        self.tty, self.open_stdin, self.stdin_once, self.init = tty, open_stdin, stdin_once, init
        self.configure_network = configure_network
        self.limit = limit
        self.attach, self.relayed = list(attach), list(relayed)


class ExitStatus:
    """How a container's life ended.

    exit_code: 0 to 255; 128 + signal when a signal ended it.
    signal: that signal, or 0.
    finished_at: RFC 3339 with nanoseconds, UTC.
    error: text for people when the end was not the program's own ("" otherwise).
    started_at: when the life began, where it is told by its record (RFC 3339, "" otherwise).
    timed_out: the time limit of this life was reached.
    lived: seconds from start to end by a clock that does not jump; None where nobody has counted them.
    """

    __slots__ = ("error", "exit_code", "finished_at", "lived", "oom_killed", "signal", "started_at", "timed_out")

    def __init__(
        self,
        exit_code: int,
        signal: int,
        oom_killed: bool,
        finished_at: str,
        error: str = "",
        started_at: str = "",
        timed_out: bool = False,
        lived: float | None = None,
    ) -> None:
        self.exit_code, self.signal, self.oom_killed = exit_code, signal, oom_killed
        self.finished_at, self.error, self.started_at = finished_at, error, started_at
        self.timed_out, self.lived = timed_out, lived

    def __repr__(self) -> str:
        return f"ExitStatus({self.exit_code}, {self.signal}, {self.oom_killed}, {self.finished_at!r}, {self.error!r})"


class Hooks:
    """What the engine does for a driver; the defaults do nothing."""

    async def network(self, pid: int, netns_fd: int, netlink_fd: int) -> None:
        """Configure the new network namespace; called once, and only when `configure_network` is set.

        The descriptors belong to the driver and are closed when this returns: duplicate what must stay.  An error
        raised here aborts the start and is raised by `Driver.start`.
        """

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Something happened in the container: `kind` is one of

        "oom" {}; "exec_exit" {"exec_id", "exit_code"} (the exec's stream closes only after this returned), with
        "timed_out": True for one that its limit ended; "paused" {}; "unpaused" {}; "log_dropped" {"lines": total so
        far, "error": str}; "relay_ended" {"error"}: published ports are no longer served on IPv6.
        """


class Running(Protocol):
    """One life of a container, from execve to `release`.

    Every verb raises `errdefs.Conflict` when the container is no longer running and `errdefs.Unavailable` when its
    shim does not answer in time.
    """

    id: str
    generation: int
    pid: int
    started_at: str  # RFC 3339 with nanoseconds, UTC
    paused: bool
    timeline: list[list[Any]]  # steps of boxwright.trace
    exit: "asyncio.Future[ExitStatus]"
    # exec id → {"pid": int, "running": bool, "exit_code": int | None}, "timed_out": True for one that its limit ended
    execs: dict[str, dict[str, Any]]
    problem: str  # why not every verb works on it (a shim of another version), or ""

    async def signal(self, sig: int, all: bool = False) -> None:
        """Send `sig` to the container's first process, or to every process in its cgroup."""

    async def resize(self, h: int, w: int) -> None: ...

    async def attach(self, request: AttachRequest) -> None:
        """Add a client; returns once output is being copied to it.  The driver closes its end when output ends."""

    async def pause(self) -> None: ...

    async def unpause(self) -> None: ...

    async def exec(
        self,
        exec_id: str,
        process: dict[str, Any],
        *,
        tty: bool = False,
        attach: AttachRequest | None = None,
        open_stdin: bool = False,
        detach: bool = False,
        seccomp_path: str | None = None,
        limit_ns: int = 0,
    ) -> int:
        """Run `process` (an OCI process) in the container; returns its pid after execve.

        limit_ns: nanoseconds after which it is killed with its descendants, 0 for never.

        Raises StepError (exit_code 126 or 127 for what cannot be executed), Conflict when the container has ended.
        """

    async def exec_resize(self, exec_id: str, h: int, w: int) -> None: ...

    async def exec_signal(self, exec_id: str, sig: int) -> None:
        """Send `sig` to the exec's program; SIGKILL ends its descendants too."""

    async def update(self, resources: dict[str, Any]) -> None:
        """Set OCI `linux.resources` on the running container's cgroup: all of them, or none when it raises."""

    async def pids(self) -> list[int]:
        """The host's pids of every process in the container."""

    def stats(self) -> dict[str, Any]:
        """Figures of the cgroup, as `libcontainer.cgroups.Manager.stats` gives them, and `"networks"`: counters by
        interface.  Blocks for a fraction of a millisecond; may be called in any thread."""

    async def destroy(self) -> None:
        """End a container that does not end by SIGKILL: past its shim, and with its shim if that does not see it.

        `exit` follows.  Raises StepError when a process survives that.
        """

    async def release(self) -> None:
        """The exit was persisted: let the shim go.  Returns when its cgroup and socket are gone (bounded)."""


class Driver(Protocol):
    name: str

    async def start(self, request: StartRequest, hooks: Hooks) -> Running:
        """Start a container; returns when execve has happened.

        Raises StepError, whose `steps` attribute is the timeline up to the failure; nothing is left behind then.
        """

    async def adopt(self, container_id: str, generation: int, hooks: Hooks, container_dir: str = "") -> Running | None:
        """Reconnect to a container that an earlier engine started; None when no such life is left.

        container_dir: where its exit record will be, for a life that can be watched only (see `Running.problem`).
        """

    def recorded(self, container_dir: str, generation: int) -> ExitStatus | None:
        """The exit record that a shim left on disk for this generation, or None."""

    async def cleanup(self, container_id: str, container_dir: str, cgroup: dict[str, str]) -> None:
        """Kill and remove whatever a dead shim or an interrupted start left: processes, cgroup, socket.

        Raises StepError for what cannot be ended.
        """

    async def close(self) -> None:
        """Disconnect; containers run on."""
