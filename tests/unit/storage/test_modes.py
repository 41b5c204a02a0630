"""`--chmod`: octal and symbolic, beside the chmod of this machine."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.storage import modes

ACTION = st.tuples(
    st.sampled_from("+-="),
    st.one_of(st.sampled_from("ugo"), st.text("rwxXst", max_size=4)),
).map("".join)
CLAUSE = st.tuples(st.text("ugoa", max_size=2), st.lists(ACTION, min_size=1, max_size=2).map("".join)).map("".join)
TEXT = st.lists(CLAUSE, min_size=1, max_size=3).map(",".join)


@settings(max_examples=150, deadline=None)
@given(text=TEXT, before=st.integers(0, 0o7777))
def test_files_as_chmod_changes_them(tmp_path_factory: pytest.TempPathFactory, text: str, before: int) -> None:
    path = tmp_path_factory.mktemp("mode") / "file"
    path.touch()
    path.chmod(before)
    subprocess.run(["chmod", "--", text, str(path)], check=True, umask=0)
    assert oct(modes.parse(text).apply(before, False)) == oct(path.stat().st_mode & 0o7777), (text, oct(before))


@settings(max_examples=50, deadline=None)
@given(text=TEXT.filter(lambda text: "s" not in text), before=st.integers(0, 0o777))
def test_directories_as_chmod_changes_them(tmp_path_factory: pytest.TempPathFactory, text: str, before: int) -> None:
    path: Path = tmp_path_factory.mktemp("mode")
    path.chmod(before)
    subprocess.run(["chmod", "--", text, str(path)], check=True, umask=0)
    found = path.stat().st_mode & 0o7777
    path.chmod(0o700)
    assert oct(modes.parse(text).apply(before, True)) == oct(found), (text, oct(before))


@pytest.mark.parametrize(("text", "mode"), [("644", 0o644), ("0", 0), ("07777", 0o7777), ("4755", 0o4755)])
def test_numbers(text: str, mode: int) -> None:
    assert modes.parse(text).apply(0o123, False) == modes.parse(text).apply(0o123, True) == mode


@pytest.mark.parametrize(
    "text", ["", "8", "17777", "u", "u+q", "+x,", ",+x", "u=gr", "z+x", "+r" * 200, "-1", "0o7", "٧"]
)
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match="no mode"):
        modes.parse(text)
