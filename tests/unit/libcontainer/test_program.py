"""The lookup of a program, in a directory of the test's own."""

import os
from pathlib import Path

import pytest

from boxwright.errdefs import StepError
from boxwright.libcontainer import program


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, mode in (("a/tool", 0o755), ("b/tool", 0o755), ("b/plain", 0o644), ("b/only", 0o755)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        path.chmod(mode)
    (tmp_path / "a/only").mkdir()
    return tmp_path


def test_first_of_the_path_wins(place: Path) -> None:
    assert program.find("tool", {"PATH": f"/nope:{place}/a:{place}/b"}) == f"{place}/a/tool"


def test_directories_and_plain_files_are_passed_over(place: Path) -> None:
    assert program.find("only", {"PATH": f"{place}/a:{place}/b"}) == f"{place}/b/only"


@pytest.mark.parametrize("path", ["", "/nope", None])
def test_not_found(place: Path, path: str | None) -> None:
    with pytest.raises(StepError, match=r'exec: "tool": executable file not found in \$PATH') as caught:
        program.find("tool", {} if path is None else {"PATH": path})
    assert caught.value.exit_code == 127


def test_not_executable_in_the_path_is_not_found(place: Path) -> None:
    with pytest.raises(StepError) as caught:
        program.find("plain", {"PATH": f"{place}/b"})
    assert caught.value.exit_code == 127


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("b/nope", 127, "stat {}: no such file or directory"),
        ("b/plain/x", 127, "stat {}: not a directory"),
        ("a/only", 126, "is a directory"),
        ("b/plain", 126, "permission denied"),
    ],
)
def test_by_path(place: Path, name: str, code: int, text: str) -> None:
    path = f"{place}/{name}"
    with pytest.raises(StepError) as caught:
        program.find(path, {})
    assert str(caught.value) == f'exec: "{path}": ' + text.format(path)
    assert caught.value.exit_code == code


def test_relative_paths_and_empty_entries(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "a")
    assert program.find("./tool", {}) == "./tool"
    assert program.find("tool", {"PATH": ":/nope"}) == "./tool"


def test_link_loop(place: Path) -> None:
    os.symlink("loop", place / "loop")
    with pytest.raises(StepError, match="too many levels of symbolic links"):
        program.find(f"{place}/loop", {})
