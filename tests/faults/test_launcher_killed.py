"""SIGKILL of the launcher at seeded random instants while containers start, exec and end: what runs goes on, a start
either happens or says why, and nothing is left."""

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(300)]

SEED = int(os.environ.get("BOXWRIGHT_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
KILLS, WORKERS = 30, 8


def launchers(engine: Engine) -> list[int]:
    """Launchers of this engine: a shim has the same command line, but another name."""
    found = []
    for name in os.listdir("/proc"):
        try:
            named = name.isdigit() and Path(f"/proc/{name}/comm").read_text().startswith("bw-launch-shim")
            if named and str(engine.exec_root) in Path(f"/proc/{name}/cmdline").read_text():
                found.append(int(name))
        except OSError:
            continue
    return found


def test_launcher_killed_at_random_instants(engine: Engine) -> None:
    engine.ok(
        "run",
        "-d",
        "--name",
        "witness",
        "busybox",
        "sh",
        "-c",
        "i=0; while :; do echo $i; i=$((i+1)); usleep 9999; done",
    )
    witness = engine.inspect("witness")["State"]["Pid"]
    over = threading.Event()
    started, refused = [], []

    def worker(number: int) -> None:
        life = 0
        while not over.is_set():
            life += 1
            name = f"l{number}-{life}"
            body = {"Image": "busybox", "Cmd": ["sh", "-c", f"echo {name}; exit {number}"]}
            assert engine.api("POST", f"/containers/create?name={name}", body).status == 201
            answer = engine.api("POST", f"/containers/{name}/start")
            if answer.status == 204:
                started.append(name)
                ended = engine.api("POST", f"/containers/{name}/wait").json
                assert ended["StatusCode"] == number, f"{name}: {ended} (seed {SEED})"
                assert engine.api("GET", f"/containers/{name}/logs?stdout=1").raw[8:] == f"{name}\n".encode()
            else:
                assert answer.status == 500 and answer.message, f"{name}: {answer.raw!r} (seed {SEED})"
                assert engine.inspect(name)["State"]["Status"] == "created"
                refused.append(name)
            assert engine.api("DELETE", f"/containers/{name}").status == 204

    chance = random.Random(SEED)
    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(worker, number) for number in range(1, WORKERS + 1)]
        try:
            for _ in range(KILLS):
                over.wait(chance.uniform(0.005, 0.3))
                if any(future.done() for future in running):
                    break
                for pid in launchers(engine):
                    os.kill(pid, signal.SIGKILL)
        finally:
            over.set()
        for future in running:
            future.result(60)
    assert len(started) >= WORKERS, f"{len(started)} started, {len(refused)} refused (seed {SEED})"
    assert engine.inspect("witness")["State"]["Pid"] == witness
    assert engine.ok("exec", "witness", "echo", "hi") == "hi"
    engine.ok("rm", "-f", "witness")
    wait_for(lambda: os.listdir(engine.exec_root / "shims") == [], "no shim is left")
    assert engine.api("GET", "/networks/bridge").json["Containers"] == {}
    instance = (engine.data_root / "instance").read_text().split()[0]
    groups = [path for path in Path("/sys/fs/cgroup").glob(f"*/boxwright-{instance}/*") if path.is_dir()]
    left = [path for path in groups if not path.name.startswith("spare-")]  # the waiting shim's
    assert left == []
