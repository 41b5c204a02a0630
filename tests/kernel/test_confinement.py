"""What a confined job cannot do, seen from inside of it: the job functions here are the attacker."""

import asyncio
import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jobs import ForkedJobs

from boxwright.errdefs import Error, InvalidParameter, System
from boxwright.launcher import jobfilter, worker
from boxwright.launcher.confine import Confinement

pytestmark = pytest.mark.root

Job = Callable[[dict[str, Any], list[int], Confinement], dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").write_text("inside")
    (tmp_path / "secret").write_text("secret")
    fd = os.open(inside, os.O_RDONLY)
    yield fd
    os.close(fd)


def run(job: Job, *fds: int, capabilities: tuple[str, ...] = (), args: dict[str, Any] | None = None) -> dict[str, Any]:
    worker.JOBS["test"] = worker.Job(job, capabilities)
    try:
        return asyncio.run(ForkedJobs().run("test", args or {}, fds))
    finally:
        del worker.JOBS["test"]


def attempt(action: Callable[[], object]) -> int:
    """0, or the errno with which the action failed."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def test_nothing_of_the_host_can_be_reached(root: int, tmp_path: Path) -> None:
    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        inside = confinement.enter(fds[0])
        open_ones = [fd for fd in range(3, 4096) if attempt(lambda fd=fd: os.fstat(fd)) == 0]  # type: ignore[misc]
        return {
            "descriptors": open_ones,
            "expected": sorted([inside, confinement._sock.fileno()]),
            "files": os.listdir("/"),
            "secret": attempt(lambda: os.stat(args["secret"])),
            "up": os.listdir("/../../.."),
            "up by descriptor": sorted(os.listdir(os.open("../..", os.O_RDONLY, dir_fd=inside))),
            "proc": os.path.exists("/proc/self"),
        }

    found = run(job, root, args={"secret": str(tmp_path / "secret")})
    assert found["files"] == found["up"] == found["up by descriptor"] == ["file"]
    assert found["secret"] == errno.ENOENT and not found["proc"]
    assert found["descriptors"] == found["expected"]


def test_no_capability_but_those_that_are_named(root: int) -> None:
    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        status = os.open("/proc/self/status", os.O_RDONLY)
        confinement.enter(fds[0])
        lines = os.pread(status, 8192, 0).decode().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    found = run(job, root, capabilities=("CAP_CHOWN", "CAP_MKNOD"))
    expected = f"{1 << 0 | 1 << 27:016x}"
    assert [found[f"Cap{name}"] for name in ("Eff", "Prm", "Bnd")] == [expected] * 3
    assert [int(found[f"Cap{name}"], 16) for name in ("Inh", "Amb")] == [0, 0]
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"


def test_no_program_no_process_no_socket_no_mount(root: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: str, *args: Any) -> int:
        return 0 if getattr(libc, function)(*args) >= 0 else ctypes.get_errno()

    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        confinement.enter(fds[0])
        return {
            "fork": attempt(lambda: os.fork() or os._exit(0)),
            "execve": attempt(lambda: os.execve("/file", ["x"], {})),
            "socket": attempt(lambda: socket.socket()),
            "mount": call("mount", b"none", b"/", b"tmpfs", 0, None),
            "unshare": call("unshare", 0x10000000),
            "chroot": call("chroot", b"/"),
            "ptrace": call("ptrace", 0, 0, 0, 0),
            "setns": call("setns", 0, 0),
            "bpf": call("syscall", 321, 0, 0, 0),
            "keyctl": call("syscall", 250, 0, 0),
            "io_uring": call("syscall", 425, 8, 0),
            "open_by_handle": call("open_by_handle_at", 3, 0, 0),
        }

    found = run(job, root, capabilities=("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE"))
    # io_uring has a number that old profiles do not know; libseccomp answers ENOSYS for what is above all that it knows.
    assert {name: number for name, number in found.items() if number not in (errno.EPERM, errno.ENOSYS)} == {}


def test_nothing_is_imported_from_the_root(tmp_path: Path) -> None:
    """A planted module must not run: not by an import, not by a codec, not by the printing of an error."""
    for name in ("traceback", "colorsys", "encodings/utf_7", "linecache", "posixpath"):
        planted = tmp_path / f"{name}.py"
        planted.parent.mkdir(exist_ok=True)
        planted.write_text("open('/planted', 'w').write('x')\n")
    (tmp_path / "encodings" / "__init__.py").write_text("open('/planted', 'w').write('x')\n")

    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        confinement.enter(fds[0])
        failed = []
        for action in (lambda: __import__("colorsys"), lambda: "x".encode("utf-7"), lambda: b"x".decode("no-such")):
            try:
                action()
            except (ImportError, LookupError) as error:
                failed.append(type(error).__name__)
        raise ValueError(f"an error with a traceback {failed} {sys.path} {os.listdir('/')}")

    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(System) as caught:
            run(job, fd, capabilities=("CAP_DAC_OVERRIDE",))
    finally:
        os.close(fd)
    assert "ModuleNotFoundError" in str(caught.value) and " [] " in str(caught.value)
    assert not (tmp_path / "planted").exists()


def test_an_isolated_directory_has_no_parent(root: int, tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)

    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        outside = confinement.isolate(fds[1])
        confinement.enter(fds[0])
        os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=outside))
        return {"up": sorted(os.listdir(os.open("../../..", os.O_RDONLY, dir_fd=outside)))}

    try:
        found = run(job, root, other, capabilities=("CAP_DAC_OVERRIDE",))
    finally:
        os.close(other)
    assert found["up"] == ["inside", "made", "secret"]
    assert (tmp_path / "made").exists()


def test_the_empty_root_is_empty_and_cannot_be_written() -> None:
    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        confinement.enter(-1)
        return {"files": os.listdir("/"), "write": attempt(lambda: os.mkdir("/x"))}

    assert run(job) == {"files": [], "write": errno.EROFS}


def test_a_helper_has_nothing(root: int) -> None:
    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        def decode(out: int) -> None:
            found = {
                "files": attempt(lambda: os.listdir("/")),
                "open": attempt(lambda: os.open("/", os.O_RDONLY)),
                "mkdir": attempt(lambda: os.mkdir("/x")),
                "fork": attempt(lambda: os.fork() or os._exit(0)),
                "socket": attempt(lambda: socket.socket()),
                "root": attempt(lambda: os.fstat(fds[0])),
                "read": attempt(lambda: os.pread(fds[1], 1, 0)),
            }
            os.write(out, repr(found).encode())

        data, ended = confinement.helper(decode, [fds[1]])
        confinement.enter(fds[0])
        text = os.read(data, 4096).decode()
        assert os.read(data, 1) == b""
        return {"found": text, "problem": ended()}

    file = os.memfd_create("input")
    try:
        answer = run(job, root, file)
    finally:
        os.close(file)
    assert answer["problem"] == ""
    found = eval(answer["found"])
    assert found.pop("read") == 0
    assert found.pop("root") == errno.EBADF
    assert set(found.values()) == {errno.EPERM}


@pytest.mark.parametrize("how", ["raises", "is killed", "exits"])
def test_a_helper_that_fails_is_noticed(root: int, how: str) -> None:
    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        def decode(out: int) -> None:
            if how == "raises":
                raise ValueError("bad data")
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(3)

        data, ended = confinement.helper(decode, [])
        confinement.enter(fds[0])
        assert os.read(data, 1) == b""
        return {"problem": ended()}

    expected = {"raises": "bad data", "is killed": "the decoder was killed by signal 9", "exits": "the decoder failed"}
    assert run(job, root)["problem"] == expected[how]


def test_memory_is_bounded(root: int) -> None:
    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        confinement.enter(fds[0])
        return {"size": len(bytearray(4 << 30))}

    with pytest.raises(System, match="the job ran out of memory"):
        run(job, root)


def test_a_job_that_never_enters_has_no_result(root: int) -> None:
    with pytest.raises(System, match="without entering a root"):
        run(lambda args, fds, confinement: {"x": 1}, root)


def test_errors_cross_as_what_they_are(root: int) -> None:
    def refuse(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        raise InvalidParameter("not like this")

    def fail(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        confinement.enter(fds[0])
        return {"fd": os.open("/no/such", os.O_RDONLY)}

    with pytest.raises(InvalidParameter, match="not like this"):
        run(refuse, root)
    with pytest.raises(System, match="No such file or directory: /no/such"):
        run(fail, root)
    with pytest.raises(Error, match="no such job"):
        asyncio.run(ForkedJobs().run("no such", {}))


def test_large_answers_and_progress(root: int) -> None:
    heard: list[int] = []

    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        confinement.enter(fds[0])
        for number in range(1000):
            confinement.emit({"done": number})
        return {"text": "x" * 500_000, "length": len(args["text"])}

    worker.JOBS["test"] = worker.Job(job, ())
    try:
        jobs = ForkedJobs()
        found = asyncio.run(jobs.run("test", {"text": "y" * 300_000}, [root], lambda m: heard.append(m["done"])))
    finally:
        del worker.JOBS["test"]
    assert len(found["text"]) == 500_000 and found["length"] == 300_000
    assert heard == list(range(1000))


def test_the_filters_are_there() -> None:
    ForkedJobs()
    assert set(jobfilter._compiled) == {"job", "helper", "programs"}


def test_the_hosts_mount_table_stays_as_it_is(root: int) -> None:
    def table() -> str:
        return Path("/proc/self/mountinfo").read_text()

    before = table()

    def job(args: dict[str, Any], fds: list[int], confinement: Confinement) -> dict[str, Any]:
        confinement.enter(fds[0])
        return {}

    run(job, root)
    assert table() == before
