import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.engine.patterns import Malformed, Pattern, compile_all
from boxwright.errdefs import InvalidParameter

atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "[a-c]", r"\.", r"\d", r"\W", "^", "$", "(a|b)", "(|a)", "(?:b)", "xx"]
)
repetitions = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,1}", "{1,}", "*?", "{,2}", "{"])
pieces = st.lists(st.tuples(atoms, repetitions).map("".join), max_size=5).map("".join)
groups = st.recursive(
    pieces, lambda inner: st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})*{two[1]}"), max_leaves=4
)


@settings(max_examples=500)
@given(groups, st.text("ab.x1{,2\n", max_size=6))
def test_it_finds_what_re_finds(text: str, subject: str) -> None:
    # "$" of re also matches before a last newline, and "{,2}" is a repetition there; neither is so in Go.
    try:
        theirs = re.compile(text.replace("$", r"\Z").replace("{,2}", r"\{,2}"))
    except re.error:
        return
    assert Pattern(text).found_in(subject) == (theirs.search(subject) is not None)


@given(st.text("a(|)*+?{2,}[]^$\\.-", max_size=12), st.text("a-^", max_size=5))
def test_any_text_is_a_pattern_or_refused(text: str, subject: str) -> None:
    try:
        Pattern(text).found_in(subject)
    except (Malformed, InvalidParameter):
        return


@pytest.mark.parametrize(
    "text",
    ["(a+)+$", "(a|a)" * 40 + "x", "a?" * 60 + "a" * 60 + "b", ".*" * 30 + "x", "(x+x+)+y", "((a*)*)*b", "(|a)*(|a)*b"],
)
def test_what_takes_others_years_comes_to_an_end(text: str) -> None:
    assert not Pattern(text).found_in("a" * 100 + "-")


def test_syntax() -> None:
    def found(text: str, subject: str) -> bool:
        return Pattern(text).found_in(subject)

    assert found("^/web$", "/web") and not found("^/web$", "/web1")
    assert found("web|db", "my-db") and not found("^(web|db)$", "webdb")
    assert found("[]a]", "]") and found("[a-]", "-") and found("[^]]", "a") and not found("[^]a]", "]a")
    assert found(r"\w{3}-\d+", "abc-12") and found(r"\/x", "/x") and found("a{,b", "a{,b") and found("", "")
    for bad in (
        "(",
        ")",
        "a)",
        "[",
        "[b-a]",
        "*a",
        "a|*",
        r"\q",
        "\\",
        "a{2,1}",
        "x{1001}",
        "(a",
        "a**",
        "a{2}{3}",
        "a*??",
    ):
        with pytest.raises(Malformed):
            Pattern(bad)
    for much in ("(a{1000}){1000}", "a" * 2000, "(?i)a", "(?P<n>a)"):
        with pytest.raises(InvalidParameter):
            Pattern(much)


def test_several() -> None:
    assert compile_all("name", ["(", "b$"])("ab") and not compile_all("name", ["("])("(")
    with pytest.raises(InvalidParameter, match="invalid filter 'name'"):
        compile_all("name", ["(?i)x"])
