"""A process that enters a running container: what `docker exec` starts.

The parent clones a helper outside the container.  The helper joins the cgroup and, through the pidfd of the container's
first process, its namespaces; takes its final credentials; closes everything; and only then forks the program into the
container's pid namespace (rule 13): a container with CAP_SYS_PTRACE never sees a process that is more than the program.
"""

import errno
import os

from boxwright.errdefs import StepError
from boxwright.libcontainer import console, environment, faults, handover, init, placing, rlimits, sync, users
from boxwright.libcontainer.credentials import Credentials
from boxwright.libcontainer.process import ExecRequest, InitProcess
from boxwright.linux import inroot, namespaces, pidfd, process
from boxwright.trace import Timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import NoReturn

# What the container's first process and we may differ in; a user namespace that is our own cannot be entered again.
_ALWAYS = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWUTS
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWCGROUP
)
_END_SHOWS_MS = 200
_DEVPTS_DIRECTORY = "dev/pts"


class ExecProcess(InitProcess):
    """A helper, then the program: same events as `InitProcess`, but there is no gate, and `pid` and `pidfd` are the
    program's only with "executed"."""

    __slots__ = ()

    def death(self, status: int) -> StepError:
        """A container that ends takes the helper along; the kernel does so before the container's own end shows."""
        assert isinstance(self.request, ExecRequest)
        ending = pidfd.await_end(self.request.init_pidfd, _END_SHOWS_MS)
        return faults.not_running() if ending else self.silent_death(status)

    def limit(self) -> None:
        """As for an init, and let the helper go on, which waits for that before it forks the program."""
        super().limit()
        if self.rlimits:
            self.release_gate()


def create_exec(request: ExecRequest) -> ExecProcess:
    """Fork a process into a running container; returns as soon as the helper is cloned.

    Raises StepError when the clone fails; later failures come as events.  A container that ends meanwhile is a failure
    with errno ESRCH ("the container is not running").
    """
    userns = _differs(request.init_pid, "user")
    credentials = Credentials(request.process, request.seccomp_bpf, userns)
    flags = _ALWAYS | (namespaces.CLONE_NEWUSER if userns else 0)
    ours, theirs = sync.pair()
    theirs = sync.above(theirs, 3 + len(request.keep_fds))
    try:
        pid, fd, is_outside = _clone(request)
    except OSError as error:
        ours.close()
        theirs.close()
        raise faults.step_error(error, "clone", "cannot fork into the container") from error
    except BaseException:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _run(request, credentials, flags, theirs, _Parent(theirs, is_outside))
    theirs.close()
    ours.setblocking(False)

    def place(child: int) -> None:
        if request.cgroup is not None:
            request.cgroup.add(child, request.init_pid)

    child = ExecProcess(pid, fd, ours, request, place, request.process.get("rlimits") or [])
    try:
        if is_outside:
            child.place()
    except BaseException:
        child.abort()
        child.close()
        raise
    return child


def _clone(request: ExecRequest) -> tuple[int, int, bool]:
    """(pid, pidfd, whether the helper has to be added to the cgroup); in the helper the first two are (0, -1).

    It is born in a v2 group, where no process moves without a wait.  One that has sub-groups with controllers takes
    none (EBUSY, EOPNOTSUPP): then the parent adds it beside the container's first process.
    """
    flags = namespaces.CLONE_PARENT if request.sibling else 0
    cgroup_fd = request.cgroup.clone_fd() if request.cgroup is not None else -1
    if cgroup_fd < 0:
        return *namespaces.clone_process(flags, name="exec"), False
    try:
        return *namespaces.clone_process(flags, cgroup_fd=cgroup_fd, name="exec"), False
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
            raise
        return *namespaces.clone_process(flags, name="exec"), True
    finally:
        os.close(cgroup_fd)


def become_exec(request: ExecRequest, sock: "socket") -> "NoReturn":
    """Make the calling process the helper: the program is then its parent's child, and the reports go to `sock`.

    Not for a container with a user namespace, whose limits only its parent could set, nor for cgroup v2, where only a
    clone into the group avoids a wait: as `process.becomes` has it.
    """
    try:
        credentials = Credentials(request.process, request.seccomp_bpf)
    except BaseException as error:
        handover.fail(sock, error, Timeline())
    _run(request, credentials, _ALWAYS, sock, None)


class _Parent:
    """What a helper leaves to the parent that cloned it: the cgroup, when it `is_outside` yet, and the limits."""

    __slots__ = ("is_outside", "sock")

    def __init__(self, sock: "socket", is_outside: bool) -> None:
        self.sock, self.is_outside = sock, is_outside

    def place(self) -> None:
        """Wait until we are in the cgroup."""
        if self.is_outside:
            self._expect(sync.PLACED)

    def limit(self) -> None:
        """Wait until our limits are set."""
        self._expect(sync.GO)

    def _expect(self, kind: str) -> None:
        word, _, _ = sync.receive(self.sock)
        if word != kind:  # the parent is gone
            os._exit(handover.EXIT_ABORTED)


def _run(
    request: ExecRequest, credentials: Credentials, flags: int, sock: "socket", parent: _Parent | None
) -> "NoReturn":
    """The helper, from its first act on; ends the process in every case."""
    timeline, limits = Timeline(), request.process.get("rlimits") or []
    try:
        keep = {0, 1, 2, *(request.stdio or ()), *request.keep_fds, request.init_pidfd, sock.fileno()}
        init.start_child(keep, request.stdio, request.die_with_parent)
        with timeline.step("cgroup"):
            if parent is not None:
                parent.place()
            _place(request)
        with timeline.step("namespaces"):
            _enter(request.init_pidfd, flags)
        program, master = _prepare(request, credentials, timeline)
        sync.send(sock, sync.READY, {"steps": timeline.steps}, [master] if master >= 0 else [])
        if master >= 0:
            os.close(master)
        timeline.steps = []
        if limits and parent is not None:
            parent.limit()
        elif limits:
            rlimits.apply(0, limits)
        handover.hand_over(program, sock, timeline)
    except BaseException as error:
        handover.fail(sock, error, timeline)
    os._exit(handover.EXIT_ABORTED)


def _place(request: ExecRequest) -> None:
    try:
        placing.enter(request.cgroup, request.process.get("oomScoreAdj"))
    except StepError as error:
        if pidfd.await_end(request.init_pidfd, 0):  # and its group may be gone with it
            raise faults.not_running() from error
        raise


def _enter(init_pidfd: int, flags: int) -> None:
    """Join all at once; an init that ends meanwhile shows as ESRCH or, its pid namespace closing, ENOMEM."""
    try:
        namespaces.setns(init_pidfd, flags, "container")
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.ENOMEM):
            raise faults.step_error(error, "namespaces", "cannot join the container's namespaces") from error
        raise faults.not_running() from error
    if flags & namespaces.CLONE_NEWUSER:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        process.set_dumpable(False)
    init.join_session_keyring()


def _prepare(request: ExecRequest, credentials: Credentials, timeline: Timeline) -> "tuple[handover.Program, int]":
    """(the program, the pty master or -1); we are in the container's namespaces and root, with all privileges."""
    wanted = request.process
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master = -1
    if wanted.get("terminal"):
        with timeline.step("console"):
            master = _open_console(root, wanted.get("consoleSize") or {})
    with timeline.step("user"):
        user = users.resolve(root, wanted.get("user") or {})
    cwd = wanted.get("cwd") or "/"
    with timeline.step("cwd", cwd):
        try:
            fd = inroot.open_in_root(root, cwd, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise init.cwd_error(error, cwd) from error
        init.enter(fd, cwd)
    program = handover.Program(
        wanted.get("args") or [],
        environment.build(wanted.get("env") or (), user.home),
        user,
        credentials,
        keep_fds=request.keep_fds,
        die_with_parent=request.die_with_parent,
        terminal=bool(wanted.get("terminal")),
        late_fork=True,
        subreaper=bool(wanted.get("subreaper")),
    )
    return program, master


def _open_console(root: int, size: "dict[str, int]") -> int:
    """A terminal of the container's own devpts; what lies at /dev/pts is checked, never trusted."""
    directory = inroot.open_in_root(root, _DEVPTS_DIRECTORY, os.O_PATH | os.O_DIRECTORY)
    try:
        if not console.is_devpts(directory):
            faults.refuse("/dev/pts of the container is not a devpts", "console", "/dev/pts", number=errno.ENODEV)
        master, slave = console.open_pair(directory)
    finally:
        os.close(directory)
    if size.get("height") and size.get("width"):
        console.resize(master, size["height"], size["width"])
    console.attach(slave)
    return master


def _differs(pid: int, kind: str) -> bool:
    """Whether process `pid` is in another namespace of `kind` than we."""
    name = namespaces.KINDS[kind][1]
    try:
        return os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino
    except FileNotFoundError as error:
        raise faults.not_running() from error
