"""Many clients do everything to the same few containers at once: only answers that dockerd could give, no fault of the
engine, no verb that hangs, and nothing left."""

import http.client
import json
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(300)]

SEED = int(os.environ.get("BOXWRIGHT_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
CLIENTS, ROUNDS = 12, 40
NAMES = ("ones", "twos", "threes")
PROGRAMS = ("sleep 100", "exit 3", "sleep 0.05; exit 4", "trap 'exit 0' TERM; while :; do sleep 0.01; done")
# verb → (method, path, answers that are right whatever the others do)
VERBS = {
    "start": ("POST", "/containers/{}/start", {204, 304, 404, 409}),
    "stop": ("POST", "/containers/{}/stop?t=0", {204, 304, 404, 409}),
    "kill": ("POST", "/containers/{}/kill", {204, 404, 409}),
    "term": ("POST", "/containers/{}/kill?signal=TERM", {204, 404, 409}),
    "restart": ("POST", "/containers/{}/restart?t=0", {204, 404, 409}),
    "pause": ("POST", "/containers/{}/pause", {204, 404, 409}),
    "unpause": ("POST", "/containers/{}/unpause", {204, 404, 409}),
    "remove": ("DELETE", "/containers/{}?force=1&v=1", {204, 404, 409}),
    "gentle": ("DELETE", "/containers/{}", {204, 404, 409}),
    "inspect": ("GET", "/containers/{}/json", {200, 404}),
    "top": ("GET", "/containers/{}/top", {200, 404, 409}),
    "logs": ("GET", "/containers/{}/logs?stdout=1&follow=0", {200, 404}),
    "list": ("GET", "/containers/json?all=1", {200}),
    "resize": ("POST", "/containers/{}/resize?h=10&w=10", {200, 404, 409}),
}


@pytest.mark.parametrize("policy", ["no", "always", "auto-remove"])
def test_verbs_against_each_other(engine: Engine, policy: str) -> None:
    answers: Counter[tuple[str, int]] = Counter()

    def create(name: str, chance: random.Random) -> None:
        host_config = {"AutoRemove": True} if policy == "auto-remove" else {"RestartPolicy": {"Name": policy}}
        body = {"Image": "busybox", "Cmd": ["sh", "-c", chance.choice(PROGRAMS)], "HostConfig": host_config}
        answer = engine.api("POST", f"/containers/create?name={name}", body)
        assert answer.status in (201, 409), answer.raw
        answers["create", answer.status] += 1

    def execute(name: str) -> None:
        made = engine.api("POST", f"/containers/{name}/exec", {"Cmd": ["sh", "-c", "echo hi"], "AttachStdout": True})
        assert made.status in (201, 404, 409), made.raw
        if made.status == 201:
            ran = engine.api("POST", f"/exec/{made.json['Id']}/start", {"Detach": False})
            assert ran.status in (200, 404, 409), ran.raw
            answers["exec", ran.status] += 1

    def client(number: int) -> None:
        chance = random.Random(f"{SEED}/{policy}/{number}")
        for _ in range(ROUNDS):
            name, verb = chance.choice(NAMES), chance.choice([*VERBS, "create", "create", "start", "exec"])
            if verb == "create":
                create(name, chance)
            elif verb == "exec":
                execute(name)
            else:
                method, path, right = VERBS[verb]
                try:
                    answer = engine.api(method, path.format(quote(name)), timeout=60)
                except http.client.HTTPException as error:
                    raise AssertionError(f"{verb} {name}: {error!r} (seed {SEED})") from error
                assert answer.status in right, f"{verb} {name}: {answer.status} {answer.raw!r} (seed {SEED})"
                answers[verb, answer.status] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client, number) for number in range(CLIENTS)]:
            done.result(200)
    for name in NAMES:
        assert engine.api("DELETE", f"/containers/{name}?force=1&v=1", timeout=60).status in (204, 404, 409)
    wait_for(lambda: engine.api("GET", "/containers/json?all=1").json == [], "every container can be removed")
    assert sum(count for (verb, status), count in answers.items() if verb == "start" and status == 204), answers
    assert engine.api("GET", "/networks/bridge").json["Containers"] == {}
    assert os.listdir(engine.exec_root / "shims") == [] and os.listdir(engine.data_root / "containers") == []
    assert "Traceback" not in engine.log.read_text(), engine.log.read_text()[-4000:]
    assert json.dumps(engine.api("GET", "/info").json["Containers"]) == "0"
