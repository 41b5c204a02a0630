"""The v2 manager."""

import os
from errno import EBUSY
from select import POLLPRI, poll
from time import monotonic

from boxwright.errdefs import StepError
from boxwright.libcontainer import devices
from boxwright.libcontainer.cgroups import base, files
from boxwright.libcontainer.cgroups.fs2 import limits, stats
from boxwright.libcontainer.cgroups.fs2.devices import attach
from boxwright.libcontainer.cgroups.resources import check_use, section
from boxwright.linux import inotify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.libcontainer.cgroups.resources import Resources

# The controllers that containers get; perf_event needs no enabling, dmem and misc have no setting in the spec.
_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma")


class Manager(base.Manager):
    """One directory in the unified hierarchy.

    root: the mount point; controllers are enabled from there down to the group's parent.
    """

    __slots__ = ("root",)
    driver = "fs2"

    def __init__(self, paths: dict[str, str], resources: dict[str, object], root: str) -> None:
        super().__init__(paths, resources)
        self.root = root

    def create(self) -> None:
        self.make()
        self._apply(self.resources)
        self._devices()

    def make(self) -> None:
        """The group with its controllers, without limits."""
        directory = self.paths[""]
        try:
            files.make_below(directory, lambda: self._make_parents(os.path.dirname(directory)))
        except FileExistsError:
            self._replace(directory)
        self.written.append(f"mkdir {directory}")
        self._enable(os.path.dirname(directory))

    def can_attach_devices(self) -> bool:
        """Whether this kernel and these privileges let a device program be attached to the group."""
        try:
            attach(self.paths[""], devices.policy([]))
        except StepError:
            return False
        return True

    def add(self, pid: int, beside: int = 0) -> None:
        directory = self.paths[""]
        try:
            files.write(f"{directory}/cgroup.procs", str(pid))
        except StepError as error:
            if error.errno != EBUSY or not beside:
                raise
            files.write(f"{self._group_of(beside)}/cgroup.procs", str(pid))

    def clone_fd(self) -> int:
        directory = self.paths[""]
        try:
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise files.failure("open", directory, error) from error

    def _set(self, resources: "Resources") -> None:
        check_use(section(resources, "memory"), self._used)
        self.resources = {**self.resources, **resources}
        self._apply(resources)
        if resources.get("devices") is not None:
            self._devices()

    def kill(self) -> None:
        directory = self.paths[""]
        if not os.path.isdir(directory):
            return
        try:
            # One write for the whole tree, frozen or not, without a race against forks (kernel 5.14 and later).
            files.write(f"{directory}/cgroup.kill", "1")
        except StepError:
            if not os.path.isdir(directory):
                return
            files.write(f"{directory}/cgroup.freeze", "1")
            try:
                self.kill_once()
            finally:
                files.write(f"{directory}/cgroup.freeze", "0")
        self._await_empty()

    def freeze(self) -> None:
        directory = self.paths[""]
        files.write(f"{directory}/cgroup.freeze", "1")
        if not self._await_event("frozen", "1", base.FREEZE_SECONDS):
            files.write(f"{directory}/cgroup.freeze", "0")
            raise StepError(
                f"cgroup: {directory} is not frozen after {base.FREEZE_SECONDS:.0f} s",
                step="cgroup",
                operation="freeze",
                path=f"{directory}/cgroup.freeze",
                hint="a process in uninterruptible sleep (state D) cannot be frozen",
            )

    def thaw(self) -> None:
        files.write(f"{self.paths['']}/cgroup.freeze", "0")

    def frozen(self) -> bool:
        return files.table(f"{self.paths['']}/cgroup.events").get("frozen") == 1

    def oom_fd(self) -> int:
        path = f"{self.paths['']}/memory.events"
        if not os.path.exists(path):
            return -1
        notice = inotify.init()
        try:
            inotify.add_watch(notice, path, inotify.IN_MODIFY)
        except OSError as error:
            os.close(notice)
            raise files.failure("watch", path, error) from error
        return notice

    def oom_kills(self) -> int:
        return files.table(f"{self.paths['']}/memory.events").get("oom_kill", 0)

    def stats(self) -> dict[str, object]:
        return stats.collect(self.paths[""])

    def main_directory(self) -> str:
        return self.paths[""]

    # How it is done.

    def _replace(self, directory: str) -> None:
        """A group of that name is there: a leftover when it is empty."""
        if files.pids(directory, True):
            raise base.in_use(directory)
        files.remove_tree(directory, monotonic() + base.DESTROY_SECONDS)
        files.make(directory)

    def _make_parents(self, directory: str) -> None:
        try:
            files.make(directory)
        except FileExistsError:
            # Another start made it just now.
            return
        except FileNotFoundError:
            self._make_parents(os.path.dirname(directory))
            self._make_parents(directory)

    def _enable(self, parent: str) -> None:
        """Hand the controllers of the root down to the children of `parent`, from the top."""
        wanted = set(files.read(f"{self.root}/cgroup.controllers").split()).intersection(_CONTROLLERS)
        chain = []
        while not wanted <= set(files.read(f"{parent}/cgroup.subtree_control").split()):
            chain.append(parent)
            if parent == self.root:
                break
            parent = os.path.dirname(parent)
        for directory in reversed(chain):
            missing = wanted - set(files.read(f"{directory}/cgroup.subtree_control").split())
            for controller in sorted(missing):
                # One by one: a controller that this subtree may not have must not cost the others.  What is needed
                # and missing then shows when its file is written.
                try:
                    self.write(directory, "cgroup.subtree_control", f"+{controller}")
                except StepError:
                    continue

    def _apply(self, resources: "Resources") -> None:
        directory = self.paths[""]
        for group in limits.plan(resources, self._current):
            for _, name, value in group:
                self.write(directory, name, value)

    def _current(self, name: str) -> str | None:
        path = f"{self.paths['']}/{name}"
        return files.read(path) if os.path.exists(path) else None

    def _devices(self) -> None:
        wanted = devices.policy(self.resources.get("devices"))  # type: ignore[arg-type]
        directory = self.paths[""]
        attach(directory, wanted)
        self.written.append(f"{directory} devices = eBPF program of {len(wanted.exceptions)} rules")

    def _used(self) -> int:
        return files.number(f"{self.paths['']}/memory.current")

    def _group_of(self, pid: int) -> str:
        for line in files.read(f"/proc/{pid}/cgroup").splitlines():
            if line.startswith("0::"):
                return self.root + line[3:].rstrip("/")
        raise StepError(f"cgroup: process {pid} has no v2 group", step="cgroup", operation="read", path=str(pid))

    def _await_event(self, key: str, value: str, seconds: float) -> bool:
        """Wait until cgroup.events says `key value`; the kernel wakes pollers of the file at each change."""
        path = f"{self.paths['']}/cgroup.events"
        deadline = monotonic() + seconds
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise files.failure("open", path, error) from error
        try:
            waiter = poll()
            waiter.register(fd, POLLPRI)
            while f"{key} {value}" not in os.pread(fd, 4096, 0).decode().splitlines():
                left = deadline - monotonic()
                if left <= 0:
                    return False
                waiter.poll(left * 1000)
        finally:
            os.close(fd)
        return True
