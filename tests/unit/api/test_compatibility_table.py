"""docs/compatibility.md says of every endpoint what the router does with it."""

import re
from pathlib import Path

import pytest

from boxwright.api.routes import every_route
from boxwright.api.routes.unsupported import LATER

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"
DEFINITION = Path(__file__).parents[4] / "shared" / "data" / "docker-engine-api.yaml"
ROW = re.compile(r"^\| `(GET|HEAD|POST|PUT|DELETE) (/[^`]*)` \| (works|partly|not yet|never) \|", re.M)
# One row for a family of endpoints that are answered alike.
FAMILIES = ("/plugins", "/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")


def shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def table() -> dict[str, str]:
    return {f"{method} {shape(path)}": state for method, path, state in ROW.findall(PAGE.read_text())}


def test_every_route_has_a_row() -> None:
    routed = {
        f"{route.method} {shape(route.pattern)}" for route in every_route() if not route.pattern.startswith(FAMILIES)
    }
    assert routed - set(table()) == set()


def test_what_is_refused_is_not_called_working() -> None:
    refused = {shape(endpoint) for endpoints in LATER.values() for endpoint in endpoints}
    rows = table()
    assert {e for e in refused if rows.get(e, "not yet") != "not yet"} == set()


def test_every_endpoint_of_the_definition_has_a_row() -> None:
    if not DEFINITION.exists():
        pytest.skip("the API definition is not on this machine")
    path, defined = "", set()
    for line in DEFINITION.read_text().splitlines():
        if found := re.match(r"  (/\S+):$", line):
            path = found[1]
        elif line and not line.startswith(" "):
            path = ""
        elif path and (verb := re.match(r"    (get|head|post|put|delete):$", line)) and not path.startswith(FAMILIES):
            defined.add(f"{verb[1].upper()} {shape(path)}")
    assert len(defined) > 60
    assert defined - set(table()) == set()
