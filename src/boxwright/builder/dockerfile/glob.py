"""Shell patterns on values: * any text, ? one character, a backslash before what stands for itself.

A pattern is a row of states, one bit each, and one pass over the text moves all of them at once: no pattern makes it
slower than (length of the text) steps for a beginning and its square for a replacement, which is bounded.
"""

from collections.abc import Iterator

from boxwright.builder.dockerfile.errors import Wrong

MOST_STEPS = 1 << 18  # of one operator
_LONGEST = 1 << 12  # a pattern, characters


class Pattern:
    """One pattern.  Raises Wrong for one that is too long, and from every method for work without end."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise Wrong(f"a pattern of more than {_LONGEST} characters")
        self._tokens = list(_tokens(text))
        self._steps = 0

    def beginning(self, value: str, longest: bool) -> int | None:
        """Where the beginning that matches ends; None without one."""
        ends = self._ends(_States(self._tokens), value, 0)
        return max(ends, default=None) if longest else next(ends, None)

    def ending(self, value: str, longest: bool) -> int | None:
        """Where the ending that matches begins."""
        ends = self._ends(_States(self._tokens[::-1]), value[::-1], 0)
        length = max(ends, default=None) if longest else next(ends, None)
        return None if length is None else len(value) - length

    def replace(self, value: str, replacement: str, every: bool) -> str:
        """The first longest match, or every one, replaced; matches of nothing are none."""
        out: list[str] = []
        states = _States(self._tokens)
        position = 0
        while position < len(value):
            end = max(self._ends(states, value, position), default=position)
            if end == position:
                out.append(value[position])
                position += 1
                continue
            out.append(replacement)
            position = end
            if not every:
                break
        return "".join(out) + value[position:]

    def _ends(self, states: "_States", value: str, start: int) -> Iterator[int]:
        """Every place where a match that begins at `start` may end, in order."""
        active = states.start
        if active & states.accepting:
            yield start
        for position in range(start, len(value)):
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise Wrong("a pattern takes too long to match")
            active = states.step(active, value[position])
            if not active:
                return
            if active & states.accepting:
                yield position + 1


class _States:
    """The pattern as bits: bit n is set when the first n tokens have matched."""

    def __init__(self, tokens: list[str | None]) -> None:
        self._stars = sum(1 << index for index, token in enumerate(tokens) if token is None)
        self._any = sum(1 << index for index, token in enumerate(tokens) if token == "")
        self._of: dict[str, int] = {}
        for index, token in enumerate(tokens):
            if token:
                self._of[token] = self._of.get(token, 0) | 1 << index
        self.accepting = 1 << len(tokens)
        self.start = self._closed(1)

    def step(self, active: int, character: str) -> int:
        """The states after one more character."""
        moved = (active & (self._of.get(character, 0) | self._any)) << 1
        return self._closed(moved | active & self._stars)

    def _closed(self, active: int) -> int:
        return active | (active & self._stars) << 1  # no two stars stand side by side


def _tokens(text: str) -> Iterator[str | None]:
    """A character that stands for itself, "" for any one, None for any text; runs of stars are one."""
    characters = iter(text)
    star = False
    for character in characters:
        if character == "*":
            if not star:
                yield None
            star = True
            continue
        star = False
        if character == "?":
            yield ""
        else:
            yield next(characters, "\\") if character == "\\" else character
