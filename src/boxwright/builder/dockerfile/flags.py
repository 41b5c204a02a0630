"""Flags of an instruction, --name=value, each asked for by the kind that it is."""

import re
from collections.abc import Iterable

from boxwright.builder.dockerfile.errors import Wrong

_SEVERAL = frozenset({"mount", "exclude"})
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_LONGEST = (1 << 63) - 1


class Flags:
    """Those of one line.  Every method raises Wrong for a value that cannot be."""

    def __init__(self, given: Iterable[str]) -> None:
        self._values: dict[str, list[str | None]] = {}
        for word in given:
            name, equals, value = word[2:].partition("=")
            values = self._values.setdefault(name, [])
            if values and name not in _SEVERAL:
                raise Wrong(f"duplicate flag specified: {name}")
            values.append(value if equals else None)

    def refuse_rest(self) -> None:
        """Nobody has asked for these."""
        for name in self._values:
            raise Wrong(f"unknown flag: --{name}")

    def several(self, name: str) -> list[str]:
        """A flag that may be repeated."""
        values = self._values.pop(name, [])
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            raise Wrong(f"missing a value on flag: {name}")
        return found

    def text(self, name: str) -> str:
        """A text, "" when it is not given."""
        return next(iter(self.several(name)), "")

    def optional(self, name: str) -> bool | None:
        """A boolean, None when it is not given; the name alone is true."""
        if name not in self._values:
            return None
        value = self._values.pop(name)[0]
        if value is None or value == "true":
            return True
        if value == "false":
            return False
        raise Wrong(f"expecting boolean value for flag {name}, not: {value}")

    def boolean(self, name: str) -> bool:
        """The same, false when it is not given."""
        return bool(self.optional(name))

    def count(self, name: str) -> int:
        """A number of one at least; 0 when it is not given."""
        text = self.text(name)
        if not text:
            return 0
        if not re.fullmatch(r"-?[0-9]{1,9}", text):
            raise Wrong(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        if int(text) < 0:
            raise Wrong(f"--{name} cannot be negative ({int(text)})")
        return int(text)

    def duration(self, name: str) -> int:
        """Go's duration in nanoseconds; 0 when it is not given."""
        text = self.text(name)
        if text in ("", "0"):
            return 0
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            kind = "missing unit in" if re.fullmatch(r"\d+", text) else "invalid"
            raise Wrong(f'time: {kind} duration "{text}"')
        found = sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
        if found > _LONGEST:
            raise Wrong(f'time: invalid duration "{text}"')
        if 0 < found < 10**6:
            raise Wrong(f'Interval "{name}" cannot be less than 1ms')
        return found
