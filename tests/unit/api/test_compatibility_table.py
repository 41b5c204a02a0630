"""docs/compatibility.md has every endpoint; tests/clients/test_compatibility.py asks an engine whether it is true."""

from support import definition
from support.compatibility import endpoints, shape

from boxwright.api.routes import every_route
from boxwright.api.routes.unsupported import LATER


def table() -> dict[str, str]:
    return {shape(endpoint): state for endpoint, state in endpoints().items()}


def test_every_route_has_a_row() -> None:
    routed = {f"{route.method} {shape(route.pattern)}" for route in every_route()}
    assert routed - set(table()) == set()


def test_every_row_has_a_route() -> None:
    routed = {f"{route.method} {shape(route.pattern)}" for route in every_route()}
    assert set(table()) - routed == set()


def test_what_is_refused_is_not_called_working() -> None:
    refused = {shape(endpoint) for endpoints in LATER.values() for endpoint in endpoints}
    rows = table()
    assert {e for e in refused if rows.get(e, "not yet") != "not yet"} == set()


def test_every_endpoint_of_the_definition_has_a_row() -> None:
    defined = {
        f"{method.upper()} {shape(path)}"
        for path, item in definition.load()["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert len(defined) > 100
    assert defined - set(table()) == set()
