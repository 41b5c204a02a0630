"""Requests made up from Docker's definition of its API, good and bad, against a real engine.

Nothing may end in a 5xx of our making or hang, and a request that is refused changes nothing.  A small part runs with
the other tests, `make fuzz` runs BOXWRIGHT_FUZZ=5000 cases; the seed is printed with a failure and repeats it as
BOXWRIGHT_FUZZ_SEED.
"""

import json
import os
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from support import definition
from support.engine import Engine, UnixConnection
from support.furniture import clear, desired, furnish

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(3000)]

CASES = int(os.environ.get("BOXWRIGHT_FUZZ", "250"))
SEED = int(os.environ.get("BOXWRIGHT_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
TIMEOUT = 60.0  # seconds in which the head of an answer has to be there

# 501: refused by name.  503: swarm's, as an engine outside of one answers.
ALLOWED = {501, 503}
# What takes other people's networks or registries to answer.
LEFT_OUT = ("/images/search", "/distribution", "/auth", "/plugins/pull", "/plugins/privileges")
NOWHERE = "127.0.0.1:1"  # refuses the connection
# What is to be fetched is never a made-up name, which would be looked up; and a stop without end, or of 2^63 seconds,
# waits so long: that is what was asked for.
SOURCES = (
    "-",
    "",
    f"http://{NOWHERE}/a.tar",
    f"{NOWHERE}/a",
    "ftp://a/b",
    "http://",
    "http://[",
    "\u00e9://a",
    "a b\n",
)
BOUNDED = {"t": (0, 1, "x", ""), "fromSrc": SOURCES, "remote": SOURCES}
WORDS = ("true", "busybox", "box", "idle", "x", "", "0", "-1", "no", "none", "default", "TERM", "1.5", "a=b", "a:b")
ODD = (
    "\u00e9",
    "%",
    "..",
    "a/b",
    " ",
    "\n",
    "💥",
    "x" * 300,
    "{}",
    "[]",
    '{"label":["a"]}',
    '{"a":1}',
    "nul\x00",
    "\ud800",
)
NUMBERS = (0, 1, -1, 2, 10, 65535, 65536, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30)


class Maker:
    """Values for a schema: mostly of its type, sometimes of another."""

    def __init__(self, definitions: dict[str, Any], chance: random.Random) -> None:
        self.definitions, self.chance = definitions, chance

    def value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        if self.chance.random() < 0.06:
            return self.chance.choice([None, True, 3, -1.5, "x", [], {}, [None], {"a": None}])
        if "$ref" in schema:
            return self.value(self.definitions[schema["$ref"].rpartition("/")[2]], depth)
        if "allOf" in schema:
            parts = [self.value(part, depth) for part in schema["allOf"]]
            return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}
        if "enum" in schema and self.chance.random() < 0.7:
            return self.chance.choice(schema["enum"])
        kind = schema.get("type", "object")
        return getattr(self, f"_{kind}", self._string)(schema, depth)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        if depth > 4:
            return {}
        few = 0.5 if depth == 0 else 0.25
        made = {k: self.value(v, depth + 1) for k, v in schema.get("properties", {}).items() if self.maybe(few / 3)}
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            made |= {self._string({}, 0): self.value(more, depth + 1) for _ in range(self.chance.randrange(3))}
        return made

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        return [self.value(schema.get("items", {}), depth + 1) for _ in range(self.chance.randrange(3))]

    def _integer(self, schema: dict[str, Any], depth: int) -> int:
        return self.chance.choice(NUMBERS)

    _number = _integer

    def _boolean(self, schema: dict[str, Any], depth: int) -> bool:
        return self.maybe(0.5)

    def _string(self, schema: dict[str, Any], depth: int) -> str:
        return self.chance.choice(ODD if self.maybe(0.2) else WORDS)

    def maybe(self, chance: float) -> bool:
        return self.chance.random() < chance


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return definition.load()


def operations(api: dict[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    return [
        (method.upper(), path, [*item.get("parameters", []), *operation.get("parameters", [])])
        for path, item in api["paths"].items()
        if not path.startswith(LEFT_OUT)
        for method, operation in item.items()
        if method != "parameters"
    ]


def request(
    maker: Maker, method: str, path: str, parameters: list[dict[str, Any]]
) -> tuple[str, str, bytes | None, dict[str, str]]:
    """(method, target, body, headers) of one case."""
    query, body, headers = [], None, {}
    for parameter in parameters:
        name, place = parameter["name"], parameter["in"]
        if place == "path":
            text = maker._string({}, 0) or "x"
            path = path.replace("{" + name + "}", quote(text.encode("utf-8", "surrogatepass"), safe=""))
        elif place == "query" and maker.maybe(0.5):
            value = maker.chance.choice(BOUNDED[name]) if name in BOUNDED else maker.value(parameter)
            text = value if isinstance(value, str) else json.dumps(value)
            query.append(f"{quote(name)}={quote(text.encode('utf-8', 'surrogatepass'))}")
        elif place == "body" and maker.maybe(0.9):
            body = json.dumps(maker.value(parameter.get("schema", {}))).encode()
            headers["Content-Type"] = "application/json"
    return method, path + ("?" + "&".join(query) if query else ""), body, headers


def send(engine: Engine, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and answer; a stream that follows is left by closing."""
    connection = UnixConnection(engine.socket, TIMEOUT)
    try:
        connection.request(method, engine.version + target, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read() if answer.getheader("Content-Length") else b""
    finally:
        connection.close()


def test_made_up_requests(engine: Engine, api: dict[str, Any], say: Callable[[str], None]) -> None:
    say(f"BOXWRIGHT_FUZZ_SEED={SEED} ({CASES} cases)")
    chance = random.Random(SEED)
    maker = Maker(api["definitions"], chance)
    known = operations(api)
    furnish(engine)
    before = desired(engine)
    for number in range(CASES):
        case = request(maker, *chance.choice(known))
        told = f"case {number} of seed {SEED}: {case}"
        say(told)
        status, answer = send(engine, *case)
        # A pull or a download: whether the other side is reached is not ours.
        elsewhere = b"registry-1.docker.io" in answer or NOWHERE.encode() in answer
        assert status < 500 or status in ALLOWED or elsewhere, f"{status}: {told}\n{engine.log.read_text()[-3000:]}"
        assert engine.process
        assert engine.process.poll() is None, told
        if status >= 400:
            assert desired(engine) == before, told
        elif case[0] != "GET" or number % 50 == 0:
            if number % 20 == 0:
                clear(engine)
            furnish(engine)
            before = desired(engine)
    clear(engine)


@pytest.fixture
def say() -> Callable[[str], None]:
    """Printed by pytest with a failure."""

    def told(text: str) -> None:
        print(text[:2000])

    return told
