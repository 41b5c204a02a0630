"""The v1 manager."""

import os
from errno import EINVAL, ENOSPC
from time import monotonic, sleep

from boxwright.errdefs import StepError
from boxwright.libcontainer import devices
from boxwright.libcontainer.cgroups import base, files
from boxwright.libcontainer.cgroups.fs import limits, stats
from boxwright.libcontainer.cgroups.resources import check_use, refused, section

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.libcontainer.cgroups.resources import Group, Resources

# Where the processes of a group are looked up, in this order: first hierarchies that nobody divides within a container.
_MAIN = ("freezer", "devices", "pids", "memory", "cpu", "blkio", "cpuset")


class Manager(base.Manager):
    """One directory in each mounted v1 hierarchy."""

    __slots__ = ()
    driver = "fs"

    def create(self) -> None:
        for directory in self.directories():
            self._make(directory)
        self.limit(devices.Policy(True))

    def take(self, spare: "Manager") -> None:
        """As `create`, by renaming `spare`, a group without resources below the same parent; its processes stay."""
        for directory, old in zip(self.directories(), spare.directories(), strict=True):
            try:
                os.rename(old, directory)
            except FileExistsError:
                self._clear(directory)
                os.rename(old, directory)
            self.written.append(f"rename {old} {directory}")
        self.limit(devices.policy(None))

    def is_beside(self, other: "Manager") -> bool:
        """Whether both are below one parent."""
        return os.path.dirname(self.main_directory()) == os.path.dirname(other.main_directory())

    def limit(self, current: devices.Policy) -> None:
        """Set what `resources` say; current: what the group permits so far."""
        self._apply(limits.plan(self.resources, self._has))
        self._devices(current)

    def add(self, pid: int, beside: int = 0) -> None:
        self._move("cgroup.procs", str(pid))

    def enter(self) -> bool:
        self._move("tasks", "0")
        return True

    def _move(self, name: str, text: str) -> None:
        for directory in self.directories():
            try:
                files.write(f"{directory}/{name}", text)
            except StepError as error:
                if error.errno != ENOSPC or directory != self.paths.get("cpuset"):
                    raise
                # A cpuset without processors or memory nodes takes no process; who made the parent did not ask the
                # kernel to hand them down.
                self._inherit_cpuset(directory)
                files.write(f"{directory}/{name}", text)

    def clone_fd(self) -> int:
        return -1

    def _set(self, resources: "Resources") -> None:
        check_use(section(resources, "memory"), self._used)
        self.resources = {**self.resources, **resources}
        self._apply(limits.plan(resources, self._has))
        if resources.get("devices") is not None:
            self._devices(None)

    def kill(self) -> None:
        if not self.pids():
            return
        # SIGKILL reaches a frozen process only when it is thawed; freezing first keeps a fork bomb from outrunning us.
        freezer = self.paths.get("freezer")
        if freezer and os.path.isdir(freezer):
            files.write(f"{freezer}/freezer.state", "FROZEN")
            try:
                self.kill_once()
            finally:
                files.write(f"{freezer}/freezer.state", "THAWED")
        self._await_empty()

    def freeze(self) -> None:
        path = self._freezer()
        deadline = monotonic() + base.FREEZE_SECONDS
        pause = 0.0001
        while True:
            files.write(path, "FROZEN")
            if files.read(path) == "FROZEN":
                return
            if monotonic() > deadline:
                files.write(path, "THAWED")
                raise StepError(
                    f"cgroup: {path} is not FROZEN after {base.FREEZE_SECONDS:.0f} s",
                    step="cgroup",
                    operation="freeze",
                    path=path,
                    hint="a process in uninterruptible sleep (state D) cannot be frozen",
                )
            sleep(pause)
            pause = min(pause * 2, 0.01)

    def thaw(self) -> None:
        files.write(self._freezer(), "THAWED")

    def frozen(self) -> bool:
        directory = self.paths.get("freezer")
        return directory is not None and files.read_or(f"{directory}/freezer.state", "") == "FROZEN"

    def oom_fd(self) -> int:
        directory = self.paths.get("memory")
        if directory is None:
            return -1
        notice = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.write(f"{directory}/cgroup.event_control", f"{notice} {control}")
            finally:
                os.close(control)
        except OSError as error:
            os.close(notice)
            raise files.failure("open", f"{directory}/memory.oom_control", error) from error
        except BaseException:
            os.close(notice)
            raise
        return notice

    def oom_kills(self) -> int:
        directory = self.paths.get("memory")
        return _oom_kills(directory) if directory else 0

    def stats(self) -> dict[str, object]:
        return stats.collect(self.paths)

    def main_directory(self) -> str:
        for controller in _MAIN:
            if controller in self.paths:
                return self.paths[controller]
        return next(iter(self.paths.values()))

    # How it is done.

    def _make(self, directory: str) -> None:
        try:
            files.make_below(directory, lambda: self._make_parents(os.path.dirname(directory)))
        except FileExistsError:
            self._replace(directory)
        self.written.append(f"mkdir {directory}")

    def _replace(self, directory: str) -> None:
        """A group of that name is there: a leftover when it is empty."""
        self._clear(directory)
        files.make(directory)

    def _clear(self, directory: str) -> None:
        if files.pids(directory, True):
            raise base.in_use(directory)
        files.remove_tree(directory, monotonic() + base.DESTROY_SECONDS)

    def _make_parents(self, directory: str) -> None:
        """Make the missing groups above ours; ours to keep, so cpusets made in them start with the parent's value."""
        try:
            files.make(directory)
        except FileExistsError:
            # Another start made it just now.
            return
        except FileNotFoundError:
            self._make_parents(os.path.dirname(directory))
            try:
                files.make(directory)
            except FileExistsError:
                return
        if self.paths.get("cpuset", "").startswith(directory + "/"):
            self._inherit_cpuset(directory)
            files.write(f"{directory}/cgroup.clone_children", "1")

    def _inherit_cpuset(self, directory: str) -> None:
        """Fill cpus and mems of a cpuset from the nearest group above that has them, and of those between."""
        for name in ("cpuset.cpus", "cpuset.mems"):
            empty = []
            above = directory
            while not (value := files.read(f"{above}/{name}")):
                empty.append(above)
                above = os.path.dirname(above)
            for one in reversed(empty):
                files.write(f"{one}/{name}", value)

    def _has(self, controller: str, name: str) -> bool:
        directory = self.paths.get(controller)
        return directory is not None and os.path.exists(f"{directory}/{name}")

    def _apply(self, groups: "list[Group]") -> None:
        for group in groups:
            try:
                self._write_group(group)
            except StepError as error:
                if error.errno != EINVAL or len(group) == 1:
                    raise
                self._write_group(group[::-1])

    def _write_group(self, group: "Group") -> None:
        for controller, name, value in group:
            directory = self.paths.get(controller)
            if directory is None:
                raise refused(name, value, f"the {controller} cgroup is not mounted")
            if controller == "cpuset":
                # The parent may be without processors still: then nothing can be chosen from it.
                self._inherit_cpuset(directory)
            self.write(directory, name, value)

    def _devices(self, current: devices.Policy | None) -> None:
        """Bring devices.list to the policy; current: what it says, None to read it."""
        wanted = devices.policy(self.resources.get("devices"))  # type: ignore[arg-type]
        directory = self.paths.get("devices")
        if directory is None:
            if wanted.allow and not wanted.exceptions:
                return
            raise refused("devices", "the device policy", "Devices cgroup isn't mounted")
        if current is wanted:
            return
        if current is None:
            current = devices.parse_list(files.read(f"{directory}/devices.list"))
        allow, deny = transition(current, wanted)
        for name, values in (("devices.allow", allow), ("devices.deny", deny)):
            if values and values[0] == "a":
                # Changing the default wipes the exceptions, so it must precede them in either file.
                self.write(directory, name, "a")
                values.pop(0)
        for name, values in (("devices.allow", allow), ("devices.deny", deny)):
            if values:
                files.write_each(f"{directory}/{name}", values)
                self.written.append(f"{directory}/{name} = {', '.join(values)}")

    def _used(self) -> int:
        return files.number(f"{self.paths.get('memory', '')}/memory.usage_in_bytes")

    def _freezer(self) -> str:
        directory = self.paths.get("freezer")
        if directory is None:
            raise refused("freezer.state", "FROZEN", "the freezer cgroup is not mounted")
        return f"{directory}/freezer.state"


def transition(current: devices.Policy, wanted: devices.Policy) -> tuple[list[str], list[str]]:
    """What to write to devices.allow and devices.deny to get from one policy to the other.

    "a" first in a list sets the default anew.  With the same default only the differences are written, first what is
    allowed more and then what is allowed less.
    """
    allow: list[str] = []
    deny: list[str] = []
    if current.allow != wanted.allow or (current.allow and (current.exceptions or wanted.exceptions)):
        (allow if wanted.allow else deny).append("a")
        current = devices.Policy(wanted.allow)
    more, less = (deny, allow) if wanted.allow else (allow, deny)
    for key, access in wanted.exceptions.items():
        had = current.exceptions.get(key, "")
        if new := "".join(c for c in access if c not in had):
            more.append(devices.spell(key, new))
    for key, had in current.exceptions.items():
        access = wanted.exceptions.get(key, "")
        if gone := "".join(c for c in had if c not in access):
            less.append(devices.spell(key, gone))
    return allow, deny


def _oom_kills(directory: str) -> int:
    """v1 counts in the group of the victim only, so sub-groups are added up."""
    own = files.table(f"{directory}/memory.oom_control").get("oom_kill", 0)
    return own + sum(_oom_kills(child) for child in files.children(directory))
