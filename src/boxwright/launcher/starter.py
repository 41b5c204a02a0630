"""The starter: a short-lived child of a shim that does the work of one start or one exec, and then ends.

Decoding a request, mounting an overlay, making a cgroup, cloning and watching init touches two megabytes of Python
objects.  Done in a child, these pages go with it, and the shim keeps only those of its loop.  What the starter leaves
is init (which it clones as its sibling, so that it is the shim's child), the cgroup and the descriptors that it sends
back.
"""

import os
import select
from errno import EMFILE
from time import monotonic_ns, time_ns

from boxwright import errdefs
from boxwright.launcher import packets
from boxwright.libcontainer import advance, cgroups, handover, jsontext, process, rootfs, setns
from boxwright.logger.timestamps import rfc3339nano
from boxwright.trace import Timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any, NoReturn

MSG_PEEK, MSG_DONTWAIT = 0x2, 0x40


class _Aborted(Exception):
    """The shim or the engine is gone: undo, say nothing."""


class Work:
    """One start under way.

    sock: to the shim.  control: the shim's connection to the engine, only looked at (for the gate).
    """

    __slots__ = ("cgroup", "child", "control", "ended", "lock_fd", "shares_pids", "sock", "timeline")

    def __init__(self, sock: "socket", control: "socket | None") -> None:
        self.sock, self.control = sock, control
        self.timeline = Timeline()
        self.cgroup: cgroups.Manager | None = None
        self.child: process.InitProcess | None = None
        self.lock_fd = -1
        self.ended: list[int] = []  # the shim's children that it has to reap
        self.shares_pids = False

    def undo(self) -> None:
        """Leave nothing behind."""
        if self.child is not None:
            self.child.abort()
            self.ended = [pid for pid in (self.child.helper_pid, self.child.pid) if pid]
            self.child.close()
        if self.cgroup is not None and self.control is not None:
            try:
                self.cgroup.kill()
                self.cgroup.destroy()
            except (errdefs.StepError, OSError):
                pass  # the shim, and then the engine's clean-up, try again and say what is in the way

    def report(self, kind: str, fields: "dict[str, Any]", fds: "tuple[int, ...]" = (), body: bytes = b"") -> None:
        """One message to the shim."""
        try:
            packets.send(self.sock, {"type": kind, **fields}, fds, body)
        except ConnectionError:
            raise _Aborted from None

    def steps(self) -> bytes:
        """The timeline as JSON, for the engine."""
        return jsontext.dumps(self.timeline.steps).encode()


def serve(
    sock: "socket",
    warm_up: "Callable[[], None] | None" = None,
    spare: "cgroups.fs.Manager | None" = None,
    usual: bytes = b"",
    line: "socket | None" = None,
) -> "NoReturn":
    """Wait for one job from the shim, do it, and end this process.

    The job is a header and a body that only this process decodes:
    {"work": "start", "stdio": bool, …} with the shim's connection to the engine and the program's 0, 1 and 2;
    {"work": "become", "stdio": bool, …} with the program's: this process itself is to be the container's first;
    {"work": "exec", "stdio": bool, "pid": int, …} with a pidfd of the container's first process and the program's;
    {"work": "join", …} with the same: this process itself enters the container and forks the program.
    The first two come with the exit record as well, whose lock is held by being open.

    warm_up: there is time before the job comes, so prepare, and call this.  spare: the group to join then.
    usual: the spec to be prepared for, as JSON.
    line: to the engine, which tells what a "become" is about by it, where the header has no body.  Then the work begins
    at once, beside the shim's own part.
    """
    try:
        _close_all_but(sock, line)
        set_name(b"bw-starter")
        sock.setblocking(True)
        done = advance.Advance()
        if warm_up is not None:
            done.prepare(sock, spare, jsontext.loads(usual), (line.fileno(),) if line is not None else ())
            warm_up()
        if line is not None and done.begun and (told := _told(sock, line)) is not None:
            become(sock, told, done, None, lambda: _met(sock))
        got = packets.receive(sock)
        if got is not None:
            header, fds = got
            if header["work"] == "become":
                stdio = (fds[0], fds[1], fds[2]) if header["stdio"] else None
                if "body" not in header and line is not None:
                    line.setblocking(True)
                    told, _ = packets.receive(line) or os._exit(handover.EXIT_ABORTED)
                    header = {**header, **told}
                become(sock, header, done, stdio)
            if header["work"] == "join":
                join(sock, header, (fds[1], fds[2], fds[3]) if header["stdio"] else None, fds[0])
            sock.setblocking(False)
            stdio = (fds[1], fds[2], fds[3]) if header["stdio"] else None
            if header["work"] == "start":
                work = Work(sock, packets.adopt(fds[0]))
                _run(work, lambda: _start(work, header, stdio))
            else:
                work = Work(sock, None)
                _run(work, lambda: _execute(work, header, stdio, fds[0]))
    finally:
        os._exit(0)


def _told(sock: "socket", line: "socket") -> "dict[str, Any] | None":
    """What the engine says on `line`; None when the shim is first, or the engine is gone."""
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLIN)
    poller.register(line.fileno(), select.POLLIN)
    if line.fileno() not in dict(poller.poll()):
        return None
    got = packets.receive(line)
    return got[0] if got is not None else None


def _met(sock: "socket") -> tuple[int, int, int] | None:
    """Wait until the shim has come to the same start: the program's 0, 1 and 2, if it has pipes."""
    got = packets.receive(sock)
    if got is None:
        os._exit(handover.EXIT_ABORTED)
    header, fds = got
    if not header["stdio"]:
        return None
    if len(fds) < 3:
        raise errdefs.StepError("no descriptor left for the program's streams", step="init", errno=EMFILE)
    return fds[0], fds[1], fds[2]


def _close_all_but(sock: "socket", line: "socket | None") -> None:
    first = 3
    for fd in sorted((sock.fileno(), sock.fileno() if line is None else line.fileno())):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, packets.HIGHEST_FD)


def become(
    sock: "socket",
    told: "dict[str, Any]",
    done: advance.Advance,
    stdio: tuple[int, int, int] | None,
    meet: "Callable[[], tuple[int, int, int] | None] | None" = None,
) -> "NoReturn":
    """Be the container's first process: make its root and its cgroup, then go on in them.

    What is made is undone by the shim, which hears of a failure on `sock`, or of our death.

    meet: the shim has yet to come to this start: waits for it and gives what it brings, instead of stdio.  It is called
    before anything is said of how the start went, and before the gate.
    """
    timeline, kept = Timeline(), dict[str, int]()
    try:
        request = decode(timeline, told)
        mount_fd, lock_fd = make_root(timeline, request)
        with timeline.step("cgroup"):
            manager = group_for(told, request)
            done.settle(manager)
        if lock_fd >= 0:
            kept["lock"] = lock_fd
        if (oom := done.oom_fd(manager)) >= 0:
            kept["oom"] = oom
        wanted = init_request(told, request, mount_fd, manager, stdio, done)
    except BaseException as failure:
        if meet is not None:
            meet()
        handover.fail(sock, as_step_error(failure), timeline)
    process.become_init(wanted, sock, timeline, kept, meet)


def join(sock: "socket", header: "dict[str, Any]", stdio: tuple[int, int, int] | None, pidfd: int) -> "NoReturn":
    """Enter the container behind `pidfd` and fork the program there; reports go to `sock`."""
    try:
        wanted = _exec_request(header, stdio, pidfd, group(header["cgroup"], {}))
    except BaseException as failure:
        handover.fail(sock, as_step_error(failure), Timeline())
    setns.become_exec(wanted, sock)


def decode(timeline: Timeline, header: "dict[str, Any]") -> "dict[str, Any]":
    """The request of a start."""
    timeline.add("fork", header["sent_ns"], monotonic_ns())
    body = header["body"]
    with timeline.step("decode", f"{len(body)} bytes"):
        request: dict[str, Any] = jsontext.loads(body)
    return request


def make_root(timeline: Timeline, request: "dict[str, Any]") -> tuple[int, int]:
    """(detached root, its lock or -1)."""
    with timeline.step("rootfs", request["rootfs"]["type"]):
        return rootfs.make_rootfs(request["rootfs"])


def group_for(header: "dict[str, Any]", request: "dict[str, Any]") -> cgroups.Manager:
    """The container's cgroup with its limits; nothing is touched."""
    return group(header["cgroup"], request["spec"]["linux"].get("resources") or {})


def init_request(
    header: "dict[str, Any]",
    request: "dict[str, Any]",
    mount_fd: int,
    manager: cgroups.Manager | None,
    stdio: tuple[int, int, int] | None,
    done: advance.Advance | None = None,
) -> process.InitRequest:
    """The first process, as libcontainer wants it described."""
    return process.InitRequest(
        request["spec"],
        mount_fd,
        stdio=stdio,
        seccomp_bpf=read_filter(request["seccomp_path"]),
        cgroup=manager,
        init=request["init"],
        wants_netlink=header["configure_network"],
        sibling=True,
        done=done,
    )


def _run(work: Work, function: "Callable[[], None]") -> None:
    try:
        function()
    except _Aborted:
        work.undo()
    except BaseException as failure:
        work.undo()
        try:
            error = as_step_error(failure).to_dict()
            work.report("failed", {"error": error, "ended": work.ended}, (), work.steps())
        except _Aborted:
            pass


def _start(work: Work, header: "dict[str, Any]", stdio: tuple[int, int, int] | None) -> None:
    timeline = work.timeline
    request = decode(timeline, header)
    spec = request["spec"]
    work.shares_pids = not any(n["type"] == "pid" and not n.get("path") for n in spec["linux"]["namespaces"])
    mount_fd, work.lock_fd = make_root(timeline, request)
    with timeline.step("cgroup"):
        work.cgroup = group_for(header, request)
        work.cgroup.create()
    wanted = init_request(header, request, mount_fd, work.cgroup, stdio)
    with timeline.step("clone"):
        work.child = process.create_init(wanted)
    os.close(mount_fd)
    _attend(work, True)


def _execute(work: Work, header: "dict[str, Any]", stdio: tuple[int, int, int] | None, pidfd: int) -> None:
    work.cgroup = group(header["cgroup"], {})
    work.child = setns.create_exec(_exec_request(header, stdio, pidfd, work.cgroup))
    _attend(work, False)


def _exec_request(
    header: "dict[str, Any]", stdio: tuple[int, int, int] | None, pidfd: int, manager: cgroups.Manager
) -> process.ExecRequest:
    request = jsontext.loads(header["body"])
    return process.ExecRequest(
        header["pid"],
        pidfd,
        request["process"],
        stdio=stdio,
        seccomp_bpf=read_filter(request["seccomp_path"]),
        cgroup=manager,
        sibling=True,
    )


def _attend(work: Work, gated: bool) -> None:
    """Pass events on until the program runs; open the gate when the shim has said go and the engine is still there."""
    child = work.child
    assert child is not None
    poller = select.poll()
    poller.register(child.sync.fileno(), select.POLLIN)
    poller.register(work.sock.fileno(), select.POLLIN)
    ready, go = False, not gated
    while True:
        for fd, _ in poller.poll():
            if fd == work.sock.fileno():
                if packets.receive(work.sock) is None:
                    raise _Aborted
                go = True
        while (event := child.feed()) is not None:
            if event[0] == "executed":
                work.timeline.extend(event[1])
                _executed(work, child)
                return
            ready = _pass_on(work, child, event) or ready
        if ready and go and gated:
            gated = False
            if is_gone(work.control):
                raise _Aborted
            child.release_gate()


def _pass_on(work: Work, child: process.InitProcess, event: "tuple[Any, ...]") -> bool:
    """One event before execve; True when the child waits at the gate."""
    if event[0] == "network":
        if child.netns_fd < 0:
            return False  # it has died since: how comes next
        work.report("network", {"pid": child.pid}, (child.netns_fd, child.netlink_fd))
    elif event[0] == "ready":
        work.timeline.extend(event[1])
        if child.console_fd >= 0:
            work.report("console", {}, (child.console_fd,))
        return True
    elif event[0] == "failed":
        work.timeline.extend(event[2])
        raise errdefs.StepError.from_dict(event[1])
    return False


def _executed(work: Work, child: process.InitProcess) -> None:
    started_at, kept = rfc3339nano(time_ns()), {"pidfd": child.pidfd}
    if work.lock_fd >= 0:
        kept["lock"] = work.lock_fd
    if work.control is not None and work.cgroup is not None and (oom := work.cgroup.oom_fd()) >= 0:
        kept["oom"] = oom
    fields = {
        "pid": child.pid,
        "start_time": start_time(child.pid),
        "started_at": started_at,
        "shares_pids": work.shares_pids,
        "fds": list(kept),
        "ended": [child.helper_pid] if child.helper_pid else [],
    }
    work.report("executed", fields, tuple(kept.values()), work.steps())


def is_gone(control: "socket | None") -> bool:
    """Whether the engine has closed its end."""
    try:
        return control is not None and not control.recv(1, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def set_name(name: bytes) -> None:
    """The name that ps shows (15 bytes)."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name)
    os.close(fd)


def group(names: dict[str, str], resources: "dict[str, Any]") -> cgroups.Manager:
    """The container's cgroup, from {"driver", "parent", "name"}."""
    return cgroups.manager(names["driver"], names["parent"], names["name"], resources)


def read_filter(path: str | None) -> bytes | None:
    """A compiled seccomp program (the kernel allows 4096 instructions of 8 bytes)."""
    if not path:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 when it has ended already."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # The command, in parentheses, may hold anything: count from the last ")".
        return int(os.read(fd, 1024).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0
    finally:
        os.close(fd)


def as_step_error(failure: BaseException) -> errdefs.StepError:
    """What went wrong in our own code around libcontainer, as a step's failure."""
    if isinstance(failure, errdefs.StepError):
        return failure
    if isinstance(failure, OSError):
        path = "" if failure.filename is None else str(failure.filename)
        text = f"{failure.strerror}: {path}" if path else str(failure)
        return errdefs.StepError(text, step="shim", path=path, errno=failure.errno or 0)
    return errdefs.StepError(
        f"{type(failure).__name__}: {failure}", step="shim", hint="a defect of boxwright: report it"
    )
