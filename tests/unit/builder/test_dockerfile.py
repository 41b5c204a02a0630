"""The Dockerfile parser: no text makes it fail otherwise than by saying what is wrong; what it reads, it reads like a shell."""

import fnmatch
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boxwright.builder.dockerfile import expand, lines, stages
from boxwright.builder.dockerfile.errors import Wrong
from boxwright.builder.dockerfile.glob import MOST_STEPS, Pattern
from boxwright.errdefs import InvalidParameter

# Texts that are rich in what means something.
PIECES = st.sampled_from([
    "FROM", "busybox", "AS", "x", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "--from=", "--mount=", "ONBUILD", "CMD",
    "HEALTHCHECK", "SHELL", "EXPOSE", "=", "\n", "\n", " ", "\t", "\\\n", "<<E", "E\n", "'", '"', "[", "]", ",", "$", "${", "}",
    ":-", "#", "# escape=`\n", "`\n", "\r\n", "\0", "\ufeff", "a", "1", "/", "*", "é",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=40).map("".join)


@given(TEXTS)
@example("FROM busybox\nRUN <<E\n")
@example("FROM a\nONBUILD COPY <<E /x\nz\nE\n")
def test_any_text(text: str) -> None:
    try:
        found = stages.read(text.encode())
        stages.plan(found, {}, "")
    except InvalidParameter:
        return
    assert found.stages


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    try:
        stages.read(b"FROM busybox\n" + data)
    except InvalidParameter as error:
        assert str(error)


NAMES = ["A", "B", "EMPTY", "UNSET"]
VALUES = {"A": "foo/bar.tar.gz", "B": "x y", "EMPTY": ""}
ATOMS = st.sampled_from(["a", ".", "/", "o", "*", "?", "b", "tar"])
PATTERN = st.lists(ATOMS, min_size=1, max_size=4).map("".join)


@st.composite
def expressions(draw: Any) -> str:
    """Substitutions that dash and we understand alike."""
    name = draw(st.sampled_from(NAMES))
    kind = draw(st.sampled_from(["plain", "default", "cut"]))
    if kind == "plain":
        return f"${{{name}}}"
    if kind == "default":
        operator = draw(st.sampled_from([":-", "-", ":+", "+"]))
        return f"${{{name}{operator}{draw(st.sampled_from(['w', '$A', '', 'a.b']))}}}"
    return f"${{{name}{draw(st.sampled_from(['#', '##', '%', '%%']))}{draw(PATTERN)}}}"


@pytest.mark.skipif(shutil.which("dash") is None, reason="there is no dash to compare with")
@settings(max_examples=15)
@given(st.lists(expressions(), min_size=20, max_size=40))
def test_substitutions_are_those_of_a_shell(given_: list[str]) -> None:
    script = "".join(f'printf "%s\\n" "{text}"\n' for text in given_)
    ran = subprocess.run(["dash", "-c", script], env={"PATH": "/bin", **VALUES}, capture_output=True, text=True)
    assert [expand.word(f'"{text}"', VALUES) for text in given_] == ran.stdout.split("\n")[:-1]


@given(st.text(alphabet="ab\\'\"$ {}:-x", max_size=20))
def test_a_word_ends(text: str) -> None:
    try:
        joined = expand.word(text, {"a": "1", "b": "2 3"})
        found = expand.words(text, {"a": "1", "b": "2 3"})
    except Wrong as error:
        assert str(error)
        return
    assert "".join(joined.split()) == "".join("".join(found).split())


@given(st.text(alphabet="ab/", max_size=12), st.text(alphabet="ab*?", max_size=6))
def test_cuts_are_the_shortest_and_the_longest(value: str, pattern: str) -> None:
    matching = [end for end in range(len(value) + 1) if fnmatch.fnmatchcase(value[:end], pattern)]
    assert Pattern(pattern).beginning(value, False) == min(matching, default=None)
    assert Pattern(pattern).beginning(value, True) == max(matching, default=None)
    endings = [start for start in range(len(value) + 1) if fnmatch.fnmatchcase(value[start:], pattern)]
    assert Pattern(pattern).ending(value, True) == min(endings, default=None)
    assert Pattern(pattern).ending(value, False) == max(endings, default=None)


def test_a_pattern_costs_no_more_than_its_steps() -> None:
    value = "a" * 4000
    assert Pattern("*a*a*a*a*b").beginning(value, True) is None
    with pytest.raises(Wrong, match="takes too long"):
        Pattern("a*b").replace("a" * MOST_STEPS, "x", every=True)


def test_variables_of_variables_are_bounded() -> None:
    with pytest.raises(Wrong, match="too long"):
        expand.word("$A" * 2000, {"A": "x" * 1000})


def test_the_number_of_instructions_is_bounded() -> None:
    text = b"FROM busybox\n" + b"ENV A=1\n" * lines.MOST_INSTRUCTIONS
    with pytest.raises(InvalidParameter, match=f"line {lines.MOST_INSTRUCTIONS + 1}: more than"):
        stages.read(text)
    with pytest.raises(InvalidParameter, match="larger than"):
        stages.read(b"#" * (lines.LARGEST + 1))


def test_line_numbers_count_every_physical_line() -> None:
    with pytest.raises(InvalidParameter, match="on line 9: unknown instruction: NOPE"):
        stages.read(b"# c\n\nFROM busybox\nRUN a \\\n# c\n  b <<E\nx\nE\nNOPE\n")


GRAPH = """
ARG BASE=busybox
FROM $BASE AS one
FROM scratch AS two
COPY --from=one /a /a
FROM busybox AS unneeded
FROM two AS three
RUN --mount=type=bind,from=four,target=/x true
FROM busybox AS four
FROM three
COPY --from=3 /a /a
COPY --from=four /b /b
COPY --from=busybox /c /c
"""


def planned(target: str) -> dict[int, frozenset[int]]:
    found = stages.read(GRAPH.encode())
    return {one.stage.number: one.needs for one in stages.plan(found, {"BASE": "busybox"}, target)}


def test_only_stages_that_are_needed() -> None:
    assert planned("") == {0: frozenset(), 1: frozenset({0}), 3: frozenset({1}), 4: frozenset(), 5: frozenset({3, 4})}
    assert planned("two") == {0: frozenset(), 1: frozenset({0})}
    assert planned("TWO") == planned("1") == planned("two")
    assert planned("unneeded") == {2: frozenset()}
    with pytest.raises(InvalidParameter, match="failed to reach build target nope in Dockerfile"):
        planned("nope")


def test_a_later_stage_is_no_source() -> None:
    found = stages.read(b"FROM a AS x\nCOPY --from=y /a /a\nFROM b AS y\nFROM x")
    assert [one.stage.number for one in stages.plan(found, {}, "")] == [0, 2]
