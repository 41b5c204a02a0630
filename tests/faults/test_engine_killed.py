"""SIGKILL of the engine, its launchers and shims at seeded random instants under a mixed load (`support/load.py`):
nothing is lost, nothing is left, and what broke off can be had by a second attempt."""

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import below
from support.engine import Engine, wait_for
from support.load import SEED, Load, Mortal, Worker

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("BOXWRIGHT_FAULT_KILLS", "50"))
WORKERS = 20


@pytest.fixture(scope="module")
def own(nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine().start().load()
    yield made
    made.close()


def residue(engine: Engine) -> dict[str, Any]:
    """What there is in the engine's books and directories, of its processes (and so of network namespaces), and in the
    kernel; compared before and after, when no container is."""
    return {
        "containers": engine.api("GET", "/containers/json?all=1").json,
        "endpoints": engine.api("GET", "/networks/bridge").json["Containers"],
        "container directories": os.listdir(engine.data_root / "containers"),
        "shims": os.listdir(engine.exec_root / "shims"),
        "volumes": engine.api("GET", "/volumes").json["Volumes"] or [],
        "images": [image for image in engine.api("GET", "/images/json").json if "i-" in str(image["RepoTags"])],
        "snapshots": sorted(path.name for path in (engine.data_root / "snapshots").glob("*/*")),
        "cgroups": sorted(below.groups(engine)),
        "mounts": below.mounts(engine),
        "links": below.bridge_ports(engine),
        "addresses and ports": below.addresses(engine),
        "firewall elements": below.elements(engine),
        "processes": below.surplus(engine),
    }


def kill_while(engine: Engine, clients: type[Worker], kill: Callable[[Load, random.Random], None], kills: int) -> None:
    """`kills` times `kill`, at instants of the seed, while the clients give whole lives; then nothing may be left."""
    load, chance, before = Load(engine), random.Random(SEED), residue(engine)
    workers = [clients(load, number) for number in range(1, WORKERS + 1)]
    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(worker.run) for worker in workers]
        try:
            for _ in range(kills):
                load.over.wait(chance.uniform(0.005, 0.6))
                if any(future.done() for future in running):
                    break
                kill(load, chance)
        finally:
            load.over.set()
        for future in running:
            future.result(180)
    assert sum(len(worker.done) for worker in workers) >= WORKERS
    # A commit that is repeated, because nobody heard of its end, takes the name from its first image.
    assert engine.api("POST", "/images/prune").status == 200
    try:
        wait_for(lambda: residue(engine) == before, "nothing is left")
    except AssertionError:
        left = json.dumps({kind: what for kind, what in residue(engine).items() if what != before[kind]}, default=str)
        raise AssertionError(f"left behind (seed {SEED}): {left[:2000]}") from None


def hit(load: Load, *names: str, chance: random.Random) -> None:
    """SIGKILL to one of the processes of these names, if there is one; counted before it and when it is dead."""
    if found := sorted(below.named(load.engine, *names)):
        victim = chance.choice(found)
        load.hit += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: below.dead(victim), "it is dead")
        load.hit += 1


def engine_or_launcher(load: Load, chance: random.Random) -> None:
    """Not the waiting shim: between the look and the kill it may have become that of a container."""
    if chance.randrange(5):
        load.kill_engine()
    else:
        hit(load, *below.LAUNCHERS, chance=chance)


def any_of_them(load: Load, chance: random.Random) -> None:
    match chance.randrange(6):
        case 0:
            load.kill_engine()
        case 1:
            hit(load, *below.LAUNCHERS, below.WAITING_SHIM, chance=chance)
        case _:
            hit(load, below.SHIM, chance=chance)


def test_engine_and_launchers_killed_at_random_instants(own: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nfault seed {SEED} (repeat with BOXWRIGHT_FAULT_SEED={SEED})")
    kill_while(own, Worker, engine_or_launcher, KILLS * 4 // 5)


def test_shims_killed_at_random_instants(own: Engine) -> None:
    kill_while(own, Mortal, any_of_them, KILLS // 5)
