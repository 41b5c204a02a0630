"""The parent's side of a container's first process: ask for it, watch it, let it go.

`create_init` forks by raw clone with the namespaces of the spec and returns at once; everything after that is an event
read from the child's sync socket (`sync.py` draws the protocol).  The shim keeps that socket in its epoll loop:

    process = create_init(InitRequest(spec, rootfs_fd, stdio=(0, 1, 2)))
    epoll.register(process.sync.fileno(), EPOLLIN)
    ... readable: while (event := process.feed()) is not None: handle(event)

Events, each a tuple whose first item is its kind:

    ("network",)            `netlink_fd` and `netns_fd` are there: the network can be configured (only if wants_netlink)
    ("ready", steps)        all before the gate is done, `console_fd` is there; answer with `release_gate()`
    ("executed", steps)     execve has happened: `pid` and `pidfd` are the program's; the sync socket is finished
    ("failed", error, steps)  `error` is a `StepError.to_dict()`; the child is dead and reaped; the socket is finished

`steps` are timeline steps (see `boxwright.trace`).
"""

import errno
import os
import select
import stat
from time import monotonic, monotonic_ns

from boxwright.errdefs import StepError
from boxwright.libcontainer import faults, handover, init, placing, rlimits, sync
from boxwright.linux import namespaces, pidfd, signals
from boxwright.trace import Timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from boxwright.libcontainer.advance import Advance


class InitRequest:
    """What a first process is made from.

    spec: OCI runtime-spec 1.2 configuration as a plain dict (read, never written).
    rootfs_fd: detached mount of the root file system (`rootfs.make_rootfs`); stays the caller's to close.
    stdio: descriptors for 0, 1 and 2; None with `process.terminal`, when the pty master comes back as `console_fd`.
    seccomp_bpf: compiled filter, or None for unconfined.
    cgroup: a `cgroups.Manager` whose groups exist with limits set, or None to stay in the parent's.
    keep_fds: descriptors that the program inherits, as 3, 4, ... (normally none).
    init: stay as PID 1, forward signals, reap, exit with the program's code (`docker run --init`).
    wants_netlink: open a netlink socket in the new network namespace and send it up.
    gate_fd: a listening socket on which the child waits for `start` instead of on the sync socket (the runtime's
        `create`), or -1.
    die_with_parent: the program gets SIGKILL when its parent dies (rule 12).
    sibling: make the child our parent's (CLONE_PARENT).  Then we cannot reap it: our parent reaps `pid` and, where it
        is not 0, `helper_pid`.
    done: what the calling process has done in advance, for `become_init`.
    """

    __slots__ = ("cgroup", "die_with_parent", "done", "gate_fd", "init", "keep_fds", "rootfs_fd", "seccomp_bpf",
                 "sibling", "spec", "stdio", "wants_netlink")  # fmt: skip

    def __init__(
        self,
        spec: "dict[str, Any]",
        rootfs_fd: int,
        *,
        stdio: "tuple[int, int, int] | None" = None,
        seccomp_bpf: bytes | None = None,
        cgroup: "Any | None" = None,
        keep_fds: "Sequence[int]" = (),
        init: bool = False,
        wants_netlink: bool = False,
        gate_fd: int = -1,
        die_with_parent: bool = True,
        sibling: bool = False,
        done: "Advance | None" = None,
    ) -> None:
        self.spec = spec
        self.rootfs_fd = rootfs_fd
        self.stdio = stdio
        self.seccomp_bpf = seccomp_bpf
        self.cgroup = cgroup
        self.keep_fds = tuple(keep_fds)
        self.init = init
        self.wants_netlink = wants_netlink
        self.gate_fd = gate_fd
        self.die_with_parent = die_with_parent
        self.sibling = sibling
        self.done = done


class ExecRequest:
    """What a process that enters a running container is made from (`setns.create_exec`).

    init_pid, init_pidfd: the container's first process (the pidfd decides, the pid is for reading /proc).
    process: OCI process as a plain dict; `process["user"]` as in the contract of `users.py`.
    The other attributes are those of `InitRequest`.
    """

    __slots__ = ("cgroup", "die_with_parent", "init_pid", "init_pidfd", "keep_fds", "process", "seccomp_bpf", "sibling",
                 "stdio")  # fmt: skip

    def __init__(
        self,
        init_pid: int,
        init_pidfd: int,
        process: "dict[str, Any]",
        *,
        stdio: "tuple[int, int, int] | None" = None,
        seccomp_bpf: bytes | None = None,
        cgroup: "Any | None" = None,
        keep_fds: "Sequence[int]" = (),
        die_with_parent: bool = True,
        sibling: bool = False,
    ) -> None:
        self.init_pid = init_pid
        self.init_pidfd = init_pidfd
        self.process = process
        self.stdio = stdio
        self.seccomp_bpf = seccomp_bpf
        self.cgroup = cgroup
        self.keep_fds = tuple(keep_fds)
        self.die_with_parent = die_with_parent
        self.sibling = sibling


class InitProcess:
    """A child between clone and execve, and the program after it; also the shape of an exec (`setns.create_exec`).

    pid, pidfd: of the child; both change with "executed" when a pid namespace was joined, by an exec always (the child
        that was cloned first then only prepares, and `feed` reaps it).  Reap the program by
        `pidfd.wait(process.pidfd)` or by its pid, never by waitpid(-1).
    netns_fd: the child's new network namespace, or -1 when it has none of its own.
    netlink_fd: rtnetlink socket in it, after ("network",), or -1.
    console_fd: the pty master, after ("ready", …), or -1.
    steps: the parent's own part of the timeline; it comes with ("ready", …).
    helper_pid: the child that forked the program into a pid namespace, or 0.
    sync: SEQPACKET socket, non-blocking.
    All descriptors belong to the caller; `close` closes those that are still set (set one to -1 to keep it).
    """

    __slots__ = (
        "_helper",
        "_last",
        "_netns_due",
        "_place",
        "_steps",
        "console_fd",
        "helper_pid",
        "netlink_fd",
        "netns_fd",
        "pid",
        "pidfd",
        "request",
        "rlimits",
        "steps",
        "sync",
    )  # fmt: skip

    def __init__(
        self,
        pid: int,
        fd: int,
        sock: "socket",
        request: "InitRequest | ExecRequest",
        place: "Callable[[int], None]",
        limits: "list[dict[str, Any]]",
        own_network: bool = False,
    ) -> None:
        self.pid, self.pidfd, self.sync = pid, fd, sock
        self.netns_fd = self.netlink_fd = self.console_fd = -1
        self.helper_pid, self._helper = 0, -1
        self.request, self._place, self.rlimits, self._netns_due = request, place, limits, own_network
        self._last = ""
        self._steps: list[list[Any]] = []
        self.steps: list[list[Any]] = []

    def feed(self) -> "tuple[Any, ...] | None":
        """The next event, or None when nothing (more) is there."""
        while self._last != sync.DONE:
            try:
                kind, body, fds = sync.receive(self.sync)
            except BlockingIOError:
                return None
            except (OSError, ValueError) as error:
                return self._failed(StepError(f"the child's report cannot be read: {error}", step="sync"), [])
            if not kind:
                return self._ended()
            if kind not in sync.FOLLOWS[self._last]:
                return self._failed(StepError(f"the child said {kind} after {self._last or 'nothing'}"), [])
            self._last = kind
            try:
                event = self._handle(kind, body, fds)
            except StepError as error:
                return self._failed(error, body.get("steps") or [])
            if event is not None:
                return event
        return None

    def _handle(self, kind: str, body: "dict[str, Any]", fds: "list[int]") -> "tuple[Any, ...] | None":
        if kind == sync.UNSHARED:
            self.place()
        elif kind == sync.NETWORK:
            self.netlink_fd = fds[0]
            self._open_netns()
            return ("network",)
        elif kind == sync.READY:
            if fds:
                self.console_fd = fds[0]
            self._open_netns()
            self.limit()
            return ("ready", self.steps + (body.get("steps") or []))
        elif kind == sync.FORKED:
            self.helper_pid, self._helper = self.pid, self.pidfd
            self.pid, self.pidfd = body["pid"], fds[0]
        elif kind == sync.EXECUTING:
            start = body.get("execve_ns") or monotonic_ns()
            self._steps = [*(body.get("steps") or []), ["execve", start, start, body.get("path") or ""]]
        elif kind == sync.FAILED:
            return self._failed(StepError.from_dict(body.get("error") or {}), body.get("steps") or [])
        return None

    def wait(self, *kinds: str, timeout: float = 60.0) -> "tuple[Any, ...]":
        """Block until an event of one of `kinds` and return it.

        Raises the StepError of a "failed" event, and StepError after `timeout` seconds (the child is then aborted).
        """
        deadline = monotonic() + timeout
        poller = select.poll()
        poller.register(self.sync.fileno(), select.POLLIN)
        while True:
            event = self.feed()
            if event is None:
                left = deadline - monotonic()
                if left <= 0 or not poller.poll(left * 1000):
                    self.abort()
                    raise StepError("the container's first process does not answer", step="sync", errno=errno.ETIMEDOUT)
            elif event[0] in kinds:
                return event
            elif event[0] == "failed":
                raise StepError.from_dict(event[1])

    def place(self) -> None:
        """Write the id maps, join the cgroup, set oom_score_adj, and tell the child; `create_init` calls it."""
        try:
            self._place(self.pid)
            sync.send(self.sync, sync.PLACED)
        except (OSError, StepError) as error:
            # A child that has failed meanwhile cannot be placed; its own report says more, and comes through `feed`.
            if sync.is_hung_up(self.sync):
                return
            if isinstance(error, OSError):
                raise faults.step_error(error, "cgroup") from error
            raise

    def release_gate(self) -> None:
        """The engine's "go": the child takes its final credentials and calls execve."""
        try:
            sync.send(self.sync, sync.GO)
        except ConnectionError:  # it has died: `feed` says so
            pass
        except OSError as error:
            raise faults.step_error(error, "sync", "the gate cannot be opened") from error

    def abort(self) -> None:
        """SIGKILL the child and reap it (if `feed` has not yet); safe at any time before "executed"."""
        self._end()

    def close(self) -> None:
        """Close the descriptors that are still set."""
        self.sync.close()
        for name in ("pidfd", "_helper", "netns_fd", "netlink_fd", "console_fd"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)

    def _open_netns(self) -> None:
        if self._netns_due:
            self._netns_due = False
            try:
                self.netns_fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # it has died meanwhile (ENOENT, ESRCH or EACCES): what it said last comes next
                return

    def _reap(self, fd: int) -> int:
        """Wait for the end of one of ours; its status, or -1 when it is not our child or already reaped."""
        if self.request.sibling:
            pidfd.await_end(fd)
            return -1
        try:
            return pidfd.wait(fd)
        except ChildProcessError:
            return -1

    def _end(self) -> int:
        status = -1
        for fd in (self._helper, self.pidfd):
            if fd >= 0:
                try:
                    pidfd.send_signal(fd, signals.SIGKILL)
                except ProcessLookupError:  # dead and reaped
                    continue
                status = self._reap(fd)
        return status

    def limit(self) -> None:
        """Set the rlimits from outside, now that init has no more to build: it may lack the privilege to raise them,
        and a low limit would hinder it.  A program forked later inherits them."""
        rlimits.apply(self.pid, self.rlimits)

    def _ended(self) -> "tuple[Any, ...]":
        if self._last != sync.EXECUTING:
            return self._failed(StepError(""), [])
        if self._helper >= 0:
            self._reap(self._helper)
            os.close(self._helper)
            self._helper = -1
        self._steps[-1][2] = monotonic_ns()
        self._last = sync.DONE
        return ("executed", self._steps)

    def _failed(self, error: StepError, steps: "list[list[Any]]") -> "tuple[Any, ...]":
        status = self._end()
        if not error.message:
            error = self.death(status)
        self._last = sync.DONE
        return ("failed", error.to_dict(), steps)

    def death(self, status: int) -> StepError:
        """What to say of a child that ended without a word; status: as `pidfd.wait` gives it, -1 when not known."""
        if self.request.cgroup is not None and self.request.cgroup.oom_kills():
            return faults.oom_killed(self.request.cgroup.main_directory())
        return self.silent_death(status)

    def silent_death(self, status: int) -> StepError:
        """`death` of which nothing else is known."""
        return StepError(
            "the container's first process ended before its program could be executed",
            step=self._last or "clone",
            hint=f"its status was {status}: killed from outside, or for lack of memory below a small limit",
        )


def create_init(request: InitRequest) -> InitProcess:
    """Fork the first process of a container; returns as soon as it is cloned and, with a user namespace, placed.

    Raises StepError when the clone, the bind sources or a namespace to join fail; later failures come as events.
    """
    timeline = Timeline()
    cgroup_fd = request.cgroup.clone_fd() if request.cgroup is not None else -1
    try:
        with timeline.step("plan"):
            plan = init.Plan(request, cgroup_fd >= 0 or request.cgroup is None)
        try:
            _give_streams(request.stdio or (), request.spec.get("linux") or {})
            with timeline.step("fork"):
                child = _clone_init(request, plan, cgroup_fd)
        finally:
            plan.close()
    finally:
        if cgroup_fd >= 0:
            os.close(cgroup_fd)
    try:
        if plan.userns and not (plan.joining.staged and "user" in plan.joining.new):
            with timeline.step("place"):
                child.place()
    except BaseException:
        child.abort()
        child.close()
        raise
    child.steps = timeline.steps
    return child


def become_init(
    request: InitRequest,
    sock: "socket",
    timeline: Timeline,
    kept: dict[str, int],
    meet: "Callable[[], tuple[int, int, int] | None] | None" = None,
) -> "NoReturn":
    """Make the calling process the container's first; it must be the first of a new pid namespace already, and in its
    cgroup.

    Nothing is cloned: what `create_init` does in two processes happens here in one, and the reports go to `sock`, whose
    other end is whoever forked the caller.  Not for user namespaces and not for a joined pid namespace (`becomes`), nor
    for cgroup v2, where only a clone into the group avoids a wait.

    timeline: steps so far.  kept: descriptors to hand to the parent with READY, by name.
    meet: waits for the parent, and brings what would be `request.stdio`; called before anything is said to it.
    """
    done = request.done
    try:
        with timeline.step("plan"):
            plan = init.Plan(request, request.cgroup is None)
        with timeline.step("place"):
            placing.adjust_oom_score("self", request.spec["process"].get("oomScoreAdj"))
        with timeline.step("init"):
            if done is None or not done.begun:
                init.begin({*plan.descriptors(), sock.fileno(), *kept.values()}, request.die_with_parent)
            if meet is None:
                init.take_streams(request.stdio)
        with timeline.step("clone", "unshare: the pid namespace was cloned before"):
            flags = plan.joining.clone_flags & ~namespaces.CLONE_NEWPID
            if done is not None:
                done.leave(plan.joining)
                flags &= ~done.flags
            namespaces.unshare(flags, "container")
        if done is not None:
            done.give(plan.steps)
    except BaseException as error:
        if meet is not None:
            meet()
        handover.fail(sock, error, timeline)
    networked = done is not None and bool(done.flags & namespaces.CLONE_NEWNET)
    init.work(init.Init(plan, sock, timeline, kept, networked, meet))


def becomes(spec: "dict[str, Any]") -> bool:
    """Whether `become_init` can make a container of this spec."""
    kinds = {(n.get("type"), bool(n.get("path"))) for n in (spec.get("linux") or {}).get("namespaces") or ()}
    return ("pid", False) in kinds and not {("user", False), ("user", True)} & kinds


def _clone_init(request: InitRequest, plan: init.Plan, cgroup_fd: int) -> InitProcess:
    ours, theirs = sync.pair()
    theirs = sync.above(theirs, 3 + len(request.keep_fds))
    try:
        flags = plan.joining.clone_flags | (namespaces.CLONE_PARENT if request.sibling else 0)
        pid, fd = namespaces.clone_process(flags, cgroup_fd=cgroup_fd, name="init")
    except OSError as error:
        ours.close()
        theirs.close()
        raise faults.step_error(error, "clone", "cannot create the container's namespaces") from error
    if pid == 0:
        init.run(plan, theirs)
    theirs.close()
    ours.setblocking(False)
    cgroup = None if cgroup_fd >= 0 else request.cgroup

    def place(child: int) -> None:
        linux = request.spec.get("linux") or {}
        if "user" in plan.joining.new:
            placing.write_id_maps(child, linux.get("uidMappings") or [], linux.get("gidMappings") or [])
        if cgroup is not None:
            cgroup.add(child)
        placing.adjust_oom_score(child, request.spec["process"].get("oomScoreAdj"))

    limits = request.spec["process"].get("rlimits") or []
    return InitProcess(pid, fd, ours, request, place, limits, "network" in plan.joining.new)


def _give_streams(stdio: "Sequence[int]", linux: "dict[str, Any]") -> None:
    """Pipes that belong to ids which the user namespace does not know could not be handed on to its users."""
    roots = []
    for mappings in (linux.get("uidMappings") or [], linux.get("gidMappings") or []):
        roots += [m["hostID"] for m in mappings if m["containerID"] == 0]
    for fd in stdio if len(roots) == 2 else ():
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, *roots)
