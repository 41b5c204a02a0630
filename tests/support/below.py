"""What an engine has below it, as the kernel shows it: launchers, shims, first processes that wait, cgroups."""

import contextlib
import os
from pathlib import Path

from support.engine import Engine

WAITING_SHIM, WAITING_PROCESS, SHIM = "boxwright-spare", "bw-starter", "boxwright-shim"
LAUNCHERS = ("bw-launch-shim", "bw-launch-worke")


def processes(engine: Engine, kind: str = "shim") -> dict[int, str]:
    """A launcher and what it has forked: pid → name; a container's program is none of them.  kind: "shim", "worker"."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"\0{kind}\0{engine.exec_root}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


def named(engine: Engine, *names: str) -> list[int]:
    """The processes of these names, of either launcher."""
    both = {**processes(engine), **processes(engine, "worker")}
    return [pid for pid, name in both.items() if name in names]


def surplus(engine: Engine) -> list[str]:
    """The names of processes that no engine without containers has: it has two launchers and one shim that waits."""
    found = sorted([*processes(engine).values(), *processes(engine, "worker").values()])
    for name in (*LAUNCHERS, WAITING_SHIM, WAITING_PROCESS):
        if name in found:
            found.remove(name)
    return found


def groups(engine: Engine) -> set[str]:
    """The names of the containers' cgroups, without the one of the first process that waits for a start."""
    instance = (engine.data_root / "instance").read_text().split()[0]
    tops = [path for top in ("*/boxwright", "boxwright") for path in Path("/sys/fs/cgroup").glob(f"{top}-{instance}")]
    waiting = {f"spare-{pid}" for pid in named(engine, WAITING_SHIM)}
    return {path.name for top in tops for path in top.glob("*/")} - waiting


def asleep(pid: int) -> bool:
    """Whether it waits for something, or is gone."""
    return _state(pid) in "SZX"


def dead(pid: int) -> bool:
    """Whether it has ended, reaped or not."""
    return _state(pid) in "ZX"


def _state(pid: int) -> str:
    """The letter of /proc/pid/stat; "X" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
