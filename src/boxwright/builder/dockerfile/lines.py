"""A Dockerfile's text as instructions, not yet understood: directives, comments, continued lines, here-documents.

# escape=`                  directives, on the first lines only
RUN --network=none make `   keyword, flags, and the rest, put together out of its lines
    all
COPY <<EOF /etc/motd        here-documents follow the line that names them
hello
EOF
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from boxwright.builder.dockerfile.errors import Wrong, at
from boxwright.errdefs import InvalidParameter

LARGEST = 2 << 20  # bytes of a Dockerfile; BuildKit takes as many
MOST_INSTRUCTIONS = 5000

KEYWORDS = frozenset({
    "add", "arg", "cmd", "copy", "entrypoint", "env", "expose", "from", "healthcheck", "label", "maintainer", "onbuild",
    "run", "shell", "stopsignal", "user", "volume", "workdir",
})  # fmt: skip
_DIRECTIVE = re.compile(r"#[ \t]*([a-zA-Z][a-zA-Z0-9]*)[ \t]*=[ \t]*(.+?)[ \t]*")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<\s]+)")
_WITH_HEREDOCS = frozenset({"add", "copy", "run"})


class Heredoc(NamedTuple):
    """One here-document.  expand: whether variables in it are (its name was not quoted)."""

    name: str
    content: str
    expand: bool
    chomp: bool


class Line(NamedTuple):
    """One instruction: the number of its first line (from 1), the keyword in small letters, flags ("--x=y"), the rest,
    what people are shown, and its here-documents."""

    number: int
    keyword: str
    flags: tuple[str, ...]
    rest: str
    original: str
    heredocs: tuple[Heredoc, ...] = ()


class Source(NamedTuple):
    """A Dockerfile's instructions, its escape character, and its other directives by name."""

    lines: list[Line]
    escape: str
    directives: dict[str, str]


def read(data: bytes) -> Source:
    """Raises InvalidParameter with the number of the line."""
    if len(data) > LARGEST:
        raise InvalidParameter(f"the Dockerfile is larger than {LARGEST} bytes")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if "\0" in text:
        raise InvalidParameter("the Dockerfile contains a NUL byte")
    physical = [line.removesuffix("\r") for line in text.split("\n")]
    directives = _directives(physical)
    escape = directives.get("escape", "\\")
    lines = list(_logical(physical, escape))
    if not lines:
        raise InvalidParameter("file with no instructions")
    return Source(lines, escape, directives)


def single(text: str, escape: str, number: int) -> Line:
    """One instruction that stands somewhere else: behind ONBUILD, or in an image's triggers.

    Its here-documents come after its first line.  Raises Wrong.
    """
    first, *following = text.split("\n")
    rows = _Rows(following, 0)
    line = _instruction(first, number, escape)
    return line._replace(heredocs=tuple(_heredocs(line, rows, escape)), original=text)


def _directives(physical: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(physical, 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None or (name := match[1].lower()) not in ("escape", "syntax", "check"):
            break
        if name in found:
            raise at(number, f"only one {name} parser directive can be used")
        if name == "escape" and match[2] not in ("\\", "`"):
            raise at(number, f"invalid ESCAPE '{match[2]}' does not match ` or \\")
        found[name] = match[2]
    return found


class _Rows:
    """The physical lines, and how far they have been read."""

    def __init__(self, rows: list[str], position: int) -> None:
        self.rows, self.position = rows, position

    def next(self) -> str | None:
        """The next line, None at the end."""
        if self.position >= len(self.rows):
            return None
        self.position += 1
        return self.rows[self.position - 1]


def _logical(physical: list[str], escape: str) -> Iterator[Line]:
    rows = _Rows(physical, 0)
    count = 0
    while (row := rows.next()) is not None:
        number = rows.position
        if row.lstrip().startswith("#"):
            continue
        parts, more = _continued(row.lstrip(), escape)
        text = [parts]
        while more and (row := rows.next()) is not None:
            if row.lstrip().startswith("#") or not row.strip():
                continue
            part, more = _continued(row, escape)
            text.append(part)
        line = "".join(text).strip()
        if not line:
            continue
        count += 1
        if count > MOST_INSTRUCTIONS:
            raise at(number, f"more than {MOST_INSTRUCTIONS} instructions")
        try:
            found = _instruction(line, number, escape)
            yield found._replace(heredocs=tuple(_heredocs(found, rows, escape)))
        except Wrong as problem:
            raise at(number, problem) from None


def _continued(row: str, escape: str) -> tuple[str, bool]:
    """The line without its continuation character, and whether it had one.  Two of them are none."""
    trimmed = row.rstrip(" \t")
    if trimmed.endswith(escape) and not trimmed.endswith(escape * 2):
        return trimmed[:-1], True
    return row, False


def _instruction(text: str, number: int, escape: str) -> Line:
    keyword, _, rest = text.partition(" ") if (cut := re.search(r"[\t\v\f\r ]+", text)) is None else (
        text[: cut.start()], "", text[cut.end() :],
    )  # fmt: skip
    if keyword.lower() not in KEYWORDS:
        raise Wrong(f"unknown instruction: {keyword}")
    flags, rest = _flags(rest.strip(), escape)
    return Line(number, keyword.lower(), tuple(flags), rest, text)


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """The words at the start that begin with "--", without their quotes, and what follows; "--" alone ends them."""
    flags: list[str] = []
    while text.startswith("--"):
        word, rest = _word(text, escape)
        if word == "--":
            return flags, rest
        flags.append(word)
        text = rest
    return flags, text


def _word(text: str, escape: str) -> tuple[str, str]:
    """The first word of a text, quotes and escapes taken away, and the rest."""
    word, quote, position = "", "", 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == escape and position < len(text):
            word += text[position]
            position += 1
        elif quote:
            quote, word = ("", word) if character == quote else (quote, word + character)
        elif character in "'\"":
            quote = character
        elif character.isspace():
            break
        else:
            word += character
    return word, text[position:].lstrip()


def _heredocs(line: Line, rows: _Rows, escape: str) -> Iterator[Heredoc]:
    """Those that the line names, read from the lines after it."""
    target = line.rest
    if line.keyword == "onbuild":
        keyword, target = [*target.split(maxsplit=1), "", ""][:2]
        if keyword.lower() not in _WITH_HEREDOCS:
            return
    elif line.keyword not in _WITH_HEREDOCS:
        return
    if "<<" not in target or target.startswith("["):
        return
    for name, expand, chomp in named_heredocs(target, escape):
        content: list[str] = []
        while (row := rows.next()) is not None:
            row = row.lstrip("\t") if chomp else row
            if row == name:
                break
            content.append(row + "\n")
        else:
            raise Wrong("unterminated heredoc")
        yield Heredoc(name, "".join(content), expand, chomp)


def named_heredocs(text: str, escape: str) -> Iterator[tuple[str, bool, bool]]:
    """(name, expand, chomp) of each word <<NAME, <<-NAME, <<"NAME" of a line."""
    for word in raw_words(text, escape):
        match = _HEREDOC.fullmatch(word)
        if match is None:
            continue
        name, _ = _word(match[3], escape)
        if name:
            yield name, name == match[3], bool(match[2])


def raw_words(text: str, escape: str) -> list[str]:
    """Split at blanks that are neither quoted nor escaped; quotes and escapes stay."""
    words: list[str] = []
    word, quote, escaped = "", "", False
    for character in text:
        if escaped:
            word, escaped = word + character, False
        elif character == escape and quote != "'":
            word, escaped = word + character, True
        elif quote:
            word += character
            quote = "" if character == quote else quote
        elif character.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            quote = character if character in "'\"" else ""
            word += character
    return [*words, word] if word else words
