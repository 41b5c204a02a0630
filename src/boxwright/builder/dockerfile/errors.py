"""What is wrong with a Dockerfile, in dockerd's words."""

from boxwright.errdefs import InvalidParameter


class Wrong(ValueError):
    """Something is wrong on the line that is being read; `at` says which it is."""


def at(line: int, problem: object) -> InvalidParameter:
    """The error for a problem on a line, counted from 1."""
    return InvalidParameter(f"dockerfile parse error on line {line}: {problem}")
