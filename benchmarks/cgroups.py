"""One container's v1 groups, made, joined and removed: ours beside the bare system calls for the same directories.

    python -m benchmarks.cgroups [--rounds N]

The bare peer makes a directory in each hierarchy, joins it and removes it, and sets no limit: what remains between the
two is what the limits and the manager cost.  DESIGN measured 1.5 ms for eight hierarchies.
"""

import argparse
import os
import signal
import statistics
import time
import uuid
from collections.abc import Callable

from boxwright.libcontainer import cgroups
from boxwright.libcontainer.cgroups import hierarchy

RESOURCES: dict[str, object] = {
    "memory": {"limit": 64 << 20, "swap": 128 << 20},
    "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
    "pids": {"limit": 100},
    "devices": [{"allow": False, "access": "rwm"}],
}


def cycle(make: Callable[[int], Callable[[], None]]) -> float:
    """Milliseconds of one group's life around a waiting process; `make` joins it and returns what removes the group."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    start = time.perf_counter()
    remove = make(pid)
    made = time.perf_counter() - start
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    start = time.perf_counter()
    remove()
    return (made + time.perf_counter() - start) * 1000


def ours(parent: str) -> Callable[[int], Callable[[], None]]:
    def make(pid: int) -> Callable[[], None]:
        group = cgroups.manager("fs", parent, "c", RESOURCES)
        group.create()
        group.add(pid)
        return group.destroy

    return make


def bare(parent: str) -> Callable[[int], Callable[[], None]]:
    mounts = sorted({mount.point for mount in hierarchy.host().v1.values()})

    def make(pid: int) -> Callable[[], None]:
        groups = [f"{mount}{parent}/bare" for mount in mounts]
        for group in groups:
            os.mkdir(group)
            with open(f"{group}/cgroup.procs", "w") as procs:
                procs.write(str(pid))

        def remove() -> None:
            for group in groups:
                os.rmdir(group)

        return remove

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    parent = f"/boxwright-bench-{uuid.uuid4().hex[:8]}"
    keep = cgroups.manager("fs", parent, "keep", {})
    keep.create()
    try:
        spans: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(options.rounds):
            spans["ours"].append(cycle(ours(parent)))
            spans["bare"].append(cycle(bare(parent)))
    finally:
        keep.destroy()
        cgroups.remove_parent("fs", parent)
    middle = {name: statistics.median(found) for name, found in spans.items()}
    for name, found in spans.items():
        print(f"{name:5} median {middle[name]:6.2f} ms   min {min(found):6.2f} ms")
    print(f"ours / bare {middle['ours'] / middle['bare']:.2f}")


if __name__ == "__main__":
    main()
