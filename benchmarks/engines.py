"""The same work against boxwright and against dockerd, in one run, with the ratios.

usage: python -m benchmarks.engines [--only a,b] [--rounds N] [--no-peer] [--json FILE]

Engines take turns (ours, peer, ours, peer, ...) round by round, so that a drift of the machine hits both alike.
A figure is the median over all rounds; a ratio above 1 says how many times faster (or smaller) boxwright is.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import peers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import itertools

from support import images

IMAGE = "busybox"
LABEL = "boxwright.benchmark"
SETTLE_SECONDS = 2.0  # for what a burst leaves to be done: namespaces that end, shims that are sent away


class Client(http.client.HTTPConnection):
    """One keep-alive connection to an engine's socket, speaking the API version that both engines know."""

    def __init__(self, host: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = host.removeprefix("unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.path)

    def call(self, method: str, url: str, body: object = None) -> Any:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self.request(method, "/v1.41" + url, json.dumps(body) if body is not None else None, headers)
        answer = self.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {url}: {answer.status} {data[:900]!r}")
        return json.loads(data) if data[:1] in (b"{", b"[") else data

    def create(self, command: list[str], network: str = "bridge") -> str:
        body = {"Image": IMAGE, "Cmd": command, "Labels": {LABEL: ""}, "HostConfig": {"NetworkMode": network}}
        return str(self.call("POST", "/containers/create", body)["Id"])

    def cycle(self, network: str = "bridge") -> dict[str, float]:
        """One container's whole life; milliseconds of each step."""
        marks = [time.perf_counter()]

        def mark(value: Any) -> Any:
            marks.append(time.perf_counter())
            return value

        cid = mark(self.create(["true"], network))
        mark(self.call("POST", f"/containers/{cid}/start"))
        mark(self.call("POST", f"/containers/{cid}/wait"))
        mark(self.call("DELETE", f"/containers/{cid}?force=1"))
        spans = [(b - a) * 1e3 for a, b in itertools.pairwise(marks)]
        return {
            **dict(zip(("create", "start", "wait", "remove"), spans, strict=True)),
            "cycle": (marks[-1] - marks[0]) * 1e3,
        }


def sweep(host: str) -> None:
    client = Client(host)
    for found in client.call("GET", "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22" + LABEL + "%22%5D%7D"):
        with contextlib.suppress(RuntimeError):
            client.call("DELETE", f"/containers/{found['Id']}?force=1&v=1")


def docker(host: str, *arguments: str) -> bytes:
    return subprocess.run(
        ["docker", "-H", host, *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True
    ).stdout


def timed(work: Callable[[], object], times: int) -> float:
    """Median milliseconds of `times` calls after one that does not count."""
    work()
    spans = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spans.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spans)


def cli_run(network: str) -> Callable[[str], dict[str, float]]:
    return lambda host: {"ms": timed(lambda: docker(host, "run", "--rm", "--network", network, IMAGE, "true"), 10)}


def cli_version(host: str) -> dict[str, float]:
    """The docker client alone, with a request that costs an engine next to nothing."""
    return {"ms": timed(lambda: docker(host, "version"), 10)}


def cli_exec(host: str) -> dict[str, float]:
    client = Client(host)
    cid = client.create(["sleep", "600"])
    client.call("POST", f"/containers/{cid}/start")
    return {"ms": timed(lambda: docker(host, "exec", cid, "true"), 10)}


def api_cycle(network: str) -> Callable[[str], dict[str, float]]:
    def run(host: str) -> dict[str, float]:
        client = Client(host)
        rows = [client.cycle(network) for _ in range(16)][1:]
        return {f"{key} ms": statistics.median(row[key] for row in rows) for key in rows[0]}

    return run


def api_parallel(host: str, clients: int = 32, each: int = 6) -> dict[str, float]:
    """`clients` connections, each with `each` whole lives one after the other."""

    def work(_: int) -> list[dict[str, float]]:
        client = Client(host)
        return [client.cycle() for _ in range(each)]

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        rows = [row for rows in pool.map(work, range(clients)) for row in rows]
    wall = time.perf_counter() - start
    starts = sorted(row["start"] for row in rows)
    return {"containers/s": len(rows) / wall, "start p99 ms": starts[int(len(starts) * 0.99)]}


def pss_kib(host: str) -> int:
    """Proportional set size of everything outside containers (the pid namespace we are in), in KiB, less our own."""
    mine, total = os.readlink("/proc/self/ns/pid"), 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, AttributeError):
            if os.readlink(f"/proc/{pid}/ns/pid") == mine and int(pid) != os.getpid():
                found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
                total += int(found[1])  # type: ignore[index]
    return total


def density(host: str, count: int = 100) -> dict[str, float]:
    """Memory of one of `count` sleeping containers, everything of the engine's counted, and starts beside them."""
    client = Client(host)
    empty = statistics.median(client.cycle()["start"] for _ in range(8))
    before = pss_kib(host)
    for _ in range(count):
        client.call("POST", f"/containers/{client.create(['sleep', '600'])}/start")
    after = pss_kib(host)
    loaded = statistics.median(client.cycle()["start"] for _ in range(8))
    return {"MiB/container": (after - before) / count / 1024, "start growth": loaded / empty}


def crowd(host: str, count: int = 300, cycles: int = 24) -> dict[str, float]:
    """A start with nothing else running, before and after, and one beside `count` running containers."""
    client = Client(host)
    alone = [client.cycle()["start"] for _ in range(cycles)]

    def sleeper(_: int) -> None:
        mine = Client(host)
        mine.call("POST", f"/containers/{mine.create(['sleep', '3600'])}/start")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sleeper, range(count)))
    time.sleep(SETTLE_SECONDS)
    beside = statistics.median(client.cycle()["start"] for _ in range(cycles * 2))
    sweep(host)
    time.sleep(SETTLE_SECONDS)
    alone += [client.cycle()["start"] for _ in range(cycles)]
    without = statistics.median(alone)
    return {"start alone ms": without, f"start beside {count} ms": beside, "growth": beside / without}


def logs(host: str, lines: int = 200_000) -> dict[str, float]:
    client = Client(host)
    cid = client.create(["sh", "-c", f"seq 1 {lines}"])

    def write() -> None:
        client.call("POST", f"/containers/{cid}/start")
        client.call("POST", f"/containers/{cid}/wait")

    start = time.perf_counter()
    write()
    middle = time.perf_counter()
    count = docker(host, "logs", cid).count(b"\n")
    end = time.perf_counter()
    if count != lines:
        raise RuntimeError(f"{count} of {lines} lines came back")
    return {"lines/s in": lines / (middle - start), "lines/s out": lines / (end - middle)}


SCENARIOS: dict[str, Callable[[str], dict[str, float]]] = {
    "docker version": cli_version,
    "docker run bridge": cli_run("bridge"),
    "docker run none": cli_run("none"),
    "docker run host": cli_run("host"),
    "docker exec": cli_exec,
    "api bridge": api_cycle("bridge"),
    "api none": api_cycle("none"),
    "32 clients": api_parallel,
    "density": density,
    "crowd": crowd,
    "logs": logs,
}


def measure(hosts: dict[str, str], names: list[str], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """`{scenario: {engine: {figure: median}}}`."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        seen: dict[str, list[dict[str, float]]] = {engine: [] for engine in hosts}
        for _ in range(rounds):
            for engine, host in hosts.items():
                try:
                    seen[engine].append(SCENARIOS[name](host))
                finally:
                    sweep(host)
        result[name] = {
            engine: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            for engine, rows in seen.items()
        }
        for line in report(name, result[name]):
            print(line, flush=True)
    return result


def report(name: str, figures: dict[str, dict[str, float]]) -> Iterator[str]:
    for key, ours in figures["boxwright"].items():
        peer = figures.get("dockerd", {}).get(key)
        better = "" if peer is None else f"{peer:12.2f}   {ours / peer if '/s' in key else peer / ours:6.1f} times"
        yield f"{name:20} {key:16} {ours:12.2f} {better}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true", help="only boxwright")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        hosts = {"boxwright": stack.enter_context(peers.boxwright())}
        if not options.no_peer:
            hosts["dockerd"] = stack.enter_context(peers.dockerd())
        for host in hosts.values():
            docker(host, "load", "-q", "-i", str(images.busybox_archive()))
        print(f"{'':37} {'boxwright':>12} {'dockerd':>12}   better by")
        result = measure(hosts, options.only.split(","), options.rounds)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
