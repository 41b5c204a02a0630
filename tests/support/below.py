"""What an engine has below it, as the kernel shows it: launchers, shims, first processes that wait, cgroups."""

import contextlib
import os
import sqlite3
import subprocess
from pathlib import Path

from support.engine import Engine

WAITING_SHIM, WAITING_PROCESS, SHIM = "boxwright-spare", "bw-starter", "boxwright-shim"
LAUNCHERS = ("bw-launch-shim", "bw-launch-worke")


def processes(engine: Engine, kind: str = "shim") -> dict[int, str]:
    """A launcher and what it has forked: pid → name; a container's program is none of them.  kind: "shim", "worker"."""
    return of_run_directory(engine.exec_root, kind)


def of_run_directory(exec_root: str | Path, kind: str = "shim") -> dict[int, str]:
    """The same for whatever engine has, or had, this run directory."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"\0{kind}\0{exec_root}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
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


def instance(engine: Engine) -> str:
    """The id that the names of its kernel objects carry."""
    return (engine.data_root / "instance").read_text().split()[0]


def elements(engine: Engine) -> list[str]:
    """What the maps and sets of its firewall tables hold for containers."""
    listed = ""
    for family in ("ip", "bridge"):
        command = ["nft", "list", "table", family, f"boxwright_{instance(engine)}"]
        listed += subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    return sorted(line.strip(" \t,{}") for line in listed.splitlines() if " : " in line or "elements" in line)


def bridge_ports(engine: Engine) -> list[str]:
    """The interfaces of containers, on the host's side."""
    return sorted(os.listdir(f"/sys/class/net/{engine.bridge}/brif"))


def addresses(engine: Engine) -> list[str]:
    """The addresses that its books give to containers, in quarantine too, and the ports that they publish."""
    with contextlib.closing(sqlite3.connect(f"file:{engine.data_root}/boxwright.db?mode=ro", uri=True)) as books:
        given = "SELECT address, link, endpoint FROM network_addresses WHERE endpoint IS NOT 'gateway'"
        published = "SELECT protocol, host_ip, port FROM network_ports"
        return sorted(str(row) for query in (given, published) for row in books.execute(query))


def mounts(engine: Engine) -> list[str]:
    """Mounts below its directories in the mount namespace of the host."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return sorted(point for point in points if point.startswith(f"{engine.home}/"))


def groups(engine: Engine) -> set[str]:
    """The names of the containers' cgroups, without the one of the first process that waits for a start."""
    tops = [
        path
        for top in ("*/boxwright", "boxwright")
        for path in Path("/sys/fs/cgroup").glob(f"{top}-{instance(engine)}")
    ]
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
