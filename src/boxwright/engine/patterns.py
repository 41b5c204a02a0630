"""Regular expressions of `ps --filter name=…`, in time linear in the text, as Go's are.

Python's own engine backtracks: `(a|a)(a|a)…` or `a?a?…aaa` from one request would keep the loop for years.  Here a
pattern becomes a small program (Thompson's construction) and all its threads run side by side over the text.

Syntax: literals, `.`, `[…]` with ranges and `^`, `\\d \\w \\s` and capitals, `^ $`, groups, `|`, `* + ? {m,n}`.
"""

from collections.abc import Callable

from boxwright.errdefs import InvalidParameter

_PROGRAM = 2000  # instructions; a{500}{500} would be a quarter of a million
_LENGTH = 1000  # characters of a pattern

_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": lambda c: c.isascii() and c.isdigit(),
    "w": lambda c: c.isascii() and (c.isalnum() or c == "_"),
    "s": lambda c: c in "\t\n\f\r ",
}
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}

Test = Callable[[str], bool]
# ("one", test) | ("start",) | ("end",) | ("split", first, second) | ("jump", target) | ("match",)
Instruction = tuple[object, ...]


class Malformed(Exception):
    """The text is no regular expression."""


class Pattern:
    """A compiled pattern; raises Malformed, and InvalidParameter for what is too big or not supported here."""

    def __init__(self, text: str) -> None:
        if len(text) > _LENGTH:
            raise InvalidParameter(f"the pattern is longer than {_LENGTH} characters")
        self._text = text
        self._at = 0
        self._program: list[Instruction] = []
        self._alternatives()
        if self._at < len(text):
            raise Malformed(text)
        self._emit("match")

    def found_in(self, subject: str) -> bool:
        """Whether the pattern matches anywhere in `subject`."""
        threads: set[int] = set()
        for position in range(len(subject) + 1):
            if self._follow(0, threads, position, len(subject)):
                return True
            if position == len(subject):
                return False
            following: set[int] = set()
            character = subject[position]
            for at in threads:
                name, *rest = self._program[at]
                if name != "one" or not rest[0](character):  # type: ignore[operator]
                    continue
                if self._follow(at + 1, following, position + 1, len(subject)):
                    return True
            threads = following
        return False

    def _follow(self, at: int, threads: set[int], position: int, end: int) -> bool:
        """Add the threads that `at` leads to without a character; True when one of them is the end."""
        waiting = [at]
        while waiting:
            at = waiting.pop()
            if at in threads:
                continue
            threads.add(at)
            name, *targets = self._program[at]
            if name == "match":
                return True
            if name in ("split", "jump"):
                waiting += targets  # type: ignore[arg-type]
            elif (name == "start" and position == 0) or (name == "end" and position == end):
                waiting.append(at + 1)
        return False

    # -- compilation: each method emits the code of what it reads

    def _emit(self, *instruction: object) -> int:
        if len(self._program) >= _PROGRAM:
            raise InvalidParameter(f"the pattern is too big: {self._text[:80]}")
        self._program.append(instruction)
        return len(self._program) - 1

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _alternatives(self) -> None:
        begin = len(self._program)
        ends: list[int] = []
        self._sequence()
        while self._next() == "|":
            self._at += 1
            self._insert(begin, ends)
            ends.append(self._emit("jump"))
            self._program[begin] = ("split", begin + 1, len(self._program))
            begin = len(self._program)
            self._sequence()
        for at in ends:
            self._program[at] = ("jump", len(self._program))

    def _sequence(self) -> None:
        while self._next() not in ("", "|", ")"):
            begin = len(self._program)
            self._atom()
            if self._repetition(begin) and self._bounds() is not None:
                raise Malformed(self._text)

    def _atom(self) -> None:
        character = self._next()
        self._at += 1
        if character == "(":
            if self._next() == "?":
                if self._text[self._at : self._at + 2] != "?:":
                    raise InvalidParameter(f"(?…) is not supported in a filter's pattern: {self._text[:80]}")
                self._at += 2
            self._alternatives()
            if self._next() != ")":
                raise Malformed(self._text)
            self._at += 1
        elif character == "^":
            self._emit("start")
        elif character == "$":
            self._emit("end")
        elif character in "*+?":
            raise Malformed(self._text)
        elif character == ".":
            self._emit("one", lambda c: c != "\n")
        elif character == "[":
            self._emit("one", self._set())
        elif character == "\\":
            self._emit("one", self._escape())
        else:
            self._emit("one", character.__eq__)

    def _escape(self) -> Test:
        character = self._next()
        self._at += 1
        if known := _CLASSES.get(character.lower()):
            return known if character.islower() else lambda c: not known(c)
        if character in _ESCAPES:
            return _ESCAPES[character].__eq__
        if not character or (character.isascii() and character.isalnum()):
            raise Malformed(self._text)
        return character.__eq__

    def _set(self) -> Test:
        negated = self._next() == "^"
        self._at += negated
        tests: list[Test] = []
        while self._next() != "]" or not tests:
            tests.append(self._member())
        self._at += 1
        return lambda c: any(test(c) for test in tests) != negated

    def _member(self) -> Test:
        low = self._next()
        if not low:
            raise Malformed(self._text)
        self._at += 1
        if low == "\\":
            return self._escape()
        if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
            high = self._text[self._at + 1]
            self._at += 2
            if high == "\\" or high < low:
                raise Malformed(self._text)
            return lambda c: low <= c <= high
        return low.__eq__

    def _repetition(self, begin: int) -> bool:
        """Apply a repetition to the code from `begin` on; False when none follows."""
        bounds = self._bounds()
        if bounds is None:
            return False
        least, most = bounds
        code = self._program[begin:]
        del self._program[begin:]
        for _ in range(least):
            self._copy(code, begin)
        if most is None:
            top = self._emit("split")
            self._copy(code, begin)
            self._emit("jump", top)
            self._program[top] = ("split", top + 1, len(self._program))
        else:
            splits = []
            for _ in range(most - least):
                splits.append(self._emit("split"))
                self._copy(code, begin)
            for at in splits:
                self._program[at] = ("split", at + 1, len(self._program))
        if self._next() == "?":  # lazy: another match, but found all the same
            self._at += 1
        return True

    def _bounds(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if (found := simple.get(self._next())) is not None:
            self._at += 1
            return found
        if self._next() != "{":
            return None
        inside, closed, _ = self._text[self._at + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        if not closed or not low.isdecimal() or (high and not high.isdecimal()):
            return None  # a brace that stands for itself
        least, most = int(low[:5]), int(high[:5]) if high else (None if comma else int(low[:5]))
        if least > 1000 or (most is not None and not least <= most <= 1000):
            raise Malformed(self._text)
        self._at += len(inside) + 2
        return least, most

    def _copy(self, code: list[Instruction], origin: int) -> None:
        """Emit `code`, which was compiled for `origin`, for the present place."""
        moved = len(self._program) - origin
        for name, *targets in code:
            if name in ("split", "jump"):
                targets = [target + moved for target in targets]  # type: ignore[operator]
            self._emit(name, *targets)

    def _insert(self, begin: int, ends: list[int]) -> None:
        """Make room for a split before the code from `begin` on."""
        code = self._program[begin:]
        del self._program[begin:]
        self._emit("split")
        self._copy(code, begin)


def compile_all(name: str, texts: list[str]) -> Callable[[str], bool]:
    """Whether one of the patterns is found; what is no expression is found nowhere, as Docker has it.

    Raises InvalidParameter that names the filter.
    """
    patterns = []
    for text in texts:
        try:
            patterns.append(Pattern(text))
        except Malformed:
            continue
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid filter '{name}': {error}") from None
    return lambda subject: any(pattern.found_in(subject) for pattern in patterns)
