"""`docker load` of a 165 MB image, in one layer and in eight, against boxwright and against dockerd in turns.

usage: python -m benchmarks.load [--rounds N] [--no-peer] [--json FILE]

The image is made here, from a seed: 10,000 files with the sizes of a small Debian (few large ones, many small ones).
Between deletion and the next measurement lie six seconds, because ext4 searches past inodes that were deleted in the
last five (trees/placement.py); without them the peer's figures would be several times worse.
"""

import argparse
import hashlib
import io
import json
import random
import statistics
import subprocess
import sys
import tarfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import peers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.engine import Engine

FILES = 10_000
BYTES = 160_000_000
PAUSE = 6.0
BUILD = Path(__file__).parents[1] / ".build" / "benchmarks"


def archive(layers: int) -> Path:
    """A docker-archive of `layers` layers; made once."""
    path = BUILD / f"load-{layers}.tar"
    if path.exists():
        return path
    BUILD.mkdir(parents=True, exist_ok=True)
    dice = random.Random(1)
    sizes = [min(8_000_000, int(dice.paretovariate(0.6) * 300)) for _ in range(FILES)]
    scale = BYTES / sum(sizes)
    outs = [io.BytesIO() for _ in range(layers)]
    for number, out in enumerate(outs):
        with tarfile.open(fileobj=out, mode="w") as tar:
            for index in range(number, FILES, layers):
                if index // layers % 25 == 0:
                    directory = tarfile.TarInfo(f"usr/share/d{index // (layers * 25)}-{number}")
                    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(directory)
                info = tarfile.TarInfo(f"usr/share/d{index // (layers * 25)}-{number}/file{index}")
                info.size, info.mode = int(sizes[index] * scale), 0o644
                tar.addfile(info, io.BytesIO(dice.randbytes(4096) * (info.size // 4096 + 1)))
    data = [out.getvalue() for out in outs]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(d).hexdigest()}" for d in data]},
        }
    ).encode()
    manifest = [
        {"Config": "config.json", "RepoTags": [f"load:{layers}"], "Layers": [f"{n}.tar" for n in range(layers)]}
    ]
    members = [("config.json", config), *((f"{n}.tar", d) for n, d in enumerate(data))]
    with tarfile.open(path, "w") as tar:
        for name, content in [*members, ("manifest.json", json.dumps(manifest).encode())]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def seconds(host: str, path: Path, layers: int) -> float:
    """One load by the docker CLI; the image is removed again."""
    start = time.perf_counter()
    subprocess.run(["docker", "-H", host, "load", "-q", "-i", path], check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - start
    subprocess.run(["docker", "-H", host, "rmi", f"load:{layers}"], check=True, stdout=subprocess.DEVNULL)
    time.sleep(PAUSE)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
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
            hosts["dockerd"] = stack.enter_context(peers.dockerd())
        for _ in range(arguments.rounds):
            for name, host in hosts.items():
                for layers, path in archives.items():
                    figures.setdefault(f"{name} {layers}", []).append(seconds(host, path, layers))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for layers, path in archives.items():
        shown = [f"{name} {medians[f'{name} {layers}']:6.2f} s" for name in hosts]
        print(f"docker load, {path.stat().st_size / 1e6:.0f} MB in {layers} layer(s): " + ", ".join(shown))
    if arguments.json:
        arguments.json.write_text(json.dumps({"medians": medians, "all": figures}, indent=1))


if __name__ == "__main__":
    main()
