"""Starting a container without the engine: native, as a shim does it, and by command against runc and crun.

    python benchmarks/runtime.py [--rounds N] [--steps] [--json FILE]

Runs as root, on a busybox root of its own with Docker's mounts, masks, capabilities, seccomp policy and cgroups.  The
commands take turns round by round, so that a drift of the machine hits all alike; a figure is the median, with the
least in parentheses, in milliseconds.  A ratio above 1 says how many times faster boxwright is.  `--steps` draws where
the time of a native start goes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(SOURCE / "tests"), str(SOURCE / "src")]

from kernel.containers import make_root, make_spec  # noqa: E402

from boxwright.engine import seccomp  # noqa: E402
from boxwright.libcontainer import cgroups, seccomp_filter  # noqa: E402

# In an interpreter as lean as a shim: no site, no imports but these, garbage collector frozen.
NATIVE = """
import gc, json, os, sys
sys.path[:0] = [sys.argv[1]]
from time import monotonic_ns
from boxwright.libcontainer import cgroups, init, process, rootfs, setns
from boxwright.linux import pidfd
job = json.load(open(sys.argv[2]))
filter = open(job["filter"], "rb").read()
driver = cgroups.detect()
init.seal_imports()
gc.freeze()
rows, steps = [], []

def start(number, args):
    manager = cgroups.manager(driver, job["parent"], str(number), {})
    spec = dict(job["spec"], process=dict(job["spec"]["process"], args=args))
    root = dict(job["rootfs"])
    for name in ("upper", "work"):
        root[name] += str(number)
        os.mkdir(root[name])
    begin = monotonic_ns()
    manager.create()
    made = monotonic_ns()
    fd, lock = rootfs.make_rootfs(root)
    mounted = monotonic_ns()
    request = process.InitRequest(spec, fd, stdio=(0, 1, 2), seccomp_bpf=filter, cgroup=manager)
    child = process.create_init(request)
    cloned = monotonic_ns()
    before = child.wait("ready")[1]
    child.release_gate()
    after = child.wait("executed")[1]
    executed = monotonic_ns()
    os.close(fd)
    own = [["make cgroup", begin, made, ""], ["make root", made, mounted, ""], ["clone, place", mounted, cloned, ""]]
    return child, manager, executed - begin, own + before + after, begin

for number in range(job["rounds"]):
    child, manager, started, steps, begin = start(number, ["true"])
    pidfd.wait(child.pidfd)
    ended = monotonic_ns() - begin
    child.close()
    manager.destroy()
    rows.append([started, ended])
child, manager, _, _, _ = start("exec", ["sleep", "1000"])
execs = []
for _ in range(job["rounds"]):
    begin = monotonic_ns()
    wanted = dict(job["spec"]["process"], args=["true"])
    request = process.ExecRequest(child.pid, child.pidfd, wanted, stdio=(0, 1, 2), seccomp_bpf=filter, cgroup=manager)
    session = setns.create_exec(request)
    session.wait("executed")
    execs.append(monotonic_ns() - begin)
    pidfd.wait(session.pidfd)
    session.close()
child.abort()
child.close()
manager.destroy()
print(json.dumps({"starts": rows, "execs": execs, "steps": steps}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", action="store_true", help="draw one native start step by step")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="boxwright-bench-") as directory:
        place = Path(directory)
        make_root(place / "layer")
        for name in ("hosts", "hostname", "resolv.conf"):
            (place / "layer/etc" / name).touch()
        figures = {**native(place, options.rounds, options.steps), **commands(place, options.rounds)}
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def native(place: Path, rounds: int, steps: bool) -> dict[str, list[float]]:
    """Milliseconds of starts to execve, starts to exit and execs to execve, through libcontainer directly."""
    parent = f"/boxwright-bench-{os.getpid()}"
    (place / "filter").write_bytes(seccomp_filter.compile(docker_filter()))
    job = {
        "rounds": rounds,
        "parent": parent,
        "filter": str(place / "filter"),
        "spec": docker_spec(),
        "rootfs": {
            "type": "overlay",
            "lower": [str(place / "layer")],
            "upper": str(place / "upper"),
            "work": str(place / "work"),
            "options": ["volatile"],
            "lock": None,
        },
    }
    (place / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-I", "-S", "-c", NATIVE, str(SOURCE / "src"), str(place / "job.json")]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout)
    cgroups.remove_parent(cgroups.detect(), parent)
    if steps:
        draw(found["steps"])
    milliseconds = [[ns / 1e6 for ns in column] for column in (*zip(*found["starts"], strict=True), found["execs"])]
    return dict(
        zip(("native start to execve", "native start to exit", "native exec to execve"), milliseconds, strict=True)
    )


def docker_spec() -> dict[str, Any]:
    """Docker's default container: every namespace its own, the three files of the engine bound in."""
    spec = make_spec("true")
    spec["hostname"] = "bench"
    shm = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=67108864"]}
    binds = [
        {"destination": f"/etc/{name}", "type": "bind", "source": f"/etc/{name}", "options": ["rbind", "rprivate"]}
        for name in ("hosts", "hostname", "resolv.conf")
    ]
    spec["mounts"] += [shm, *binds]
    spec["linux"]["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    }
    return spec


def docker_filter() -> dict[str, Any]:
    """Docker's default seccomp policy as it is for its default capabilities."""
    bounding = set(make_spec("true")["process"]["capabilities"]["bounding"])
    found = seccomp.resolve(seccomp.builtin(), bounding, seccomp.Host())
    assert found is not None
    return found


def commands(place: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds from the command's start to its end, `run` of the same bundle."""
    bundle = place / "bundle"
    bundle.mkdir()
    shutil.copytree(place / "layer", bundle / "rootfs", symlinks=True)
    spec = docker_spec()
    spec["ociVersion"] = "1.0.2"
    spec["root"] = {"path": "rootfs"}
    spec["process"]["user"] = {"uid": 0, "gid": 0}
    spec["linux"]["seccomp"] = docker_filter()
    (bundle / "config.json").write_text(json.dumps(spec))
    ours = [sys.executable, "-I", "-m", "boxwright.runtime.main", "--root", str(place / "state")]
    found: dict[str, list[float]] = {"boxwright-runtime run": []}
    peers = {"boxwright-runtime run": ours}
    for name in ("runc", "crun"):
        path = shutil.which(name)
        # crun refuses hosts with both versions of cgroups.
        if path and attempt([path, "--root", str(place / name)], bundle):
            peers[f"{name} run"] = [path, "--root", str(place / name)]
            found[f"{name} run"] = []
    for number in range(rounds):
        for name, command in peers.items():
            begin = time.monotonic_ns()
            subprocess.run(
                [*command, "run", "--bundle", str(bundle), f"bench{os.getpid()}-{number}"],
                check=True,
                stdin=subprocess.DEVNULL,
            )
            found[name].append((time.monotonic_ns() - begin) / 1e6)
    return found


def attempt(command: list[str], bundle: Path) -> bool:
    """Whether a peer can run the bundle at all."""
    words = [*command, "run", "--bundle", str(bundle), f"bench{os.getpid()}"]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def show(figures: dict[str, list[float]]) -> None:
    for name, values in figures.items():
        print(f"{name:28} {statistics.median(values):8.2f} ({min(values):.2f})")
    ours = {name: statistics.median(figures[name]) for name in figures if not name.startswith(("runc", "crun"))}
    for peer in ("runc run", "crun run"):
        for name in ("native start to exit", "boxwright-runtime run"):
            if peer in figures:
                print(f"{peer} / {name}: {statistics.median(figures[peer]) / ours[name]:.1f}")


def draw(steps: list[list[Any]]) -> None:
    """One line a step: when it began, how long it took, in microseconds."""
    first = min(step[1] for step in steps)
    for name, start, end, detail in sorted(steps, key=lambda step: step[1]):
        print(f"{(start - first) / 1e3:9.0f} {(end - start) / 1e3:7.0f} us  {name:12} {detail}")


if __name__ == "__main__":
    main()
