"""Words of a Dockerfile: quotes, escapes and variables (Dockerfile reference, "Environment replacement").

$name ${name}            the value, nothing when it is not set
${name:-word} ${name-word}   word when it is unset (or empty, with the colon)
${name:+word} ${name+word}   word when it is set
${name:?text} ${name?text}   an error when it is not
${name#p} ${name##p}     without the shortest, longest beginning that the pattern matches; % and %% the ending
${name/p/r} ${name//p/r}     the first match, every match replaced
"""

import re
from collections.abc import Mapping

from boxwright.builder.dockerfile import glob
from boxwright.builder.dockerfile.errors import Wrong

Variables = Mapping[str, str]
# Of one word, expanded, characters: variables of variables double.
LONGEST = 1 << 20
_DEEPEST = 50
_SHOWN = 200  # characters of a text that is wrong
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = re.compile(r"[@*#?\-$!0-9]")
_TOO_LONG = "a value is too long when its variables are replaced"


def word(text: str, variables: Variables, escape: str = "\\") -> str:
    """One word with everything replaced.  Raises Wrong."""
    return "".join(_expanded(text, variables, escape)[0])


def words(text: str, variables: Variables, escape: str = "\\") -> list[str]:
    """The same, split at blanks that are neither quoted nor escaped, those of values included.  Raises Wrong."""
    return _expanded(text, variables, escape)[1]


def heredoc(text: str, variables: Variables, escape: str = "\\") -> str:
    """A here-document: quotes stay.  Raises Wrong."""
    return "".join(_expanded(text, variables, escape, keep_quotes=True)[0])


def _expanded(text: str, variables: Variables, escape: str, keep_quotes: bool = False) -> tuple[list[str], list[str]]:
    try:
        return _Lexer(text, variables, escape, keep_quotes).all()
    except Wrong as problem:
        shown = text[:_SHOWN].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        raise Wrong(f'failed to process "{shown}": {problem}') from None


class _Lexer:
    def __init__(
        self, text: str, variables: Variables, escape: str, keep_quotes: bool = False, depth: int = _DEEPEST
    ) -> None:
        if not depth:
            raise Wrong("variables are nested too deep")
        self._text, self._variables, self._escape = text, variables, escape
        self._keep, self._depth = keep_quotes, depth
        self._position = self._size = 0
        self._out: list[str] = []
        self._words: list[str] = []
        self._word: list[str] | None = None

    def all(self, stop: str = "") -> tuple[list[str], list[str]]:
        """(pieces of the result, its words), up to a character `stop` that is neither quoted nor escaped."""
        while self._position < len(self._text):
            character = self._text[self._position]
            if stop and character == stop:
                break
            self._position += 1
            if character == self._escape:
                self._escaped()
            elif character == "$":
                self._add_split(self._dollar())
            elif character == "'" and not self._keep:
                self._single()
            elif character == '"' and not self._keep:
                self._double()
            else:
                self._add_split(character)
        if self._word is not None:
            self._words.append("".join(self._word))
        return self._out, self._words

    def _add(self, text: str) -> None:
        """Text that is not split."""
        self._size += len(text)
        if self._size > LONGEST:
            raise Wrong(_TOO_LONG)
        self._out.append(text)
        if self._word is None:
            self._word = []
        self._word.append(text)

    def _add_split(self, text: str) -> None:
        for piece in re.findall(r"\s+|\S+", text):
            if not piece.isspace():
                self._add(piece)
                continue
            self._out.append(piece)
            if self._word is not None:
                self._words.append("".join(self._word))
                self._word = None

    def _escaped(self) -> None:
        if self._position >= len(self._text):
            self._add(self._escape if self._keep else "")
            return
        following = self._text[self._position]
        self._position += 1
        if self._keep and following not in ("$", self._escape):
            self._add(self._escape + following)
        else:
            self._add(following)

    def _single(self) -> None:
        end = self._text.find("'", self._position)
        if end < 0:
            raise Wrong("unexpected end of statement while looking for matching single-quote")
        self._add(self._text[self._position : end])
        self._position = end + 1

    def _double(self) -> None:
        self._add("")
        while self._position < len(self._text):
            character = self._text[self._position]
            self._position += 1
            if character == '"':
                return
            if character == "$":
                self._add(self._dollar())
            elif character == self._escape:
                if self._position >= len(self._text):
                    break
                following = self._text[self._position]
                self._position += 1
                self._add(following if following in ('"', "$", self._escape) else self._escape + following)
            else:
                self._add(character)
        raise Wrong("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        if self._text.startswith("{", self._position):
            self._position += 1
            return self._braced()
        name = self._name()
        return "$" if not name else self._variables.get(name, "")

    def _name(self) -> str:
        match = _NAME.match(self._text, self._position) or _SPECIAL.match(self._text, self._position)
        if match is None:
            return ""
        self._position = match.end()
        return match[0]

    def _next(self) -> str:
        character = self._text[self._position : self._position + 1]
        self._position += 1
        return character

    def _braced(self) -> str:
        name = self._name()
        if not name:
            raise Wrong("syntax error: bad substitution")
        operator = self._next()
        if operator == "}":
            return self._variables.get(name, "")
        if not operator:
            raise Wrong("syntax error: missing '}'")
        colon = operator == ":"
        if colon:
            operator = self._next()
        if operator in ("+", "-", "?"):
            return self._default(name, operator, colon)
        if operator in ("#", "%", "/") and not colon:
            doubled = self._text.startswith(operator, self._position)
            self._position += doubled
            return self._cut(name, operator, doubled)
        raise Wrong(f"unsupported modifier ({':' * colon}{operator}) in substitution")

    def _default(self, name: str, operator: str, colon: bool) -> str:
        argument = self._argument("}")
        value = self._variables.get(name)
        there = bool(value) if colon else value is not None
        if operator == "+":
            return argument if there else ""
        if there:
            return value or ""
        if operator == "?":
            raise Wrong(f"{name}: {argument or ('not allowed to be ' + ('empty' if colon else 'unset'))}")
        return argument

    def _cut(self, name: str, operator: str, doubled: bool) -> str:
        value = self._variables.get(name, "")
        if operator != "/":
            pattern = glob.Pattern(self._argument("}", raw=True))
            cut = pattern.beginning(value, doubled) if operator == "#" else pattern.ending(value, doubled)
            return value if cut is None else value[cut:] if operator == "#" else value[:cut]
        pattern = glob.Pattern(self._argument("/", raw=True))
        result = pattern.replace(value, self._argument("}"), every=doubled)
        if len(result) > LONGEST:
            raise Wrong(_TOO_LONG)
        return result

    def _argument(self, stop: str, raw: bool = False) -> str:
        """What stands behind an operator, with its own variables replaced; passes over `stop`.

        raw: a pattern, in which an escaped character stays escaped.
        """
        inner = _Lexer(self._text, self._variables, self._escape, self._keep, self._depth - 1)
        inner._position = self._position
        text = inner._pattern(stop) if raw else "".join(inner.all(stop)[0])
        if not self._text.startswith(stop, inner._position) or inner._position >= len(self._text):
            raise Wrong(f"syntax error: missing '{stop}' in substitution")
        self._position = inner._position + 1
        return text

    def _pattern(self, stop: str) -> str:
        out: list[str] = []
        while self._position < len(self._text) and (character := self._text[self._position]) != stop:
            self._position += 1
            if character == self._escape and self._position < len(self._text):
                out.append("\\" + self._text[self._position])
                self._position += 1
            elif character == "$":
                out.append(self._dollar())
            else:
                out.append(character)
        return "".join(out)
