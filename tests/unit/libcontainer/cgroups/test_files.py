"""Reading and writing cgroup files: what is told when it goes wrong, and what is left out."""

import errno
from pathlib import Path

import pytest

from boxwright.errdefs import StepError
from boxwright.libcontainer.cgroups import files


def test_processes_of_other_pid_namespaces_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("0\n12\n0\n7\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "cgroup.procs").write_text("0\n99\n")
    assert files.pids(str(tmp_path), recursive=False) == {7, 12}
    assert files.pids(str(tmp_path / "gone"), recursive=True) == set()


def test_numbers_and_tables(tmp_path: Path) -> None:
    for name, text in (("n", "42\n"), ("max", "max\n"), ("odd", "x\n"), ("table", "a 1\nb max\nc\n")):
        (tmp_path / name).write_text(text)
    read = [files.number(f"{tmp_path}/{name}", 9) for name in ("n", "max", "odd", "gone")]
    assert read == [42, -1, 9, 9]
    assert files.table(f"{tmp_path}/table") == {"a": 1, "b": -1, "c": 0}
    assert files.table(f"{tmp_path}/gone") == {}


def test_failures_name_file_and_value(tmp_path: Path) -> None:
    path = f"{tmp_path}/memory.max"
    for write in (lambda: files.write(path, "12"), lambda: files.write_each(path, ["12", "13"])):
        with pytest.raises(StepError) as caught:
            write()
        error = caught.value
        assert (error.step, error.operation, error.path, error.errno) == ("cgroup", "write", path, errno.ENOENT)
    assert f'cannot write "12" to {path}: No such file or directory' in error_text(lambda: files.write(path, "12"))
    assert f"cannot read {path}: No such file" in error_text(lambda: files.read(path))


def error_text(call) -> str:
    with pytest.raises(StepError) as caught:
        call()
    return caught.value.message


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"x" * (3 << 20))
    assert len(files.read(f"{tmp_path}/huge")) <= (1 << 20) + 65536
