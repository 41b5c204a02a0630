"""inotify: what is written to a file or a directory wakes, and is told by name."""

import os
import select
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.linux import inotify


@pytest.fixture
def notice():
    fd = inotify.init()
    yield fd
    os.close(fd)


def test_a_write_wakes(notice: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    watch = inotify.add_watch(notice, str(file), inotify.IN_MODIFY)
    assert not os.get_inheritable(notice)
    assert inotify.read(notice) == []
    file.write_text("x")
    assert select.select([notice], [], [], 5)[0]
    events = inotify.read(notice)
    assert {(e.watch, e.mask, e.name) for e in events} == {(watch, inotify.IN_MODIFY, "")}
    assert inotify.read(notice) == []


def test_entries_of_a_directory_are_named(notice: int, tmp_path: Path) -> None:
    mask = inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_DELETE | inotify.IN_ONLYDIR
    inotify.add_watch(notice, str(tmp_path), mask)
    (tmp_path / "eins").write_text("")
    (tmp_path / "eins").rename(tmp_path / "z\udce9wei")
    (tmp_path / "z\udce9wei").unlink()
    told = [(e.mask, e.name) for e in inotify.read(notice)]
    assert told == [
        (inotify.IN_CREATE, "eins"),
        (inotify.IN_MOVED_TO, "z\udce9wei"),
        (inotify.IN_DELETE, "z\udce9wei"),
    ]


def test_an_ended_watch_says_so_and_no_more(notice: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    watch = inotify.add_watch(notice, str(file), inotify.IN_MODIFY)
    inotify.rm_watch(notice, watch)
    file.write_text("x")
    assert [(e.watch, e.mask) for e in inotify.read(notice)] == [(watch, inotify.IN_IGNORED)]
    with pytest.raises(OSError, match="inotify_rm_watch"):
        inotify.rm_watch(notice, watch)


def test_errors_name_the_path(notice: int, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="inotify_add_watch") as caught:
        inotify.add_watch(notice, missing, inotify.IN_MODIFY)
    assert caught.value.filename == missing


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=20))))
def test_any_read_is_parsed(events: list[tuple[int, int, bytes]]) -> None:
    events = [(watch, mask, name.replace(b"\0", b"")) for watch, mask, name in events]
    data = b""
    for watch, mask, name in events:
        padded = name + b"\0" * (16 - len(name) % 16) if name else b""
        data += struct.pack("=iIII", watch, mask, 0, len(padded)) + padded
    found = [(e.watch, e.mask, os.fsencode(e.name)) for e in inotify.parse(data)]
    assert found == events
