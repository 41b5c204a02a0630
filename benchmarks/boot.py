"""From execve of the engine to a served API, what it then weighs, and a start to execve inside the engine.

usage: python -m benchmarks.boot [--rounds N]

The peer for the start is `runc run` of a bundle with the same program, in the same run.
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import peers
from benchmarks.engines import Client, docker, images

REST_SECONDS = 60
BUNDLE_FILES = ("bin", "proc", "sys", "dev", "tmp", "etc")


def boot(rounds: int) -> float:
    """Median milliseconds from the fork of the engine to `ready`, each with new roots."""
    spans = []
    for _ in range(rounds):
        start = time.perf_counter()
        with peers.boxwright():
            spans.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spans)


def processes(host: str) -> dict[int, str]:
    """pid → command line of engine, launchers and what they have forked, found by the directory of their socket."""
    found, home = {}, os.path.dirname(host.removeprefix("unix://"))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_text()
            if home in line and int(pid) != os.getpid():
                found[int(pid)] = line
    return found


def pss(host: str) -> float:
    """MiB of all of them."""
    total = 0
    for pid in processes(host):
        with contextlib.suppress(OSError, IndexError):
            total += int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0])
    return total / 1024


def rest(host: str) -> None:
    """Wait until the launcher of confined jobs has gone, as it does when there are none."""
    give_up = time.monotonic() + REST_SECONDS
    while any("\0worker\0" in line for line in processes(host).values()):
        if time.monotonic() > give_up:
            raise RuntimeError(f"the worker launcher is still there after {REST_SECONDS} s")
        time.sleep(0.2)


def to_execve(host: str, network: str, starts: int) -> float:
    """Median milliseconds from the driver's turn to the program's execve, from the timelines of `starts` containers."""
    client, spans = Client(host), []
    for _ in range(starts):
        cid = client.create(["true"], network)
        client.call("POST", f"/containers/{cid}/start")
        client.call("POST", f"/containers/{cid}/wait")
        steps = client.call("GET", f"/containers/{cid}/json")["Boxwright"]["Timeline"]
        client.call("DELETE", f"/containers/{cid}?force=1")
        begin = next(step[1] for step in steps if step[0] == "fork")
        spans.append((next(step[1] for step in steps if step[0] == "execve") - begin) / 1e6)
    return statistics.median(spans)


def runc(starts: int) -> float:
    """Median milliseconds of `runc run` of /bin/true."""
    environment = peers.environment()
    with tempfile.TemporaryDirectory(prefix="bwrunc") as home:
        root = Path(home) / "rootfs"
        for name in BUNDLE_FILES:
            (root / name).mkdir(parents=True)
        (root / "bin/true").write_bytes(Path("/bin/busybox").read_bytes())
        (root / "bin/true").chmod(0o755)
        subprocess.run(["runc", "spec"], cwd=home, env=environment, check=True)
        spec = Path(home) / "config.json"
        text = spec.read_text().replace('"terminal": true', '"terminal": false')
        spec.write_text(re.sub(r'"args": \[[^]]*\]', '"args": ["/bin/true"]', text))
        spans = []
        for number in range(starts + 1):
            start = time.perf_counter()
            subprocess.run(
                ["runc", "--root", f"{home}/state", "run", f"bench{number}"], cwd=home, env=environment, check=True
            )
            spans.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spans[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"execve to served API      {boot(rounds):8.0f} ms")
    with peers.boxwright() as host:
        docker(host, "load", "-q", "-i", str(images.busybox_archive()))
        print(f"engine after a load       {pss(host):8.1f} MiB PSS")
        rest(host)
        print(f"idle engine, all of it    {pss(host):8.1f} MiB PSS")
        ours = {network: to_execve(host, network, rounds * 8) for network in ("bridge", "none")}
    peer = runc(rounds * 4)
    for network, value in ours.items():
        print(f"start to execve, {network:8} {value:8.2f} ms   runc run {peer:6.1f} ms   {peer / value:5.1f} times")


if __name__ == "__main__":
    main()
