"""`docker pull` and `docker push` of a 165 MB image, in one layer and in eight, from and to a registry on loopback,
by boxwright and by dockerd in turns.

usage: python -m benchmarks.pull [--rounds N] [--no-peer] [--json FILE]

The image is that of `benchmarks.load`; the registry is Debian's docker-registry, and both engines pull the same blobs
from it.  A push goes into a repository that has nothing, under the name of another registry, so that no blob is known;
what the engine does is to make the layer's archive again, to compress it and to send it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import peers
from benchmarks.load import PAUSE, archive

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.engine import Engine
from support.registries import registry


def docker(host: str, *arguments: str) -> float:
    """Run the docker CLI; seconds that it took."""
    start = time.perf_counter()
    subprocess.run(["docker", "-H", host, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def pull(host: str, name: str) -> float:
    """One pull by the docker CLI; the image is removed again."""
    taken = docker(host, "pull", "-q", name)
    docker(host, "rmi", name)
    time.sleep(PAUSE)
    return taken


def push(host: str, layers: int, path: Path) -> float:
    """One push by the docker CLI to a registry that has never seen the image."""
    docker(host, "load", "-q", "-i", str(path))
    with registry() as fresh:
        name = fresh.name(f"pushed/{layers}:1")
        docker(host, "tag", f"load:{layers}", name)
        taken = docker(host, "push", "-q", name)
        docker(host, "rmi", name, f"load:{layers}")
    time.sleep(PAUSE)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    archives = {layers: archive(layers) for layers in (1, 8)}
    figures: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ours = Engine()
        stack.callback(ours.close)
        ours.start()
        hosts = {"boxwright": ours.host}
        if not arguments.no_peer:
            hosts["dockerd"] = stack.enter_context(peers.dockerd(network=False))
        source = stack.enter_context(registry())
        seed = hosts.get("dockerd", ours.host)  # the blobs are the peer's, if there is one: as most of the world's are
        for layers, path in archives.items():
            docker(seed, "load", "-q", "-i", str(path))
            docker(seed, "tag", f"load:{layers}", source.name(f"bench/{layers}:1"))
            docker(seed, "push", "-q", source.name(f"bench/{layers}:1"))
            docker(seed, "rmi", f"load:{layers}", source.name(f"bench/{layers}:1"))
        time.sleep(PAUSE)
        for _ in range(arguments.rounds):
            for name, host in hosts.items():
                for layers, path in archives.items():
                    taken = pull(host, source.name(f"bench/{layers}:1"))
                    figures.setdefault(f"{name} pull {layers}", []).append(taken)
                    figures.setdefault(f"{name} push {layers}", []).append(push(host, layers, path))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for verb in ("pull", "push"):
        for layers in archives:
            shown = [f"{name} {medians[f'{name} {verb} {layers}']:6.2f} s" for name in hosts]
            print(f"docker {verb}, 165 MB in {layers} layer(s): " + ", ".join(shown))
    if arguments.json:
        arguments.json.write_text(json.dumps({"medians": medians, "all": figures}, indent=1))


if __name__ == "__main__":
    main()
