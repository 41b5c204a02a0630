"""Docker's own definition of its API (Swagger 2.0), where it lies on this machine, and how its answers are read."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

# Pointers in dockerd: null until there is a value, whatever the definition says.
POINTERS = ("ExitCode", "MemorySwappiness")

PLACES = [parent / "shared" / "data" / "docker-engine-api.yaml" for parent in Path(__file__).parents]


def load() -> dict[str, Any]:
    """The definition; the test is skipped where it is not there."""
    found = next((place for place in PLACES if place.exists()), None)
    if found is None:
        pytest.skip("the API definition is not on this machine")
    loaded: dict[str, Any] = yaml.load(found.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


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
    if isinstance(made.get("required"), list) and isinstance(made.get("properties"), dict):
        # What is required and not described is an error of the definition (ImageData's UnpackedSize).
        made["required"] = [name for name in made["required"] if name in made["properties"]]
        if not made["required"]:
            del made["required"]
    if "$ref" in made and made.get("x-nullable"):
        return {"anyOf": [{"$ref": made["$ref"]}, {"type": "null"}]}
    return made


def check(api: dict[str, Any], path: str, method: str, status: int, body: Any) -> None:
    """Fail when the answer to an operation of `api` (a `strict` one) is not what it says for this status."""
    schema = api["paths"][path][method]["responses"][status]["schema"]
    validator = jsonschema.Draft4Validator({**schema, "definitions": api["definitions"]})
    errors = [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}"
        for e in validator.iter_errors(body)
        if not (e.instance is None and e.absolute_path and e.absolute_path[-1] in POINTERS)
    ]
    assert not errors, "\n".join(errors)
