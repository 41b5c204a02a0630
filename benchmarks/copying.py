"""What `docker cp` out of a container costs beside GNU tar, which reads the same files on the host.

usage: python -m benchmarks.copying [--rounds N]

Two trees of 100 MiB: one file, and 3,200 files in 100 directories.  "api" is the archive as it comes from the engine's
socket, read and dropped; "tar" is `tar -cf - | cat >/dev/null`; rounds take turns, and a figure is their median in
milliseconds, with the least beside it.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import peers
from benchmarks.engines import Client, docker, images
from benchmarks.stats import Wire

MIB = 1 << 20
FILES = {"one file": (1, 1, 100 * MIB), "3,200 files": (100, 32, 32 << 10)}


def make(home: Path) -> dict[str, str]:
    """Makes the trees; the directory of each, by its name here."""
    for number, (directories, files, size) in enumerate(FILES.values()):
        for directory in range(directories):
            place = home / f"t{number}" / str(directory)
            place.mkdir(parents=True)
            for file in range(files):
                (place / str(file)).write_bytes(os.urandom(size))
    return {name: f"t{number}" for number, name in enumerate(FILES)}


def fetch(host: str, cid: str, tree: str) -> None:
    wire = Wire(host)
    wire.send(f"/containers/{cid}/archive?path=/{tree}")
    count, last, buffer = 0, b"", bytearray(MIB)
    while not last.endswith(b"\r\n0\r\n\r\n"):
        if not (got := wire.sock.recv_into(buffer)):
            break
        count += got
        last = (last + buffer[max(0, got - 8) : got])[-8:]
    wire.sock.close()
    if count < 100 * MIB or not last.endswith(b"\r\n0\r\n\r\n"):
        raise RuntimeError(f"the archive broke off after {count} bytes")


def tar(home: Path, tree: str) -> None:
    subprocess.run(f"tar -C {home} -cf - {tree} | cat >/dev/null", shell=True, check=True)


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    spans: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if number:  # the first warms the page cache
                spans[name].append((time.perf_counter() - begin) * 1e3)
    return spans


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bwcopying", dir="/tmp") as place, peers.boxwright() as host:
        home = Path(place)
        trees = make(home)
        docker(host, "load", "-q", "-i", str(images.busybox_archive()))
        client = Client(host)
        cid = client.create(["sleep", "600"], "none")
        client.call("POST", f"/containers/{cid}/start")
        for name, tree in trees.items():
            docker(host, "cp", f"{home}/{tree}", f"{cid}:/{tree}")
            works = {
                "tar": lambda tree=tree: tar(home, tree),
                "api": lambda tree=tree: fetch(host, cid, tree),
            }
            spans = in_turns(works, options.rounds)
            middle = {who: statistics.median(each) for who, each in spans.items()}
            for who, each in spans.items():
                print(f"{name:12} {who:4} {middle[who]:8.1f} ms   least {min(each):8.1f} ms", flush=True)
            print(f"{name:12} api/tar {middle['api'] / middle['tar']:.2f}   of the least "
                  f"{min(spans['api']) / min(spans['tar']):.2f}", flush=True)  # fmt: skip
        client.call("DELETE", f"/containers/{cid}?force=1")


if __name__ == "__main__":
    main()
