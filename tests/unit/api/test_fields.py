"""No field of the API is ignored in silence: each is decided in docs/compatibility.md, and the decision holds.

The definition that is walked is Docker's own (newer than 1.51, so that a field which comes is seen to be undecided).
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.definition import load
from support.life import Life, lived

from boxwright import types
from boxwright.engine import settings
from boxwright.errdefs import Error
from boxwright.types import container as shapes
from boxwright.types.lenient import convert

ROOT = Path(__file__).parents[3]

MODELS: dict[str, type[types.Model]] = {
    "ContainerConfig": types.ContainerConfig,
    "HealthConfig": types.HealthConfig,
    "HostConfig": types.HostConfig,
    "RestartPolicy": shapes.RestartPolicy,
    "DeviceMapping": shapes.DeviceMapping,
    "DeviceRequest": shapes.DeviceRequest,
    "Mount": types.Mount,
    "NetworkingConfig": types.NetworkingConfig,
    "EndpointSettings": types.EndpointSettings,
    "EndpointIPAMConfig": types.EndpointIPAMConfig,
    "ExecConfig": types.ExecConfig,
    "ExecStartConfig": types.ExecStartConfig,
}
STATES = ("honoured", "refused", "discarded", "kept", "answer")
ROW = re.compile(rf"^\| (\w+) \| ({'|'.join(STATES)}) \| ([^|]*) \|", re.M)

# A value that asks for something, for the fields of the table's refused and discarded rows.
ASKING: dict[str, Any] = {
    "DeviceRequests": [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}],
    "Cgroup": "container:x",
    "CpuCount": 2,
    "StorageOpt": {"size": "1G"},
    "IOMaximumIOps": 5,
    "IOMaximumBandwidth": 5,
    "Isolation": "hyperv",
    "KernelMemoryTCP": 1 << 24,
    "KernelMemory": 1 << 24,
    "CpuPercent": 50,
    "Links": ["a:b"],
    "DriverOpts": {"a": "b"},
    "IPv4Address": "172.17.0.9",
    "IPv6Address": "fd00::9",
    "LinkLocalIPs": ["169.254.1.1"],
}
# Docker's words where they do not name the field as it is spelled.
WORDS = {
    "IOMaximumIOps": "maximum IOPs",
    "IOMaximumBandwidth": "maximum bandwidth",
    "KernelMemory": "kernel memory",
    "CpuPercent": "CPU percent",
    "IPv4Address": "user specified IP address",
    "IPv6Address": "user specified IP address",
}


definition = cache(load)


def properties(schema: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for part in schema.get("allOf", [schema]):
        if "$ref" in part:
            found |= properties(definition()["definitions"][part["$ref"].rpartition("/")[2]])
        else:
            found |= set(part.get("properties", {}))
    return found


def defined(name: str) -> set[str]:
    paths = {"ExecConfig": "/containers/{id}/exec", "ExecStartConfig": "/exec/{id}/start"}
    if name not in paths:
        return properties(definition()["definitions"][name])
    parameters = definition()["paths"][paths[name]]["post"]["parameters"]
    return properties(next(p["schema"] for p in parameters if p["in"] == "body"))


@cache
def table() -> dict[tuple[str, str], str]:
    """(object, field) → state, as docs/compatibility.md has it."""
    found: dict[tuple[str, str], str] = {}
    for name, state, fields in ROW.findall((ROOT / "docs" / "compatibility.md").read_text()):
        for field in re.findall(r"`(\w+)`", fields):
            assert (name, field) not in found, f"{name}.{field} has two states"
            found[name, field] = state
    return found


def fields_of(state: str) -> list[tuple[str, str]]:
    return [key for key, value in table().items() if value == state]


@cache
def read_attributes() -> set[str]:
    """Every attribute that the engine's code reads, and every field that it names in a string."""
    found: set[str] = set()
    for path in (ROOT / "src" / "boxwright").rglob("*.py"):
        if "types" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_every_field_of_the_definition_is_decided(name: str) -> None:
    assert {field for field in defined(name) if (name, field) not in table()} == set()


@pytest.mark.parametrize("name", MODELS)
def test_the_table_has_the_models_fields_and_no_others(name: str) -> None:
    assert {field for owner, field in table() if owner == name} == set(MODELS[name].__struct_encode_fields__)


def test_what_is_honoured_is_read() -> None:
    unread = []
    for name, field in fields_of("honoured"):
        model = MODELS[name]
        attribute = dict(zip(model.__struct_encode_fields__, model.__struct_fields__, strict=True))[field]
        if attribute not in read_attributes():
            unread.append(f"{name}.{field}")
    assert unread == []


def ask(life: Life, name: str, field: str) -> list[str]:
    """Verify a container whose only wish is `field`; returns the warnings."""
    body = {field: ASKING[field]}
    config, host_config = types.ContainerConfig(image="x"), types.HostConfig()
    if name == "ContainerConfig":
        config = convert({"Image": "x", **body}, types.ContainerConfig)
    elif name == "HostConfig":
        host_config = convert(body, types.HostConfig)
    else:
        endpoint = {"IPAMConfig": body} if name == "EndpointIPAMConfig" else body
        networking = convert({"EndpointsConfig": {"bridge": endpoint}}, types.NetworkingConfig)
        settings.verify_networking(networking)
    settings.adapt(life.eng, config, host_config)
    return settings.verify(life.eng, config, host_config)


def single(state: str) -> list[tuple[str, str]]:
    """Those of the top objects; a refused list (DeviceRequests) refuses what is in its items."""
    return [key for key in fields_of(state) if key[0] in ("ContainerConfig", "HostConfig", *ENDPOINT)]


ENDPOINT = ("EndpointSettings", "EndpointIPAMConfig")


@pytest.mark.parametrize(("name", "field"), single("refused"))
def test_what_is_refused_is_refused_by_name(tmp_path: Path, name: str, field: str) -> None:
    async def work(life: Life) -> None:
        with pytest.raises(Error) as refused:
            ask(life, name, field)
        assert WORDS.get(field, field).casefold() in str(refused.value).casefold()

    lived(tmp_path, work)


@pytest.mark.parametrize(("name", "field"), single("discarded"))
def test_what_is_discarded_is_told(tmp_path: Path, name: str, field: str) -> None:
    async def work(life: Life) -> None:
        assert any(WORDS.get(field, field) in warning for warning in ask(life, name, field))

    lived(tmp_path, work)
