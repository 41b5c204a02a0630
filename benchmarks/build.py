"""A Dockerfile of twenty steps, cold and fully cached, beside Debian's dockerd in the same run.

    python -m benchmarks.build [--rounds N]

Five RUN, seven COPY and seven steps that change the configuration alone, above busybox, with a context of 1 MiB in
200 files.  The docker CLI does both; each round is cold (--no-cache), then cached.  Prints medians in seconds, the
CLI's start and its packing of the context included.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import peers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import images

STEPS = [
    "FROM busybox", "ENV A=1", "WORKDIR /srv/app", "COPY files/0 f0", "RUN echo 1 > r1", "COPY files/1 f1", "LABEL l=1",
    "RUN cat f0/0 f1/0 > r2", "COPY files/2 f2", "ENV B=2", "COPY files/3 f3", "RUN mkdir -p d/e && echo 3 > d/e/r3",
    "EXPOSE 80", "COPY files/4 f4", "RUN rm r1", "COPY --chown=1:1 files/5 f5", "USER 1", "COPY files/6 /tmp/f6",
    "RUN id > /dev/null", 'CMD ["cat", "r2"]',
]  # fmt: skip


def context(directory: Path) -> None:
    """The Dockerfile and its files."""
    (directory / "Dockerfile").write_text("\n".join(STEPS) + "\n")
    for group in range(7):
        (directory / "files" / str(group)).mkdir(parents=True)
        for number in range(29):
            (directory / "files" / str(group) / str(number)).write_bytes(os.urandom(5165))


def build(host: str, directory: Path, *options: str) -> float:
    """Seconds of one build through the CLI."""
    command = ["docker", "-H", host, "build", "-q", *options, str(directory)]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DOCKER_BUILDKIT": "0"})
    return time.monotonic() - start


def measure(hosts: dict[str, str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Every engine in turn in every round: they see the same machine."""
    found: dict[str, dict[str, list[float]]] = {name: {"cold": [], "cached": []} for name in hosts}
    with tempfile.TemporaryDirectory(prefix="bwbuild") as place:
        context(Path(place))
        for _ in range(rounds):
            for name, host in hosts.items():
                found[name]["cold"].append(build(host, Path(place), "--no-cache"))
                found[name]["cached"].append(build(host, Path(place)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    archive = str(images.busybox_archive())
    with peers.boxwright() as ours, peers.dockerd() as theirs:
        hosts = {"boxwright": ours, "dockerd": theirs}
        for host in hosts.values():
            subprocess.run(["docker", "-H", host, "load", "-q", "-i", archive], check=True, stdout=subprocess.DEVNULL)
        found = measure(hosts, rounds)
    for name, figures in found.items():
        for kind, times in figures.items():
            print(f"{name:10} {kind:7} {statistics.median(times):6.2f} s   ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
