"""The one interface of both cgroup versions, and what they share.

`resources` is everywhere the dict `linux.resources` of the OCI runtime-spec (memory, cpu, pids, blockIO, devices,
hugepageLimits, rdma, network, unified).  Errors are `errdefs.StepError` with step "cgroup"; their text names the file
and the value.  A setting that this host does not have is an error, never ignored: `host.capabilities()` tells
beforehand, so that the engine can warn and discard as Docker does.
"""

import os
from time import monotonic, sleep

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups import files
from boxwright.linux import pidfd
from boxwright.linux.signals import SIGKILL

# How long a killed group may take to become empty, and a group without processes to become removable.  Both normally
# take well under a millisecond; a process in uninterruptible sleep takes for ever.
KILL_SECONDS = 10.0
DESTROY_SECONDS = 2.0
FREEZE_SECONDS = 10.0
# How many processes are held by descriptor at once.
_BATCH = 256


class Manager:
    """The cgroup of one container: one directory on v2, one in each mounted hierarchy on v1.

    Making the object touches nothing, so it is also the way to find a group that another process made.

    driver: "fs" (v1) or "fs2" (v2).
    paths: absolute directories, keyed by controller on v1 ("memory", "name=systemd", ...), by "" on v2.
    resources: what `create` sets.
    """

    __slots__ = ("_before", "paths", "resources", "written")
    driver = ""

    def __init__(self, paths: dict[str, str], resources: dict[str, object]) -> None:
        self.paths = paths
        self.resources = resources
        self.written: list[str] = []
        self._before: list[tuple[str, str]] | None = None  # (path, what it held), while `set` writes

    # The life of a group, in order.

    def create(self) -> None:
        """Make the group and set every limit.  Call before the container's first process runs.

        A group of that name without processes is a leftover: it is removed and made afresh.
        """
        raise NotImplementedError

    def add(self, pid: int, beside: int = 0) -> None:
        """Move process `pid` into the group.

        beside: the container's init, for an exec.  On v2 a container may have given its own group children with
        controllers, after which no process may live in it (EBUSY): the process then joins the group of `beside`.
        """
        raise NotImplementedError

    def enter(self) -> bool:
        """Move the calling process in; False when it has to be added from outside (`add`).

        For a process of one thread.  On v1 a process that writes itself into `tasks` is moved without the lock that
        `cgroup.procs` takes: waiting for that lock's readers costs 5 to 16 ms after a moment of quiet (kernel 6.18,
        cgroup_procs_write_start).
        """
        return False

    def clone_fd(self) -> int:
        """A new descriptor of the v2 directory for clone3(CLONE_INTO_CGROUP), close-on-exec; -1 on v1."""
        raise NotImplementedError

    def set(self, resources: dict[str, object]) -> None:
        """Change limits of a living group; what `resources` does not name stays as it is.

        All or nothing: when a file refuses its value, those that were written before get their old values back
        (device rules excepted, which come last).
        """
        self._before = []
        known = self.resources
        try:
            self._set(resources)
        except BaseException as error:
            self.resources = known
            left = [f"{path} (it held {old!r})" for path, old in reversed(self._before) if not _put_back(path, old)]
            if left and isinstance(error, StepError):
                error.hint = f"could not be set back: {', '.join(left)}"
            raise
        finally:
            self._before = None

    def _set(self, resources: dict[str, object]) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL everything in the group, sub-groups included, frozen or not, and wait until it is empty.

        Raises StepError when processes are left after KILL_SECONDS.  A group that does not exist is empty.
        """
        raise NotImplementedError

    def destroy(self) -> None:
        """Remove the group and its sub-groups; fine when it is gone.  EBUSY is retried for DESTROY_SECONDS."""
        deadline = monotonic() + DESTROY_SECONDS
        for directory in self.directories():
            files.remove_tree(directory, deadline)

    # The freezer.

    def freeze(self) -> None:
        """Stop every process of the group; returns when all are stopped (at most FREEZE_SECONDS, then thaws again)."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let them run on."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """True when every process is stopped."""
        raise NotImplementedError

    # Questions.

    def pids(self, all: bool = True) -> list[int]:
        """Process ids in the group in ascending order, as this pid namespace numbers them; with those of sub-groups
        when `all`.  A group that does not exist has none."""
        return sorted(files.pids(self.main_directory(), all))

    def exists(self) -> bool:
        """True when the group is there."""
        return os.path.isdir(self.main_directory())

    def oom_fd(self) -> int:
        """A non-blocking descriptor that becomes readable when the kernel may have killed for lack of memory.

        The caller owns it.  When readable: `os.read(fd, 4096)`, then compare `oom_kills()` with the last value (it
        also wakes for the group's removal, and on v2 for other memory events).  -1 without a memory controller.
        """
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many processes of the group the OOM killer has killed; 0 when the group is gone."""
        raise NotImplementedError

    def stats(self) -> dict[str, object]:
        """Usage now, in one shape for both versions; a controller that is not there has an empty section.

        cpu: usage_ns, user_ns, system_ns, percpu_ns (v1 only, else []), periods, throttled_periods, throttled_ns.
        memory: usage, max_usage, limit, swap_usage, swap_limit (bytes; limit -1 = none), failures, oom_kills,
        stat (the kernel's own key → number).
        pids: current, limit (-1 = none).
        blkio: {table: [{"major", "minor", "op", "value"}]} with Docker's table names.
        hugetlb: {page size: {"usage", "max_usage", "failures"}}.
        """
        raise NotImplementedError

    def describe(self) -> list[str]:
        """What was made and written so far, a line each ("mkdir PATH", "PATH = VALUE"): for timeline and errors."""
        return list(self.written)

    # Shared parts of the two versions.

    def directories(self) -> list[str]:
        """Every directory of the group once (co-mounted v1 controllers share one)."""
        return list(dict.fromkeys(self.paths.values()))

    def main_directory(self) -> str:
        """The directory whose cgroup.procs is believed."""
        raise NotImplementedError

    def write(self, directory: str, name: str, value: str) -> None:
        """Write one interface file and remember it for `describe`."""
        path = f"{directory}/{name}"
        if self._before is not None:
            self._before.append((path, files.read_or(path, "")))
        files.write(path, value)
        self.written.append(f"{path} = {value}")

    def kill_once(self) -> bool:
        """SIGKILL every process that is in the group now; False when there was none."""
        found = self.pids()
        for start in range(0, len(found), _BATCH):
            self._kill(found[start : start + _BATCH])
        return bool(found)

    def _kill(self, pids: list[int]) -> None:
        """A pid may come to mean another process before it is used: held by descriptor and then still listed, it is
        one of the group."""
        held: dict[int, int] = {}
        try:
            for pid in pids:
                try:
                    held[pid] = pidfd.open_pid(pid)
                except ProcessLookupError:
                    continue
            for pid in held.keys() & files.pids(self.main_directory(), True):
                try:
                    pidfd.send_signal(held[pid], SIGKILL)
                except ProcessLookupError:
                    continue
        finally:
            for fd in held.values():
                os.close(fd)

    def _await_empty(self) -> None:
        """After a SIGKILL to all: again for what was forked meanwhile, until nothing is left."""
        deadline = monotonic() + KILL_SECONDS
        pause = 0.0002
        while self.kill_once():
            if monotonic() > deadline:
                left = ", ".join(map(str, self.pids()))
                raise StepError(
                    f"cgroup: processes {left} in {self.main_directory()} survive SIGKILL",
                    step="cgroup",
                    operation="kill",
                    path=self.main_directory(),
                    hint="a process in uninterruptible sleep (state D) ends only when its I/O does",
                )
            sleep(pause)
            pause = min(pause * 2, 0.02)


def _put_back(path: str, old: str) -> bool:
    """Write what the file held; a nested file has a line for each key.  False when the kernel refuses now."""
    try:
        for line in old.splitlines() or ["\n"]:
            files.write(path, line)
    except StepError:
        return False
    return True


def in_use(directory: str) -> StepError:
    """The error for a group that cannot be made because one of that name has processes."""
    return StepError(
        f"cgroup: {directory} exists and has processes",
        step="cgroup",
        operation="mkdir",
        path=directory,
        hint="another container, or one that was not cleaned up, uses this name",
    )
