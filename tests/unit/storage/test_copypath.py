"""Paths and modes of `docker cp`: what Go's path/filepath and io/fs make of them."""

import posixpath
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.storage import copypath


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ("a", "/a"), ("/a/", "/a/"), ("/a/.", "/a/."), ("a/./", "/a/./"), ("/", "/"), ("/.", "/."), (".", "/."),
        ("..", "/"), ("../../a/../b", "/b"), ("//a//b", "/a/b"), ("/a/..", "/"), ("a/b/../", "/a/"),
    ],
)  # fmt: skip
def test_absolute(given_: str, found: str) -> None:
    assert copypath.absolute(given_) == found


@given(st.text(alphabet="ab./", min_size=1, max_size=30))
def test_absolute_paths_stay_below_the_root_and_keep_what_they_mean(path: str) -> None:
    found = copypath.absolute(path)
    assert found.startswith("/") and ".." not in found.split("/")
    assert posixpath.normpath(found) == posixpath.normpath("/" + path.lstrip("/"))
    assert copypath.absolute(found) == found
    assert found.endswith("/") >= (path.endswith("/"))


@pytest.mark.parametrize(
    ("path", "name"), [("/", "/"), ("/a", "a"), ("/a/", "a"), ("/a/.", "."), ("/a/./", "."), ("/.", ".")]
)
def test_base(path: str, name: str) -> None:
    assert copypath.base(path) == name


@given(st.integers(0, 0o7777), st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO]))
def test_modes(bits: int, kind: int) -> None:
    found = copypath.go_mode(kind | bits)
    assert found & 0o777 == bits & 0o777
    assert bool(found & 1 << 23) == bool(bits & stat.S_ISUID)
    assert bool(found & 1 << 31) == (kind == stat.S_IFDIR)
    assert bool(found & 1 << 27) == (kind == stat.S_IFLNK)


def test_times() -> None:
    assert copypath.go_time(0) == "1970-01-01T00:00:00Z"
    assert copypath.go_time(1_600_000_000_120_000_000) == "2020-09-13T12:26:40.12Z"
    assert copypath.go_time(-1) == "1969-12-31T23:59:59.999999999Z"
