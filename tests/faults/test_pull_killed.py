"""SIGKILL of the engine while it pulls and pushes: nothing is orphaned, and a second attempt succeeds."""

import asyncio
import http.client
import json
import random
import threading
from typing import Any

import pytest
from aiohttp import web
from faults.test_images_killed import KILLS, SEED, orphans
from support import images
from support.engine import Engine, wait_for
from support.hostile_registry import OCI_INDEX, HostileRegistry

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(300)]


class Work(threading.Thread):
    """Pulls, pushes and removes without an end, until the engine dies under it."""

    def __init__(self, engine: Engine, registry: HostileRegistry, dice: random.Random) -> None:
        super().__init__()
        self.engine, self.registry, self.dice = engine, registry, dice
        self.failed = ""

    def run(self) -> None:
        address = self.registry.address
        actions = [
            ("POST", f"/images/create?fromImage={address}/large&tag=1"),
            ("POST", f"/images/create?fromImage={address}/larger&tag=1"),
            ("POST", f"/images/create?fromImage={address}/large"),
            ("POST", f"/images/{address}/large/push?tag=1"),
            ("DELETE", f"/images/{address}/large:1?force=1"),
            ("DELETE", f"/images/{address}/larger:1?force=1"),
        ]
        try:
            while True:
                method, path = self.dice.choice(actions)
                answer = self.engine.api(method, path, headers={"X-Registry-Auth": "e30="})
                if answer.status >= 500 or (b'"error"' in answer.raw and b"does not exist" not in answer.raw):
                    self.failed = f"{method} {path}: {answer.status} {answer.raw[-500:]!r} (seed {SEED})"
                    return
        except (OSError, http.client.HTTPException):
            return  # killed


def test_engine_killed_while_it_pulls_and_pushes(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nfault seed {SEED} (repeat with BOXWRIGHT_FAULT_SEED={SEED})")
    dice = random.Random(SEED)
    layers = [images.layer([(f"f{n}", dice.randbytes(size))]) for n, size in enumerate((2_000_000, 300, 700_000))]
    with HostileRegistry() as registry:

        async def slowly(request: web.Request) -> web.StreamResponse | None:
            if "/blobs/sha256" in request.path:
                await asyncio.sleep(dice.uniform(0.0, 0.02))
            return None

        registry.hook = slowly
        registry.image("large", "1", layers)
        made = registry.image("larger", "1", [*layers, images.layer([("top", b"top")])])
        about = {
            "schemaVersion": 2,
            "subject": {"digest": made},
            "layers": [{"digest": registry.blob(b"s"), "size": 1}],
        }
        entries = [{"digest": registry.manifest("larger", "s", about, OCI_MANIFEST), "size": 1}]
        registry.manifest("larger", made.replace(":", "-"), {"schemaVersion": 2, "manifests": entries}, OCI_INDEX)
        for _ in range(KILLS):
            work = [Work(engine, registry, random.Random(dice.random())) for _ in range(3)]
            for thread in work:
                thread.start()
            threading.Event().wait(dice.uniform(0.0, 0.3))
            engine.kill()
            for thread in work:
                thread.join(60)
                assert not thread.failed, thread.failed
            engine.start()
            wait_for(lambda: not any(orphans(engine).values()), f"nothing is orphaned: {orphans(engine)} (seed {SEED})")
        for name in ("large", "larger"):
            answer = engine.api("POST", f"/images/create?fromImage={registry.address}/{name}&tag=1")
            said: list[dict[str, Any]] = [json.loads(line) for line in answer.raw.splitlines()]
            assert said[-1]["status"].startswith("Status: "), said[-1]
            engine.ok("push", f"{registry.address}/{name}:1")
            engine.ok("rmi", f"{registry.address}/{name}:1")
