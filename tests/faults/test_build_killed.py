"""SIGKILL of the engine while it builds, also from a Git repository: no container, context or layer is left of a build, and
a second attempt succeeds."""

import http.client
import json
import random
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from faults.test_images_killed import KILLS, SEED, orphans
from support import builds, repositories
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(300)]

TEXT = """FROM busybox AS one
RUN --mount=type=cache,target=/c echo {n} >> /c/f; head -c 300000 /dev/urandom > /one
FROM busybox AS two
COPY data /two
RUN rm /two; echo {n} > /three
FROM busybox
COPY --from=one /one /
COPY --from=two /three /
ENV N={n}
"""


class Work(threading.Thread):
    """Builds without an end, until the engine dies under it."""

    def __init__(self, engine: Engine, dice: random.Random, remote: str) -> None:
        super().__init__()
        self.engine, self.dice, self.remote = engine, dice, remote
        self.failed = ""

    def run(self) -> None:
        try:
            while not self.failed:
                self.failed = problem(self.engine, self.dice, self.remote)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return  # killed


def problem(engine: Engine, dice: random.Random, remote: str) -> str:
    """One build; why it failed, "" when it did not."""
    query = f"/build?t=killed:{dice.randrange(3)}"
    if dice.random() < 0.3:
        answer = engine.api("POST", f"{query}&remote={quote(remote, safe='')}", b"")
    else:
        context = builds.archive({"data": dice.randbytes(200_000)}, TEXT.format(n=dice.randrange(5)))
        answer = engine.api("POST", query, context, {"Content-Type": "application/x-tar"})
    messages: list[dict[str, Any]] = [json.loads(line) for line in answer.raw.splitlines()]
    errors = [message["error"] for message in messages if "error" in message]
    if answer.status != 200 or errors:
        return f"{answer.status} {errors or answer.raw[-500:]!r} (seed {SEED})"
    return "" if "Successfully tagged" in messages[-1]["stream"] else f"no end: {messages[-1]} (seed {SEED})"


def test_engine_killed_while_it_builds(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nfault seed {SEED} (repeat with BOXWRIGHT_FAULT_SEED={SEED})")
    dice = random.Random(SEED)
    path = repositories.make(tmp_path / "served" / "app.git")
    repositories.commit(path, {"Dockerfile": "FROM busybox\nCOPY . /x\nRUN cat /x/f > /y\n", "f": "f"})
    engine.ok("run", "-d", "--name", "bystander", "busybox", "sleep", "100000")
    pid = engine.inspect("bystander")["State"]["Pid"]
    with repositories.served(path.parent) as server:
        remote = f"{server.url}/app.git"
        for _ in range(KILLS):
            work = [Work(engine, random.Random(dice.random()), remote) for _ in range(2)]
            for thread in work:
                thread.start()
            threading.Event().wait(dice.uniform(0.0, 1.0))
            engine.kill()
            for thread in work:
                thread.join(60)
                assert not thread.failed, thread.failed
            engine.start()
            wait_for(lambda: len(engine.ok("ps", "-aq").split()) == 1, f"no container is left of a build (seed {SEED})")
            wait_for(lambda: not any(orphans(engine).values()), f"nothing is orphaned: {orphans(engine)} (seed {SEED})")
            assert engine.inspect("bystander")["State"]["Pid"] == pid
        for _ in range(6):
            assert not problem(engine, dice, remote)
    engine.ok("rm", "-f", "bystander")
