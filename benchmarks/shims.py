"""What a start costs below the API: latency by step, starts a second, memory, and the log's throughput.

    python benchmarks/shims.py [--starts N] [--clients N] [--sleepers N] [--only latency,rate,memory,log]

Runs as root, in directories and cgroups of its own, with the busybox of this machine.  CPU is what the whole tree used
(engine's half, launcher, shims, programs), so that it says something on a busy machine too.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from testsuite.execdrivers.conftest import Bench, Client, ended

from boxwright.execdriver import Driver, Hooks, StartRequest
from boxwright.logger.jsonfile import JsonFileWriter

QUIET = 0.05  # seconds between starts that are measured one at a time


def milliseconds(values: list[float]) -> str:
    values = sorted(values)
    return (
        f"median {statistics.median(values):7.2f}   min {values[0]:7.2f}   "
        f"p99 {values[min(len(values) - 1, len(values) * 99 // 100)]:7.2f} ms"
    )


def proportional(pid: int) -> int:
    """KiB of proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def cpu_of(bench: Bench) -> float:
    """Seconds of CPU of this process, of the launcher and of everything that has ended below them."""
    total = sum(os.times()[:2])
    for pid in bench.shims():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(fields[i]) for i in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
    return total


async def latency(bench: Bench, driver: Driver, options: argparse.Namespace) -> None:
    """One start at a time, to execve; with and without a network namespace to hand over."""
    for network in (False, True):
        whole: list[float] = []
        steps: dict[str, list[float]] = {}
        for _ in range(options.starts):
            request = bench.request("true", configure_network=network)
            await asyncio.sleep(QUIET)
            begin = time.perf_counter()
            running = await driver.start(request, Hooks())
            whole.append((time.perf_counter() - begin) * 1e3)
            one: dict[str, float] = {}
            for name, start, end, _ in running.timeline:
                one[name] = one.get(name, 0) + (end - start) / 1e6
            for name, took in one.items():
                steps.setdefault(name, []).append(took)
            await ended(running)
        print(f"start to execve{', network handed over' if network else ', no network':24} {milliseconds(whole)}")
        for name, took in steps.items():
            print(f"    {name:14} {statistics.median(took):7.3f} ms")


async def rate(bench: Bench, driver: Driver, options: argparse.Namespace) -> None:
    """Starts to exits with many at once."""
    requests = iter([bench.request("true") for _ in range(options.starts * 4)])
    took: list[float] = []

    async def client() -> None:
        for request in requests:
            begin = time.perf_counter()
            running = await driver.start(request, Hooks())
            took.append((time.perf_counter() - begin) * 1e3)
            await ended(running)

    begin, used = time.perf_counter(), cpu_of(bench)
    await asyncio.gather(*(client() for _ in range(options.clients)))
    seconds = time.perf_counter() - begin
    print(f"{options.clients} at once: {len(took) / seconds:.0f} starts to exits a second   start {milliseconds(took)}")
    print(f"    CPU {(cpu_of(bench) - used) / len(took) * 1e3:.2f} ms each")


async def memory(bench: Bench, driver: Driver, options: argparse.Namespace) -> None:
    """PSS of shims and of what runs in them, all of them sleeping."""
    before = set(bench.shims())
    lives = [await driver.start(bench.request("sleep", "100000"), Hooks()) for _ in range(options.sleepers)]
    await asyncio.sleep(0.5)
    shims = [proportional(pid) for pid in bench.shims()]
    programs = [proportional(life.pid) for life in lives]
    each = (sum(shims) + sum(programs)) / options.sleepers
    print(f"{options.sleepers} sleeping: {each:.0f} KiB of PSS each, everything below the engine counted")
    print(f"    shims {statistics.median(shims):.0f}, programs {statistics.median(programs):.0f} KiB (median)")
    print(f"    {len(shims) - options.sleepers} other processes of ours, {len(before)} before")
    for life in lives:
        await life.signal(9)
        await ended(life)


async def log(bench: Bench, driver: Driver, options: argparse.Namespace) -> None:
    """Lines a second: the writer alone, and a program's output through the shim."""
    line = b"2026-01-01 a line of usual length for a log, number 12345\n"
    chunk = line * (65536 // len(line))
    with tempfile.TemporaryDirectory() as directory:
        writer = JsonFileWriter(f"{directory}/a", 20 << 20, 5)
        begin = time.perf_counter()
        for _ in range(500):
            writer.write("stdout", chunk)
        seconds = time.perf_counter() - begin
        writer.close()
    print(f"log writer: {500 * len(chunk) // len(line) / seconds:,.0f} lines a second")
    lines = 2_000_000
    client = Client(stdin=False)
    request: StartRequest = bench.request("sh", "-c", f"yes 'a line of usual length for a log' | head -n {lines}")
    request.attach.append(client.request)
    begin = time.perf_counter()
    running = await driver.start(request, Hooks())
    while await client.read():
        client.data = b""
    await ended(running)
    print(f"through the shim, logged and attached: {lines / (time.perf_counter() - begin):,.0f} lines a second")
    client.close()


MEASURES: dict[str, Callable[[Bench, Driver, argparse.Namespace], Coroutine[Any, Any, None]]] = {
    "latency": latency,
    "rate": rate,
    "memory": memory,
    "log": log,
}


async def run(bench: Bench, options: argparse.Namespace) -> None:
    driver = bench.driver()
    try:
        await ended(await driver.start(bench.request("true"), Hooks()))  # executes the launcher
        for name in options.only.split(","):
            await MEASURES[name](bench, driver, options)
    finally:
        await driver.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--sleepers", type=int, default=100)
    parser.add_argument("--only", default=",".join(MEASURES))
    options = parser.parse_args()
    bench = Bench("native")
    try:
        asyncio.run(run(bench, options))
        while bench.shims():
            time.sleep(0.05)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
