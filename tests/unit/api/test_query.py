"""Query parameters and paths, as dockerd reads them."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.api.query import Query
from boxwright.api.router import Route, Router, decode_path
from boxwright.api.versions import split
from boxwright.errdefs import InvalidParameter, NotFound


def test_first_value_counts() -> None:
    query = Query("a=1&a=2&b=&c=x+y%20z")
    assert (query.text("a"), query.all("a"), query.text("b"), query.text("c")) == ("1", ["1", "2"], "", "x y z")
    assert "b" in query
    assert query.text("d", "default") == "default"


def test_flag_defaults() -> None:
    assert Query("").flag("quiet", True) is True
    assert Query("quiet=").flag("quiet", True) is False
    assert Query("quiet=0").flag("quiet", True) is False


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("0", 0), ("-1", -1), ("+5", 5), ("9223372036854775807", 2**63 - 1)]
)
def test_integers(text: str, value: int | None) -> None:
    assert Query(f"n={quote(text)}").integer("n") == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x", 'strconv.Atoi: parsing "x": invalid syntax'),
        ("1 ", 'strconv.Atoi: parsing "1 ": invalid syntax'),
        ("1_0", 'strconv.Atoi: parsing "1_0": invalid syntax'),
        ("٣", 'strconv.Atoi: parsing "٣": invalid syntax'),
        ("9223372036854775808", 'strconv.Atoi: parsing "9223372036854775808": value out of range'),
    ],
)
def test_not_integers(text: str, error: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Query(f"n={quote(text)}").integer("n")
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("", None),
        ("0", 0),
        ("1690000000", 1690000000 * 10**9),
        ("1690000000.5", 1690000000500000000),
        ("1690000000.123456789", 1690000000123456789),
        ("1690000000.", 1690000000 * 10**9),
        ("1.0000000019", 1000000001),
    ],
)
def test_times(text: str, ns: int | None) -> None:
    assert Query(f"since={text}").time_ns("since") == ns


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("", {}),
        ("null", {}),
        ("{}", {}),
        ('{"a":["x","y"],"b":null}', {"a": ["x", "y"], "b": []}),
        ('{"a":{"x":true,"y":false}}', {"a": ["x", "y"]}),
    ],
)
def test_filters(given_: str, expected: dict[str, list[str]]) -> None:
    assert Query(f"filters={quote(given_)}").filters() == expected


@given(st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=5), max_size=3), max_size=3))
def test_any_filters_survive(filters: dict[str, list[str]]) -> None:
    if "\0" in str(filters) or "\\x00" in repr(filters):
        return
    assert Query("filters=" + quote(json.dumps(filters))).filters() == filters


@given(st.text())
def test_any_query_is_read_or_refused(raw: str) -> None:
    try:
        query = Query(raw)
        query.filters()
    except InvalidParameter:
        return


@given(st.text())
def test_any_path_is_clean_or_refused(raw: str) -> None:
    try:
        path = decode_path(raw)
    except InvalidParameter:
        return
    assert path.startswith("/")
    assert ".." not in path.split("/")
    assert "\0" not in path


def test_versions_leave_the_path() -> None:
    assert split("/v1.41/info") == ((1, 41), "/info")
    assert split("/info") == ((1, 51), "/info")
    assert split("/volumes") == ((1, 51), "/volumes")
    assert split("/v1.41") == ((1, 51), "/v1.41")


async def _handler(call: object) -> None:  # pragma: no cover - never called
    raise AssertionError


def test_names_with_slashes() -> None:
    router = Router(
        [
            Route("GET", "/images/json", _handler),
            Route("GET", "/images/{name}/json", _handler),
            Route("DELETE", "/images/{name}", _handler),
        ]
    )
    assert router.find("GET", "/images/json")[1] == {}
    assert router.find("GET", "/images/a/b/json")[1] == {"name": "a/b"}
    assert router.find("GET", "/images/json/json")[1] == {"name": "json"}
    assert router.find("DELETE", "/images/json")[1] == {"name": "json"}
    for path in ("/images//json", "/images/", "/", "/image/x/json"):
        with pytest.raises(NotFound):
            router.find("GET", path)
