"""Query parameters, read as dockerd reads them."""

import re
from typing import Any
from urllib.parse import parse_qsl

from boxwright.errdefs import InvalidParameter
from boxwright.types import lenient

MAX_PARAMETERS = 1000

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
_FALSE = frozenset({"", "0", "no", "false", "none"})
_INTEGER = re.compile(r"[+-]?[0-9]+")
_TIMESTAMP = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{0,9})[0-9]{0,9})?")


def check_escapes(text: str) -> None:
    """Raise `InvalidParameter` when a percent sign is not followed by two hexadecimal digits."""
    if bad := _BAD_ESCAPE.search(text):
        raise InvalidParameter(f'invalid URL escape "{bad[0]}"')


class Query:
    """The parameters behind the question mark; of one that is given twice the first counts, as in Go."""

    __slots__ = ("_values",)

    def __init__(self, raw: str = "") -> None:
        self._values: dict[str, list[str]] = {}
        if not raw:
            return
        if ";" in raw:
            raise InvalidParameter("invalid semicolon separator in query")
        check_escapes(raw)
        try:
            pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
        except ValueError as error:
            raise InvalidParameter(f"invalid query: {error}") from None
        for key, value in pairs:
            if "\x00" in key or "\x00" in value:
                raise InvalidParameter(f"invalid query: parameter {key!r} contains a NUL byte")
            self._values.setdefault(key, []).append(value)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        """The parameter as it is."""
        values = self._values.get(key)
        return values[0] if values else default

    def all(self, key: str) -> list[str]:
        """Every value of a parameter that may be repeated."""
        return self._values.get(key, [])

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean: "", 0, no, false and none are false, anything else is true."""
        values = self._values.get(key)
        return values[0].strip().lower() not in _FALSE if values else default

    def integer(self, key: str, default: int | None = None) -> int | None:
        """A number; absent or empty is `default`.  Raises `InvalidParameter` in Go's words."""
        text = self.text(key)
        if not text:
            return default
        return _integer("Atoi", text, -(2**63), 2**63 - 1)

    def size(self, key: str, what: str) -> int:
        """A height or width in characters, which has to be there; `what` names it in the refusal."""
        text = self.text(key)
        try:
            return _integer("ParseUint", text, 0, 2**32 - 1)
        except InvalidParameter as error:
            raise InvalidParameter(f'invalid resize {what} "{text}": {error}') from None

    def time_ns(self, key: str) -> int | None:
        """A time as seconds with an optional fraction, in nanoseconds since the epoch; absent or empty is None."""
        text = self.text(key)
        if not text:
            return None
        parts = _TIMESTAMP.fullmatch(text)
        if not parts:
            raise InvalidParameter(f'strconv.ParseInt: parsing "{text[:100]}": invalid syntax')
        return int(parts[1]) * 10**9 + int((parts[2] or "").ljust(9, "0"))

    def filters(self) -> dict[str, list[str]]:
        """`filters`: JSON, a map of lists or (since API 1.22) a map of sets; which names exist is for the engine."""
        text = self.text("filters")
        if not text:
            return {}
        try:
            given: Any = lenient.parse(text)
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid filter: {error}") from None
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise InvalidParameter("invalid filter: expected a JSON object of filter names")
        return {name: _values(name, values) for name, values in given.items()}


def _integer(function: str, text: str, low: int, high: int) -> int:
    if not _INTEGER.fullmatch(text) or (low == 0 and text[0] in "+-"):
        raise InvalidParameter(f'strconv.{function}: parsing "{text[:100]}": invalid syntax')
    # Bounded before int(), which refuses (in its own words) or takes long for thousands of digits.
    if len(text) > 40 or not low <= int(text) <= high:
        raise InvalidParameter(f'strconv.{function}: parsing "{text[:100]}": value out of range')
    return int(text)


def _values(name: str, values: Any) -> list[str]:
    if values is None:
        return []
    if isinstance(values, dict) and all(isinstance(given, bool) for given in values.values()):
        return list(values)
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return list(values)
    raise InvalidParameter(f"invalid filter '{name}': expected a list of strings or a set of strings")
