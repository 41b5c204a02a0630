""".dockerignore's patterns, as Go's path matching and moby's rules for directories have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.storage import ignore
from boxwright.storage.ignore import BadPattern, Patterns

# patterns, paths that are left out, paths that stay
CASES = [
    (["*.txt"], ["a.txt"], ["d/a.txt", "a.txt2"]),
    (["**/*.txt"], ["a.txt", "d/a.txt", "d/e/a.txt"], ["a.md"]),
    (["**"], ["a", "d/e"], []),
    (["d"], ["d", "d/a", "d/e/f"], ["dd", "x/d"]),
    (["/d/"], ["d/a"], ["x/d"]),
    (["./d/../e"], ["e/x"], ["d"]),
    (["d/**"], ["d/a", "d/e/f"], ["d2"]),
    (["**/d"], ["d", "x/d", "x/y/d/z"], ["ad"]),
    (["d/**/f"], ["d/f", "d/a/f", "d/a/b/f"], ["d/a/g"]),
    (["*"], ["a", "d/e"], []),
    (["*", "!a"], ["b"], ["a", "a/b"]),
    (["d", "!d/keep"], ["d/a"], ["d/keep", "d/keep/x"]),
    (["!a", "*"], ["a"], []),
    (["*.md", "!R*.md", "R-secret.md"], ["x.md", "R-secret.md"], ["README.md"]),
    (["a?c", "[x-z]1", "[^a]2"], ["abc", "y1", "b2"], ["ac", "a/c", "w1", "a2"]),
    (["a\\*"], ["a*"], ["ab"]),
    (["a.b+c$(d)"], ["a.b+c$(d)"], ["aXb+c$(d)"]),
]


@pytest.mark.parametrize(("patterns", "out", "kept"), CASES)
def test_cases(patterns: list[str], out: list[str], kept: list[str]) -> None:
    found = Patterns(patterns)
    assert [path for path in [*out, *kept] if found.match(path)] == out


@pytest.mark.parametrize("pattern", ["[", "a[", "[a", "[]", "[a-", "[z-a]", "\\", "!"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(BadPattern):
        Patterns([pattern])


def test_the_file() -> None:
    text = b"\xef\xbb\xbf# comment\n\n  a  \n!b\r\n #c\n"
    assert ignore.read(text) == ["a", "!b", "#c"]


@given(
    st.lists(st.text(alphabet="ab*?/![]\\-^.", max_size=10), max_size=4),
    st.text(alphabet="ab/.", min_size=1, max_size=10),
)
def test_any_pattern(patterns: list[str], path: str) -> None:
    try:
        found = Patterns(patterns)
    except BadPattern:
        return
    assert found.match(path) in (True, False)
