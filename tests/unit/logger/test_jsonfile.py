import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.logger import rotation
from boxwright.logger.jsonfile import JsonFileWriter
from boxwright.logger.lines import PARTIAL


def records(*paths: Path) -> list[dict[str, str]]:
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


@settings(max_examples=200)
@given(chunks=st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=300)), max_size=12))
def test_every_byte_comes_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "a-json.log"
    writer = JsonFileWriter(str(path), 0, 1)
    for stream, text in chunks:
        writer.write(stream, text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode())
    writer.close()
    found = records(path)
    for name in ("stdout", "stderr"):
        expected = "".join(
            t.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for s, t in chunks if s == name
        )
        assert "".join(r["log"] for r in found if r["stream"] == name) == expected
    assert all(set(r) == {"log", "stream", "time"} for r in found)


@given(data=st.binary(min_size=1, max_size=200))
def test_bytes_that_are_no_text_still_make_records(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("log") / "a-json.log"
    writer = JsonFileWriter(str(path), 0, 1)
    writer.write("stdout", data)
    writer.close()
    assert "".join(r["log"] for r in records(path)) == data.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "text", ['say "hi"\n', "back\\slash\\n\n", "tab\tnul\0\n", "del\x7f\n", "\x7f\\n\ud7ff\n", "\r\n"]
)
def test_what_json_escapes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)
    writer.write("stdout", text.encode())
    writer.close()
    assert [r["log"] for r in records(path)] == [text]


@pytest.mark.parametrize("length", [PARTIAL - 2, PARTIAL - 1, PARTIAL, PARTIAL + 1, 2 * PARTIAL, 5 * PARTIAL + 7])
@pytest.mark.parametrize("step", [1000, 65536])
def test_a_long_line_becomes_partial_records(tmp_path: Path, length: int, step: int) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)
    data = b"x" * length + b"\nnext\n"
    for at in range(0, len(data), step):
        writer.write("stdout", data[at : at + step])
    writer.close()
    logs = [r["log"] for r in records(path)]
    assert "".join(logs).encode() == data
    assert all(len(text) <= PARTIAL for text in logs)
    assert logs[-1] == "next\n"
    # Only the last piece of a line ends in a newline: that is how readers know.
    assert [text.endswith("\n") for text in logs] == [False] * (len(logs) - 2) + [True, True]


def test_a_character_is_never_cut_in_two(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)
    text = "x" + "語" * 20000 + "\n"
    for at in range(0, len(text.encode()), 777):
        writer.write("stdout", text.encode()[at : at + 777])
    writer.close()
    assert "".join(r["log"] for r in records(path)) == text


def test_text_without_a_newline_is_logged_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)
    writer.write("stdout", b"no newline")
    assert path.read_bytes() == b""
    writer.flush("stdout")
    assert [r["log"] for r in records(path)] == ["no newline"]
    writer.close()


def test_attributes_are_in_every_record(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1, '{"env":"prod"}')
    writer.write("stdout", b"one\ntw\xc3\xb6\nthree")
    writer.close()
    assert [json.loads(line)["attrs"] for line in path.read_bytes().splitlines()] == [{"env": "prod"}] * 3


@pytest.mark.parametrize("burst", [1, 7, 500])
def test_rotation_bounds_every_file_and_keeps_the_newest(tmp_path: Path, burst: int) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 2000, 3)
    lines = [b"line %d\n" % n for n in range(500)]
    for at in range(0, 500, burst):
        writer.write("stdout", b"".join(lines[at : at + burst]))
    writer.close()
    files = [tmp_path / "a.2", tmp_path / "a.1", path]
    assert sorted(os.listdir(tmp_path)) == ["a", "a.1", "a.2"]
    assert all(f.stat().st_size <= 2000 for f in files)
    found = [r["log"].encode() for r in records(*files)]
    assert found == lines[-len(found) :]
    assert len(found) > 30


def test_one_file_is_started_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 1000, 1)
    for n in range(100):
        writer.write("stdout", b"line %d\n" % n)
    writer.close()
    assert os.listdir(tmp_path) == ["a"]
    assert path.stat().st_size <= 1000
    assert records(path)[-1]["log"] == "line 99\n"


def test_a_record_longer_than_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 100, 2)
    writer.write("stdout", b"a\n" + b"x" * 500 + b"\nb\n")
    writer.close()
    assert records(tmp_path / "a.1", path)[-2:] == records(tmp_path / "a.1", path)
    assert records(path)[-1]["log"] == "b\n"


def test_a_writer_that_comes_back_appends(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for n in range(3):
        writer = JsonFileWriter(str(path), 0, 1)
        writer.write("stdout", b"life %d\n" % n)
        writer.close()
    assert [r["log"] for r in records(path)] == ["life 0\n", "life 1\n", "life 2\n"]


def test_failed_writes_are_counted_and_the_file_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)
    writer.write("stdout", b"kept\n")
    room = [100]  # bytes that the disk has left

    def write(fd: int, data: bytes) -> int:
        taken = min(room[0], len(data))
        room[0] -= taken
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, data[:taken], 0)  # O_APPEND: the offset does not matter

    monkeypatch.setattr(rotation.os, "write", write)
    writer.write("stdout", b"one\ntwo\nthree\n")
    assert writer.dropped == 2
    assert "No space left" in writer.error
    assert [r["log"] for r in records(path)] == ["kept\n", "one\n"]
    monkeypatch.undo()
    writer.write("stdout", b"again\n")
    writer.close()
    assert [r["log"] for r in records(path)] == ["kept\n", "one\n", "again\n"]


def test_a_log_is_not_followed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / "a").symlink_to("target")
    with pytest.raises(OSError):
        JsonFileWriter(str(tmp_path / "a"), 0, 1)
