"""Paths in a root, by descriptor: a model of a hostile tree against a naive walk by string."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.linux import inroot


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "root"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    yield path, fd
    os.close(fd)
    assert list((tmp_path / "outside").iterdir()) == []


Root = tuple[Path, int]


def where(fd: int) -> str:
    found = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return found


def test_makes_what_is_missing(root: Root) -> None:
    path, fd = root
    assert where(inroot.make_directories(fd, "/a/b/c")) == f"{path}/a/b/c"
    assert where(inroot.make_directories(fd, "a/b/c")) == f"{path}/a/b/c"
    assert where(inroot.make_directories(fd, "/")) == str(path)
    assert where(inroot.make_directories(fd, "//a/./d/")) == f"{path}/a/d"


def test_absolute_and_dotted_links_stay_inside(root: Root) -> None:
    path, fd = root
    (path / "inner").mkdir()
    for name, target in (("abs", "/inner"), ("up", "../../../../inner"), ("rel", "inner")):
        (path / name).symlink_to(target)
        assert where(inroot.make_directories(fd, f"{name}/new-{name}")) == f"{path}/inner/new-{name}"


def test_dangling_links_are_refused(root: Root) -> None:
    path, fd = root
    (path / "out").symlink_to(path.parent / "outside/new")
    for call in (inroot.make_directories, inroot.make_file):
        for name in ("out", "out/x"):
            with pytest.raises(OSError) as caught:
                call(fd, name)
            assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT)


def test_dot_dot_behind_what_is_missing(root: Root) -> None:
    with pytest.raises(FileNotFoundError):
        inroot.make_directories(root[1], "missing/../x")


def test_a_file_in_the_way(root: Root) -> None:
    path, fd = root
    (path / "f").write_text("")
    with pytest.raises(NotADirectoryError):
        inroot.make_directories(fd, "f/x")
    with pytest.raises(NotADirectoryError):
        inroot.make_directories(fd, "f")


def test_depth_is_bounded(root: Root) -> None:
    with pytest.raises(OSError, match="too long"):
        inroot.make_directories(root[1], "/".join("a" * 300))


def test_files(root: Root) -> None:
    path, fd = root
    assert where(inroot.make_file(fd, "/d/e/f")) == f"{path}/d/e/f"
    assert (path / "d/e/f").read_bytes() == b""
    (path / "d/e/f").write_text("kept")
    os.close(inroot.make_file(fd, "/d/e/f"))
    assert (path / "d/e/f").read_text() == "kept"
    with pytest.raises(IsADirectoryError):
        inroot.make_file(fd, "/d")
    with pytest.raises(OSError, match="Invalid"):
        inroot.make_file(fd, "/d/nope/..")


def test_magic_links_are_refused(root: Root) -> None:
    host = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for path in (f"/proc/self/fd/{host}", "/proc/self/cwd", "/proc/self/root"):
            with pytest.raises(OSError) as caught:
                inroot.open_in_root(host, path, os.O_PATH | os.O_DIRECTORY)
            assert caught.value.errno in (errno.ELOOP, errno.EXDEV)
    finally:
        os.close(host)


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_link_that_appears_meanwhile_is_not_followed(root: Root, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The race of CVE-2024-45310, decided: between "it is not there" and its making somebody else makes a link."""
    path, fd = root
    target = path.parent / "elsewhere"
    target.mkdir()
    (target / "file").touch()
    make = os.mkdir if kind == "directory" else os.open

    def raced(name: Any, *arguments: Any, **options: Any) -> Any:
        if name == "new":
            (path / "new").symlink_to(target if kind == "directory" else target / "file")
        return make(name, *arguments, **options)

    monkeypatch.setattr(inroot.os, make.__name__, raced)
    with pytest.raises(OSError) as caught:
        (inroot.make_directories if kind == "directory" else inroot.make_file)(fd, "new")
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_bounded_reads(root: Root) -> None:
    path, fd = root
    (path / "f").write_text("12345")
    assert inroot.read_bounded(fd, "f", 5) == b"12345"
    with pytest.raises(OSError) as caught:
        inroot.read_bounded(fd, "f", 4)
    assert caught.value.errno == errno.EFBIG
    os.mkfifo(path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        inroot.read_bounded(fd, "pipe", 5)


NAMES = st.sampled_from(["a", "b", "l", "..", ".", "x"])


@settings(max_examples=150)
@given(
    links=st.lists(st.tuples(NAMES, st.lists(NAMES, min_size=1, max_size=4), st.booleans()), max_size=4),
    wanted=st.lists(NAMES, min_size=1, max_size=6),
)
def test_nothing_ever_leaves_the_root(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, list[str], bool]], wanted: list[str]
) -> None:
    """Whatever links the tree has, what is made lies in it, and the directory beside it stays as it was."""
    base = tmp_path_factory.mktemp("tree")
    for name in ("root/a/b", "a/b", "l"):
        (base / name).mkdir(parents=True)
    for name, target, absolute in links:
        try:
            os.symlink(("/" if absolute else "") + "/".join(target), base / "root" / "a" / name)
        except OSError:
            continue
    before = sorted(str(p) for p in base.rglob("*") if not str(p).startswith(f"{base}/root"))
    fd = os.open(base / "root", os.O_PATH | os.O_DIRECTORY)
    try:
        for make in (inroot.make_directories, inroot.make_file):
            try:
                found = where(make(fd, "a/" + "/".join(wanted)))
            except OSError:
                continue
            assert found == f"{base}/root" or found.startswith(f"{base}/root/")
    finally:
        os.close(fd)
    assert sorted(str(p) for p in base.rglob("*") if not str(p).startswith(f"{base}/root")) == before
