"""The first code in the new namespaces: what Docker 1.8 called dockerinit.

`run` is called in the child of `process.create_init` and does not return.  Everything that can be decided before is in
the `Plan`, made by the parent: the child only carries it out, step by step, each timed, each able to say what it was
about when it fails.  From `seal_imports` on nothing is imported or loaded: the next root may be hostile (rule 2).
"""

import errno
import fcntl
import gc
import os
import struct
import sys
from _socket import AF_INET, AF_NETLINK, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, socket
from time import monotonic_ns

from boxwright.errdefs import StepError
from boxwright.libcontainer import (
    console,
    environment,
    faults,
    handover,
    hierarchies,
    masks,
    mounts,
    nodes,
    options,
    placing,
    procfs,
    reaper,
    rlimits,
    sync,
    usual,
)
from boxwright.libcontainer import joining as _joining
from boxwright.libcontainer import sysctls as _sysctls
from boxwright.libcontainer import users as _users
from boxwright.libcontainer.credentials import Credentials
from boxwright.libcontainer.world import World
from boxwright.linux import inroot, mount, process, signals
from boxwright.linux.libc import syscall
from boxwright.trace import Timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from boxwright.libcontainer.process import InitRequest

_KEYCTL_JOIN_SESSION_KEYRING = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Plan:
    """All that init does, decided and opened by the parent.  `close` releases the parent's descriptors."""

    __slots__ = ("credentials", "hidden", "joining", "late", "process", "propagation", "request", "steps", "userns")

    def __init__(self, request: "InitRequest", born_in_cgroup: bool) -> None:
        spec = request.spec
        linux = spec.get("linux") or {}
        self.request = request
        self.process = spec["process"]
        self.hidden = reaper.memory_to_hide() if request.init else (0, 0, 0)
        self.propagation = linux.get("rootfsPropagation") or ""
        if self.propagation and self.propagation not in options.PROPAGATION:
            faults.refuse(f"rootfsPropagation={self.propagation} is not valid", "mounts")
        self.joining = _joining.plan(spec, born_in_cgroup)
        self.userns = "user" in self.joining.new or any(kind == "user" for kind, _, _ in self.joining.joins)
        self.steps: list[Any] = []
        try:
            self.credentials = Credentials(self.process, request.seccomp_bpf, self.userns)
            self._plan_steps(spec, linux)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise faults.step_error(error, "mounts") from error
            raise

    def close(self) -> None:
        """Close what was opened for the child."""
        self.joining.close()
        for step in self.steps:
            for fd in sources(step):
                os.close(fd)

    def descriptors(self) -> "set[int]":
        """What the child must keep open."""
        request = self.request
        kept = {0, 1, 2, request.rootfs_fd, *(request.stdio or ()), *request.keep_fds}
        kept.update(fd for _, _, fd in self.joining.joins)
        if request.gate_fd >= 0:
            kept.add(request.gate_fd)
        for step in self.steps:
            kept.update(sources(step))
        return kept

    def _plan_steps(self, spec: "dict[str, Any]", linux: "dict[str, Any]") -> None:
        done = self.request.done
        trees = done.trees(spec, self.joining) if done is not None else {}
        self.steps.extend(trees.values())
        if trees:
            spec = usual.without(spec, trees)
            linux = spec["linux"]
        planned = mounts.plan(spec)
        self.steps.extend(planned)
        paths = self.request.cgroup.paths if self.request.cgroup is not None else {}
        own_dev = "/dev" not in trees
        for step in planned:
            if isinstance(step, hierarchies.CgroupMount):
                step.prepare("cgroup" in self.joining.new, self.userns, paths)
            elif isinstance(step, mounts.Bind):
                own_dev = own_dev and step.destination != "/dev"
            elif step.fstype == "proc" and self.joining.late_fork:
                step.fd = procfs.of_namespace(self.joining.descriptor("pid"), self.joining.pid_path)
        if "cgroup" in self.joining.new and not self.joining.born_in_cgroup:
            first = [isinstance(step, hierarchies.CgroupMount) for step in self.steps]
            self.steps.insert(first.index(True) if True in first else len(first), hierarchies.LeaveNamespace())
        if own_dev:
            self.steps.extend(nodes.plan(linux.get("devices") or [], self.userns))
            self.steps.append(nodes.Links())
        early, self.late = _sysctls.split(linux.get("sysctl"))
        if early:
            self.steps.append(early)
        self.steps.extend(masks.ReadOnly(path) for path in linux.get("readonlyPaths") or ())
        self.steps.extend(masks.Mask(path) for path in linux.get("maskedPaths") or ())


def sources(step: "Any") -> "list[int]":
    """The descriptors that a step brings from the parent."""
    if isinstance(step, (mounts.Bind, mounts.FileSystem)):
        return [step.fd] if step.fd >= 0 else []
    if isinstance(step, hierarchies.CgroupMount):
        return list(step.sources.values())
    if isinstance(step, usual.Tree):
        return step.descriptors()
    return [step.host_fd] if isinstance(step, nodes.Node) and step.host_fd >= 0 else []


class Init:
    """One init at work: the sync socket, the timeline and what it has learnt on the way."""

    __slots__ = (
        "_meet",
        "kept",
        "master",
        "networked",
        "plan",
        "sock",
        "spec",
        "timeline",
        "user",
        "variables",
        "world",
    )

    def __init__(
        self,
        plan: Plan,
        sock: "socket",
        timeline: Timeline,
        kept: "dict[str, int] | None" = None,
        networked: bool = False,
        meet: "Callable[[], tuple[int, int, int] | None] | None" = None,
    ) -> None:
        """kept: with it, this process limits itself, and hands these descriptors to its parent.
        networked: the loopback interface of a new network namespace is up and its netlink socket offered already.
        meet: see `process.become_init`."""
        self.plan, self.sock, self.spec, self.timeline = plan, sock, plan.request.spec, timeline
        self.kept, self.master, self.networked, self._meet = kept, -1, networked, meet

    def prepare(self) -> None:
        """Everything up to the gate."""
        plan = self.plan
        cwd = plan.process.get("cwd") or "/"
        with self.timeline.step("namespaces", " ".join(sorted(plan.joining.new))):
            self._enter_namespaces()
        with self.timeline.step("rootfs"):
            self._attach_root(plan.request.rootfs_fd)
        for step in plan.steps:
            self._run_step(step)
        if plan.process.get("terminal"):
            with self.timeline.step("console"):
                self._open_console()
        with self.timeline.step("pivot_root"):
            self._pivot()
        with self.timeline.step("user"):
            self.user = _users.resolve(self.world.root_fd, plan.process.get("user") or {})
            self.variables = environment.build(plan.process.get("env") or (), self.user.home)
        with self.timeline.step("cwd", cwd):
            make_working_directory(self.world.root_fd, cwd)
            self._close_root()

    def meet(self) -> None:
        """Wait for a parent that has yet to come to this start, and take the program's streams from it."""
        meet, self._meet = self._meet, None
        if meet is not None:
            with self.timeline.step("streams"):
                take_streams(meet())

    def wait_at_gate(self) -> None:
        """Tell the parent that all is ready, and wait for its "go"; the gate closing ends us without a trace."""
        self.meet()
        request = self.plan.request
        fds = [self.master] if self.master >= 0 else []
        told: dict[str, Any] = {"steps": self.timeline.steps}
        if self.kept is not None:
            told["kept"] = list(self.kept)
            fds += self.kept.values()
            rlimits.apply(0, self.plan.process.get("rlimits") or [])
        sync.send(self.sock, sync.READY, told, fds)
        for fd in fds:
            os.close(fd)
        self.timeline.steps = []
        with self.timeline.step("gate"):
            if request.gate_fd >= 0:
                self.sock.close()
                self.sock = sync.above(sync.accept(request.gate_fd), 3 + len(request.keep_fds))
            self._expect(sync.GO)
        if self.plan.late:
            self._run_step(self.plan.late)

    def _enter_namespaces(self) -> None:
        joining, request = self.plan.joining, self.plan.request
        joining.join()
        if joining.staged and "user" in joining.new:
            sync.send(self.sock, sync.UNSHARED)
        if self.plan.userns:
            self._expect(sync.PLACED)
        if joining.staged:
            handover.fork_again(self.sock, request.die_with_parent, joining.second_flags)
        if self.plan.userns:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            process.set_dumpable(False)
        if not self.networked:
            if "network" in joining.new:
                raise_loopback()
            if request.wants_netlink:
                offer_netlink(self.sock)
        if self.spec.get("hostname"):
            process.set_hostname(self.spec["hostname"])
        if self.spec.get("domainname"):
            process.set_domainname(self.spec["domainname"])
        join_session_keyring()

    def _attach_root(self, rootfs_fd: int) -> None:
        """Put the detached root into our mount namespace, from which nothing may reach the host's any more.

        Slaves, not private: what the host unmounts meanwhile must not stay busy because of us.
        """
        mount.mount("", "/", "", mount.MS_REC | mount.MS_SLAVE)
        null_fd = masks.open_null()
        top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.move_mount(rootfs_fd, top, "/")
        os.close(top)
        self.world = World(rootfs_fd, null_fd)

    def _run_step(self, step: "Any") -> None:
        start = monotonic_ns()
        try:
            step.run(self.world)
        except OSError as error:
            if step.step == "mounts":
                raise mounts.failed(error, step) from error
            raise faults.step_error(error, step.step, step.describe()) from error
        finally:
            self.timeline.add(step.step, start, monotonic_ns(), step.describe())

    def _open_console(self) -> None:
        world = self.world
        if world.devpts_fd < 0:
            faults.refuse("a terminal needs a devpts mount of the container's own", "console", "/dev/pts")
        self.master, slave = console.open_pair(world.devpts_fd)
        size = self.plan.process.get("consoleSize") or {}
        if size.get("height") and size.get("width"):
            console.resize(self.master, size["height"], size["width"])
        cover_console(world, slave)
        console.attach(slave)

    def _pivot(self) -> None:
        """Make the container's root ours and let go of the host's; both by ".", so that no directory is needed."""
        os.fchdir(self.world.root_fd)
        mount.pivot_root(".", ".")
        # The old root now lies over the new one, and is what "." leads to.
        mount.umount(".", mount.MNT_DETACH)
        os.chdir("/")

    def _close_root(self) -> None:
        """What could only be set when all mount points, nodes and directories were made."""
        for fd, name in self.world.late:
            mount.set_attributes(fd, mount.ATTR_RDONLY, name=name)
        root = self.world.root_fd
        if (self.spec.get("root") or {}).get("readonly"):
            mount.set_attributes(root, mount.ATTR_RDONLY, name="/")
        if self.plan.propagation:
            value, recursive = options.PROPAGATION[self.plan.propagation]
            mount.set_attributes(root, propagation=value, recursive=recursive, name="/")

    def _expect(self, kind: str) -> None:
        word, _, _ = sync.receive(self.sock)
        if not word:
            os._exit(handover.EXIT_ABORTED)
        if word != kind:
            raise StepError(f"the parent said {word} where {kind} was due", step="sync")


def run(plan: Plan, sock: "socket") -> "NoReturn":
    """The child of `create_init`, from the return of clone to execve; ends the process in every case."""
    timeline = Timeline()
    try:
        request = plan.request
        with timeline.step("init"):
            start_child({*plan.descriptors(), sock.fileno()}, request.stdio, request.die_with_parent)
        if not plan.userns:
            with timeline.step("place"):
                cgroup = None if plan.joining.born_in_cgroup else request.cgroup
                placing.enter(cgroup, plan.process.get("oomScoreAdj"))
    except BaseException as error:
        handover.fail(sock, error, timeline)
    work(Init(plan, sock, timeline))


def work(init: Init) -> "NoReturn":
    """Everything from the new namespaces to execve; ends the process in every case."""
    plan, request, timeline = init.plan, init.plan.request, init.timeline
    try:
        init.prepare()
        init.wait_at_gate()
        if request.init:
            reaper.disguise(plan.hidden, plan.process.get("args") or [])
        handover.hand_over(
            handover.Program(
                plan.process.get("args") or [],
                init.variables,
                init.user,
                plan.credentials,
                keep_fds=request.keep_fds,
                die_with_parent=request.die_with_parent,
                terminal=bool(plan.process.get("terminal")),
                late_fork=plan.joining.late_fork,
                reaper=request.init,
            ),
            init.sock,
            timeline,
        )
    except BaseException as error:
        init.meet()
        handover.fail(init.sock, error, timeline)
    os._exit(handover.EXIT_ABORTED)


def start_child(keep: "set[int]", stdio: "tuple[int, int, int] | None", die_with_parent: bool) -> None:
    """The first acts of every child that enters a container (rules 2 and 3)."""
    begin(keep, die_with_parent)
    take_streams(stdio)


def begin(keep: "set[int]", die_with_parent: bool) -> None:
    """What does not depend on the program: nothing of the parent's stays open or handled, nothing can be imported."""
    process.close_all_except(keep)
    if die_with_parent:
        process.die_with_parent()
    process.set_dumpable(False)
    gc.disable()  # a collection would touch, and so copy, every page that is shared with the parent
    seal_imports()
    signals.reset()
    try:
        os.setsid()
    except PermissionError:  # already a leader
        pass
    os.umask(0)


def take_streams(stdio: "tuple[int, int, int] | None") -> None:
    """Let the program's 0, 1 and 2 be ours."""
    if stdio:
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
        for number, fd in enumerate(moved):
            os.dup2(fd, number)
            os.close(fd)


def seal_imports() -> None:
    """From here on an import statement can only find what is loaded: the next root's files are not ours (rule 2)."""
    for found in (sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache):
        found.clear()


def raise_loopback() -> None:
    """Bring `lo` up in our network namespace, as every runtime does, `--network none` included."""
    control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    answer = fcntl.ioctl(control.fileno(), _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
    flags = struct.unpack("16sh14x", answer)[1]
    fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    control.close()


def offer_netlink(sock: socket) -> None:
    """Send a netlink socket of our network namespace to the parent, through which the engine configures it."""
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)
    sync.send(sock, sync.NETWORK, None, [netlink.fileno()])
    netlink.close()


def join_session_keyring() -> None:
    """Leave the host's session keyring for an empty one; kernels without keyrings have nothing to leave."""
    try:
        syscall("keyctl", "session", _KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EDQUOT):
            raise


def cover_console(world: World, slave: int) -> None:
    """Bind the terminal over /dev/console: over a file of that name itself, never where a link there would lead
    (CVE-2025-52565)."""
    directory, name = world.parent_of("/dev/console")
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o620, dir_fd=directory))
    except FileExistsError:
        pass
    target = inroot.openat2(directory, name, os.O_PATH, inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS)
    cover = mount.open_tree(slave, "")
    mount.move_mount(cover, target, "/dev/console")
    os.close(cover)
    os.close(target)


def make_working_directory(root_fd: int, path: str) -> None:
    """Enter `path`, made where it is missing, inside the root and never outside (CVE-2024-21626, CVE-2026-55686)."""
    try:
        fd = inroot.make_directories(root_fd, path)
    except NotADirectoryError as error:
        raise faults.step_error(error, "cwd", f"Cannot mkdir: {path} is not a directory", path) from error
    except OSError as error:
        raise cwd_error(error, path) from error
    enter(fd, path)


def enter(fd: int, path: str) -> None:
    """chdir to a directory opened in-root, and close it."""
    try:
        os.fchdir(fd)
    except OSError as error:
        raise cwd_error(error, path) from error
    finally:
        os.close(fd)


def cwd_error(error: OSError, path: str) -> StepError:
    """Docker's text for a working directory that cannot be entered."""
    found = faults.step_error(error, "cwd", f'chdir to cwd ("{path}") set in config.json failed', path)
    found.exit_code = faults.exit_code(found.errno)
    return found
