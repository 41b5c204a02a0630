"""What grows with use: thousands of containers, execs and log rotations on one engine, looked at after each part.

usage: python -m benchmarks.soak [--containers N] [--execs N] [--rotations N] [--parts N]

Prints a table, a row for each part of the work, and fails when what should be flat has grown from the first rows to the
last ones: memory, descriptors and threads of engine, launcher and worker; rows and pages of the database; directories,
cgroups, links; the time from a start's request to its answer.  The first part warms up and does not count.
"""

import argparse
import contextlib
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boxwright.embed
from benchmarks.engines import Client

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import images

CLIENTS = 4
# What may be added by use, from the median of the first counted parts to that of the last: (factor, and so much more).
BOUNDS: dict[str, tuple[float, float]] = {
    "engine KiB": (1.10, 4096),  # caches fill: allocators never settle to the page
    "launchers KiB": (1.10, 1024),
    "descriptors": (1.0, 16),
    "threads": (1.0, 8),
    "rows": (1.0, 64),
    "database KiB": (1.10, 1024),
    "files": (1.0, 32),
    "cgroups": (1.0, 16),
    "links": (1.0, 8),
    "start ms": (1.35, 0.5),
}


class Watched:
    """One engine, seen from outside."""

    def __init__(self, engine: boxwright.embed.EmbeddedEngine) -> None:
        self.engine = engine
        self.root, self.run = Path(engine.data_root), Path(engine.socket).parent
        self.instance = (self.root / "instance").read_text().split()[0]

    def processes(self) -> list[int]:
        """The engine, its launcher and its worker, with what they have forked."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if str(self.run).encode() in Path(f"/proc/{name}/cmdline").read_bytes() and int(name) != os.getpid():
                    found.append(int(name))
        return found

    def figures(self) -> dict[str, float]:
        """Everything that BOUNDS names but the start time; the engine has to be at rest."""
        others = [pid for pid in self.processes() if pid != self.engine.pid]
        return {
            "engine KiB": _pss(self.engine.pid),
            "launchers KiB": sum(map(_pss, others)),
            "descriptors": sum(_count(f"/proc/{pid}/fd") for pid in (self.engine.pid, *others)),
            "threads": sum(_count(f"/proc/{pid}/task") for pid in (self.engine.pid, *others)),
            "rows": self.rows(),
            "database KiB": (self.root / "boxwright.db").stat().st_size / 1024,
            "files": sum(1 for _ in _entries(self.run)),
            "cgroups": sum(1 for parent in groups(self.instance) for child in parent.iterdir() if child.is_dir()),
            "links": sum(1 for name in os.listdir("/sys/class/net") if name.startswith(f"bw{self.instance[:4]}")),
        }

    def rows(self) -> int:
        """Rows of every table."""
        with contextlib.closing(sqlite3.connect(f"file:{self.root}/boxwright.db?mode=ro", uri=True)) as db:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return sum(int(db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in tables)


def groups(instance: str) -> list[Path]:
    """The engine's own cgroup, in each hierarchy of v1 or the one of v2."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(f"boxwright-{instance}"), *root.glob(f"*/boxwright-{instance}")]


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        if found := re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M):
            return int(found[1])
    return 0  # it has just ended


def _count(directory: str) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(directory))
    return 0


def _entries(directory: Path) -> Iterator[str]:
    """Files and directories below the engine's own, without the images' content."""
    for path, names, files in os.walk(directory):
        names[:] = [name for name in names if name not in ("content", "snapshots") or "data" not in path]
        yield from (*names, *files)
    yield from (str(path) for path in directory.glob("data/snapshots/*/*"))


def lives(host: str, count: int) -> None:
    """`count` containers, created, started, waited for and removed by a few clients at once."""

    def work(number: int) -> None:
        client = Client(host)
        for _ in range(count // CLIENTS + (number < count % CLIENTS)):
            client.cycle()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))


def start_ms(client: Client) -> float:
    """Milliseconds of a start by one client: the lowest decile of 40, which other people's load moves least."""
    return statistics.quantiles((client.cycle()["start"] for _ in range(40)), n=10)[0]


def execs(client: Client, container: str, count: int) -> None:
    """`count` exec sessions, each to its end and inspected."""
    for _ in range(count):
        made = client.call("POST", f"/containers/{container}/exec", {"Cmd": ["true"], "AttachStdout": True})["Id"]
        client.call("POST", f"/exec/{made}/start", {"Detach": False})
        found = client.call("GET", f"/exec/{made}/json")
        if found["Running"] or found["ExitCode"] != 0:
            raise RuntimeError(f"an exec did not end well: {found}")


def rotations(client: Client, count: int) -> None:
    """One container whose log rotates `count` times (files of 4 KiB)."""
    log = {"Type": "json-file", "Config": {"max-size": "4k", "max-file": "3"}}
    script = f"i=0; while [ $i -lt {count * 30} ]; do i=$((i+1)); echo $i {'x' * 100}; done"
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"LogConfig": log, "NetworkMode": "none"}}
    container = client.call("POST", "/containers/create", body)["Id"]
    client.call("POST", f"/containers/{container}/start")
    if client.call("POST", f"/containers/{container}/wait")["StatusCode"] != 0:
        raise RuntimeError("the container that logs did not end well")
    last = client.call("GET", f"/containers/{container}/logs?stdout=1&tail=1")
    if f"{count * 30} ".encode() not in last:
        raise RuntimeError(f"the last line of the log is {last[-120:]!r}")
    client.call("DELETE", f"/containers/{container}?v=1")


def settled(watched: Watched) -> dict[str, float]:
    """Figures once removals that the kernel finishes by itself are through (a network's links, spare groups)."""
    pause = threading.Event()
    before = watched.figures()
    for _ in range(50):
        pause.wait(0.2)
        after = watched.figures()
        if all(after[key] == before[key] for key in ("files", "cgroups", "links", "rows", "descriptors")):
            return after
        before = after
    return before


def soak(containers: int, exec_count: int, rotation_count: int, parts: int) -> tuple[list[dict[str, float]], str]:
    """The figures after each of `parts` equal parts of the work, printed as they come; and the engine's instance."""
    rows: list[dict[str, float]] = []
    with boxwright.embed.engine(hostfs=False) as engine:
        engine.load(images.busybox_archive())
        watched, client = Watched(engine), Client(engine.docker_host)
        stays = client.create(["sleep", "86400"])
        client.call("POST", f"/containers/{stays}/start")
        print("containers " + " ".join(f"{name:>13}" for name in BOUNDS), flush=True)
        for part in range(1, parts + 1):
            lives(engine.docker_host, containers // parts)
            execs(client, stays, exec_count // parts)
            rotations(client, rotation_count // parts)
            rows.append({**settled(watched), "start ms": start_ms(client)})
            print(f"{part * (containers // parts):10} " + " ".join(f"{rows[-1][n]:13.1f}" for n in BOUNDS), flush=True)
    return rows, watched.instance


def growth(rows: list[dict[str, float]]) -> list[str]:
    """What has grown beyond its bound, comparing the first third of the counted parts with the last."""
    counted = rows[1:] if len(rows) > 3 else rows
    third = max(1, len(counted) // 3)
    found = []
    for name, (factor, more) in BOUNDS.items():
        first = statistics.median(row[name] for row in counted[:third])
        last = statistics.median(row[name] for row in counted[-third:])
        if last > first * factor + more:
            found.append(f"{name}: from {first:.1f} to {last:.1f}, more than {factor:g} times and {more:g}")
    return found


def left_of(instance: str) -> list[str]:
    """Tables, links and cgroups that carry the name of an engine that has ended."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    links = [name for name in os.listdir("/sys/class/net") if name.startswith(f"bw{instance[:4]}")]
    return [line for line in tables if instance in line] + links + [str(path) for path in groups(instance)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--containers", type=int, default=10_000)
    parser.add_argument("--execs", type=int, default=1_000)
    parser.add_argument("--rotations", type=int, default=1_000)
    parser.add_argument("--parts", type=int, default=20)
    options: Any = parser.parse_args()
    rows, instance = soak(options.containers, options.execs, options.rotations, options.parts)
    grown = growth(rows) + [f"left behind: {name}" for name in left_of(instance)]
    print("\n".join(grown) or "nothing has grown")
    sys.exit(1 if grown else 0)


if __name__ == "__main__":
    main()
