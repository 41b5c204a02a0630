"""Answers of a real engine against Docker's own definition of its API."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from support import definition
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return definition.strict(definition.load())


@pytest.fixture(scope="module")
def running(engine: Engine) -> Iterator[str]:
    options = ("-p", "127.0.0.1::80", "-v", "defined:/data", "--health-cmd", "true", "--label", "a=b", "-m", "64m")
    name = engine.ok("run", "-d", "--name", "defined", "--restart", "always", *options, "busybox", "sleep", "1000")
    yield name
    engine.ok("rm", "-fv", name)
    engine.ok("volume", "rm", "defined")


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
    definition.check(api, path, "get", 200, answer.json)


def test_what_is_made_and_changed(engine: Engine, api: dict[str, Any], running: str) -> None:
    made = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
    definition.check(api, "/containers/create", "post", 201, made.json)
    id = made.json["Id"]
    try:
        updated = engine.api("POST", f"/containers/{id}/update", {"CpuShares": 512})
        definition.check(api, "/containers/{id}/update", "post", 200, updated.json)
        engine.ok("start", id)
        definition.check(api, "/containers/{id}/wait", "post", 200, engine.api("POST", f"/containers/{id}/wait").json)
        definition.check(api, "/containers/{id}/json", "get", 200, engine.inspect(id))
    finally:
        engine.ok("rm", "-f", id)
    definition.check(api, "/containers/{id}/json", "get", 404, engine.api("GET", f"/containers/{id}/json").json)


def test_execs(engine: Engine, api: dict[str, Any], running: str) -> None:
    made = engine.api("POST", f"/containers/{running}/exec", {"Cmd": ["false"], "AttachStdout": True})
    definition.check(api, "/containers/{id}/exec", "post", 201, made.json)
    before = engine.api("GET", f"/exec/{made.json['Id']}/json").json
    definition.check(api, "/exec/{id}/json", "get", 200, before)
    assert (before["Running"], before["ExitCode"], before["Pid"]) == (False, None, 0)
    assert engine.docker("exec", running, "false").code == 1


def test_events(engine: Engine, api: dict[str, Any], running: str) -> None:
    until = f"{time.time():.9f}"  # docker makes whole seconds of a time span: the second that runs would be missing
    lines = engine.ok("events", "--since", "0", "--until", until, "--format", "{{json .}}").splitlines()
    schema = {**api["definitions"]["EventMessage"], "definitions": api["definitions"]}
    assert lines
    for line in lines:
        jsonschema.Draft4Validator(schema).validate(json.loads(line))
