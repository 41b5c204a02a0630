"""Pulls from the registry of the tests: how they go, and what they leave."""

import base64
import contextlib
import json
import os
import random
from collections.abc import Iterator
from typing import Any

from support import images
from support.engine import Engine, wait_for
from support.hostile_registry import HostileRegistry

LARGE = images.layer([("large", random.Random(5).randbytes(3_000_000))])
SMALL = images.layer([("small", b"small\n")])


def pull(engine: Engine, registry: HostileRegistry, name: str, **fields: str) -> tuple[int, list[dict[str, Any]]]:
    """Status, and the messages of the stream (or the error's only one)."""
    who = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode() if fields else ""
    repository, _, tag = name.partition(":")
    path = f"/images/create?fromImage={registry.address}/{repository}&tag={tag}"
    answer = engine.api("POST", path, headers={"X-Registry-Auth": who} if who else {})
    return answer.status, [json.loads(line) for line in answer.raw.splitlines()]


def pulled(engine: Engine, registry: HostileRegistry, name: str, **fields: str) -> list[dict[str, Any]]:
    status, said = pull(engine, registry, name, **fields)
    assert status == 200 and said[-1].get("status", "").startswith("Status: "), said[-1]
    return said


def refused(engine: Engine, registry: HostileRegistry, name: str) -> str:
    """The text of a failed pull, which has left nothing."""
    before = residue(engine)
    status, said = pull(engine, registry, name)
    text: str = said[-1].get("error") or said[-1].get("message") or ""
    assert text, (status, said)
    wait_for(lambda: residue(engine) == before, f"nothing is left: {residue(engine)} instead of {before}")
    return text


def residue(engine: Engine) -> dict[str, Any]:
    return {
        # What goes is deleted by a thread, later.
        "tmp": [name for name in os.listdir(engine.data_root / "tmp") if not name.startswith("trash-")],
        "layers": sorted(os.listdir(engine.data_root / "snapshots" / "overlay")),
        "blobs": sorted(os.listdir(engine.data_root / "content" / "blobs" / "sha256")),
        "images": sorted(image["Id"] for image in engine.api("GET", "/images/json?all=1").json),
    }


@contextlib.contextmanager
def gone(engine: Engine, *names: str) -> Iterator[None]:
    try:
        yield
    finally:
        engine.ok("rmi", "-f", *names)
