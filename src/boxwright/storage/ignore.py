"""`.dockerignore` and COPY --exclude: Go's path patterns with ** for any number of directories and ! for exceptions.

The last pattern that matches a path, or a directory that it lies in, decides.
"""

import posixpath
import re

MOST = 10_000  # patterns
LARGEST = 1 << 20  # bytes of a file of them


class BadPattern(ValueError):
    """A pattern that is none."""


class Patterns:
    """A list of patterns, each perhaps with a "!" before it.  Raises BadPattern."""

    def __init__(self, patterns: "list[str]") -> None:
        if len(patterns) > MOST:
            raise BadPattern(f"more than {MOST} patterns")
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for text in patterns:
            text = text.strip()
            keeps = text.startswith("!")
            cleaned = clean(text[keeps:])
            if keeps and not text[1:].strip():
                raise BadPattern('illegal exclusion pattern: "!"')
            if cleaned:
                self._rules.append((keeps, _compile(cleaned)))
        self.has_exceptions = any(keeps for keeps, _ in self._rules)

    def match(self, path: str) -> bool:
        """Whether the path (relative, no "." or ".." in it) is left out."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
        left_out = False
        for keeps, expression in self._rules:
            if keeps == left_out and any(expression.match(prefix) for prefix in prefixes):
                left_out = not keeps
        return left_out


def read(data: bytes) -> "list[str]":
    """The patterns of a `.dockerignore`: one a line, no comments."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return [line.strip() for line in lines if line.strip()]


def clean(pattern: str) -> str:
    """A pattern as paths are written: relative, no "." or ".." in it."""
    pattern = pattern.strip()
    if not pattern:
        return ""
    return posixpath.normpath("/" + pattern).lstrip("/") or "."


def component(pattern: str) -> "re.Pattern[str]":
    """A pattern for one name, as COPY takes them: * ? [a-z] [^a] and a backslash.  Raises BadPattern."""
    return _compile(pattern.replace("**", "*"))


def has_wildcards(pattern: str) -> bool:
    """Whether a path is a pattern."""
    return any(character in pattern for character in "*?[\\")


def _compile(pattern: str) -> "re.Pattern[str]":
    out: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            stars = 1
            while pattern.startswith("*", position):
                position += 1
                stars += 1
            if stars == 1:
                out.append("[^/]*")
            elif position == len(pattern):
                out.append(".*")
            else:
                position += pattern.startswith("/", position)
                out.append("(?:.*/)?")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            text, position = _class(pattern, position)
            out.append(text)
        elif character == "\\":
            if position == len(pattern):
                raise BadPattern("syntax error in pattern")
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(character))
    return re.compile("".join(out) + r"\Z", re.DOTALL)


def _class(pattern: str, position: int) -> "tuple[str, int]":
    """A class in brackets: (its expression, the position behind it)."""
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not pattern.startswith("]", position):
        low, position = _in_class(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _in_class(pattern, position + 1)
        if high < low:
            raise BadPattern("syntax error in pattern")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    if not ranges:
        raise BadPattern("syntax error in pattern")
    return f"(?!/)[{'^' * negated}{''.join(ranges)}]", position + 1


def _in_class(pattern: str, position: int) -> "tuple[str, int]":
    character = pattern[position : position + 1]
    if character == "\\":
        position += 1
        character = pattern[position : position + 1]
    elif character in "-]":
        raise BadPattern("syntax error in pattern")
    if not character:
        raise BadPattern("syntax error in pattern")
    return character, position + 1
