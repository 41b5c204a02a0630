"""Answers of a real engine against Docker's own definition of its API."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]

# Pointers in dockerd: null until there is a value, whatever the definition says.
POINTERS = ("ExitCode", "MemorySwappiness")

PLACES = [parent / "shared" / "data" / "docker-engine-api.yaml" for parent in Path(__file__).parents]


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    found = next((place for place in PLACES if place.exists()), None)
    if found is None:
        pytest.skip("the API definition is not on this machine")
    loaded: dict[str, Any] = yaml.load(found.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return strict(loaded)


def strict(node: Any) -> Any:
    """Swagger 2.0 as a JSON schema: `x-nullable`, and Go's null for an empty list or map."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: strict(value) for key, value in node.items() if key != "example"}
    kind = made.get("type")
    if isinstance(kind, str) and (made.get("x-nullable") or kind in ("array", "object")):
        made["type"] = [kind, "null"]
        if isinstance(made.get("enum"), list):
            made["enum"] = [*made["enum"], None]
    if "$ref" in made and made.get("x-nullable"):
        return {"anyOf": [{"$ref": made["$ref"]}, {"type": "null"}]}
    return made


@pytest.fixture(scope="module")
def running(engine: Engine) -> Iterator[str]:
    options = ("-p", "127.0.0.1::80", "-v", "defined:/data", "--health-cmd", "true", "--label", "a=b", "-m", "64m")
    name = engine.ok("run", "-d", "--name", "defined", "--restart", "always", *options, "busybox", "sleep", "1000")
    yield name
    engine.ok("rm", "-fv", name)
    engine.ok("volume", "rm", "defined")


def check(api: dict[str, Any], path: str, method: str, status: int, body: Any) -> None:
    schema = api["paths"][path][method]["responses"][status]["schema"]
    validator = jsonschema.Draft4Validator({**schema, "definitions": api["definitions"]})
    errors = [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}"
        for e in validator.iter_errors(body)
        if not (e.instance is None and e.absolute_path and e.absolute_path[-1] in POINTERS)
    ]
    assert errors == []


GETS = [
    ("/version", ""),
    ("/info", ""),
    ("/containers/json", "?all=1&size=1"),
    ("/containers/{id}/json", "?size=1"),
    ("/containers/{id}/top", ""),
    ("/containers/{id}/stats", "?stream=false"),
    ("/images/json", ""),
    ("/images/{name}/json", ""),
    ("/images/{name}/history", ""),
    ("/volumes", ""),
    ("/volumes/{name}", ""),
    ("/networks", ""),
    ("/networks/{id}", ""),
]


@pytest.mark.parametrize(("path", "query"), GETS)
def test_what_is_read(engine: Engine, api: dict[str, Any], running: str, path: str, query: str) -> None:
    names = {"/images": "busybox", "/volumes": "defined", "/networks": "bridge"}
    name = next((value for prefix, value in names.items() if path.startswith(prefix)), running)
    answer = engine.api("GET", path.replace("{id}", name).replace("{name}", name) + query)
    assert answer.status == 200
    check(api, path, "get", 200, answer.json)


def test_what_is_made_and_changed(engine: Engine, api: dict[str, Any], running: str) -> None:
    made = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
    check(api, "/containers/create", "post", 201, made.json)
    id = made.json["Id"]
    try:
        updated = engine.api("POST", f"/containers/{id}/update", {"CpuShares": 512})
        check(api, "/containers/{id}/update", "post", 200, updated.json)
        engine.ok("start", id)
        check(api, "/containers/{id}/wait", "post", 200, engine.api("POST", f"/containers/{id}/wait").json)
        check(api, "/containers/{id}/json", "get", 200, engine.inspect(id))
    finally:
        engine.ok("rm", "-f", id)
    check(api, "/containers/{id}/json", "get", 404, engine.api("GET", f"/containers/{id}/json").json)


def test_execs(engine: Engine, api: dict[str, Any], running: str) -> None:
    made = engine.api("POST", f"/containers/{running}/exec", {"Cmd": ["false"], "AttachStdout": True})
    check(api, "/containers/{id}/exec", "post", 201, made.json)
    before = engine.api("GET", f"/exec/{made.json['Id']}/json").json
    check(api, "/exec/{id}/json", "get", 200, before)
    assert (before["Running"], before["ExitCode"], before["Pid"]) == (False, None, 0)
    assert engine.docker("exec", running, "false").code == 1


def test_events(engine: Engine, api: dict[str, Any], running: str) -> None:
    until = f"{time.time():.9f}"  # docker makes whole seconds of a time span: the second that runs would be missing
    lines = engine.ok("events", "--since", "0", "--until", until, "--format", "{{json .}}").splitlines()
    schema = {**api["definitions"]["EventMessage"], "definitions": api["definitions"]}
    assert lines
    for line in lines:
        jsonschema.Draft4Validator(schema).validate(json.loads(line))
