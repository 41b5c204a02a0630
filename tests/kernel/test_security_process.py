"""SECURITY.md, runtime, exec, user ids and environment: what a hostile image or container can make of our process.

Several tests freeze the child at a chosen point (`frozen`), so that the kernel can be asked what it is at that moment.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kernel.containers import CAPABILITIES, Box, execute, failure, finish, make_spec, read_line, until

from boxwright.libcontainer import handover, program, rootfs, setns, users
from boxwright.libcontainer.process import ExecRequest, InitProcess, InitRequest, create_init
from boxwright.linux import capabilities as linux_capabilities
from boxwright.linux import pidfd, signals

pytestmark = pytest.mark.root
PTRACE = {name: [*CAPABILITIES, "CAP_SYS_PTRACE"] for name in ("bounding", "effective", "permitted")}


def stopped(pid: int) -> bool:
    """In pause(2), which the kernel calls by name while a process sleeps in it (PID 1 takes no SIGSTOP)."""
    return "pause" in Path(f"/proc/{pid}/wchan").read_text()


@contextlib.contextmanager
def frozen(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, start: Callable[[], Any]) -> Iterator[Any]:
    """What `start` returns, its child stopped for good when it enters `module.name`; killed at the end."""
    monkeypatch.setattr(module, name, lambda *_args, **_options: signal.pause())
    process = start()
    try:
        yield process
    finally:
        process.abort()
        process.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def is_dumpable(pid: int) -> bool:
    """The files of a non-dumpable process in /proc belong to root, whoever it runs as (proc(5))."""
    return os.stat(f"/proc/{pid}/status").st_uid != 0


def traced_by_root(pid: int) -> bool:
    """Whether a process of root with every right but CAP_SYS_PTRACE, as in a container, may look into `pid`."""
    child = os.fork()
    if child == 0:
        try:
            rights = linux_capabilities.permitted() & ~linux_capabilities.mask(["CAP_SYS_PTRACE"])
            linux_capabilities.apply(rights, rights, 0, 0)
            os.readlink(f"/proc/{pid}/exe")
            os._exit(0)
        except PermissionError:
            os._exit(1)
        finally:
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return code == 0


class TestInterpreterIsSealed:
    """CVE-2019-5736: what enters a container leads to no file of the host through /proc/PID/exe.

    (The `boxwright-runtime` command is tested in test_runtime.py, the launcher in its own tests.)
    """

    def test_process_is_not_dumpable_before_execve(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        mount_fd, _ = rootfs.make_rootfs({"type": "bind", "source": str(box.root), "lock": None})

        def start() -> InitProcess:
            process = create_init(InitRequest(make_spec("true", user={"username": "alice"}), mount_fd))
            process.wait("ready")
            process.release_gate()
            until(lambda: stopped(process.pid))
            return process

        try:
            with frozen(monkeypatch, program, "execute", start) as process:
                assert status(process.pid)["Uid"].split() == ["1000"] * 4
                assert not is_dumpable(process.pid)
        finally:
            os.close(mount_fd)

    def test_root_inside_cannot_trace_it(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        """Root of a container has our user id: what keeps it off is that we are not dumpable (ptrace(2))."""
        with box.start("sleep", "100") as (init, _):
            until(lambda: "sleep" in Path(f"/proc/{init.pid}/cmdline").read_text())
            assert traced_by_root(init.pid)  # the program may be looked into: so the question is a real one

            def start() -> InitProcess:
                process = setns.create_exec(ExecRequest(init.pid, init.pidfd, make_spec("true")["process"]))
                process.wait("ready")
                until(lambda: process.feed() is None and process.helper_pid != 0 and stopped(process.pid))
                return process

            with frozen(monkeypatch, program, "execute", start) as process:
                assert status(process.pid)["Uid"].split() == ["0"] * 4
                assert not traced_by_root(process.pid)

    def test_entrypoint_that_is_the_interpreter_itself(self, box: Box) -> None:
        """`#!/proc/self/exe`: the kernel executes our program once more, inside; the host's file stays as it is."""
        before = Path(sys.executable).resolve().stat()
        evil = box.root / "bin/evil"
        evil.write_text("#!/proc/self/exe\n")
        evil.chmod(0o755)
        with contextlib.suppress(Exception):
            box.run("/bin/evil")
        after = Path(sys.executable).resolve().stat()
        assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)


class TestNothingIsLoadedFromTheRoot:
    """Own finding: modules, codecs and libraries planted in the image are not loaded by init or exec (rule 2)."""

    def plant(self, box: Box) -> Path:
        """A module in the image at every place where this interpreter looks for one; it leaves a mark when run."""
        places = {sysconfig.get_path("stdlib"), *filter(None, sys.path)}
        for place in places:
            directory = box.root / place.lstrip("/")
            directory.mkdir(parents=True, exist_ok=True)
            for name in ("traceback", "bwplanted", "linecache", "tokenize"):
                (directory / f"{name}.py").write_text("open('/tmp/owned', 'w')\n")
            (directory / "encodings").mkdir(exist_ok=True)
            (directory / "encodings/idna.py").write_text("open('/tmp/owned', 'w')\n")
        return box.root / "tmp/owned"

    def test_an_import_inside_finds_nothing(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        mark = self.plant(box)

        def attack(*_: object) -> None:
            import bwplanted  # type: ignore[import-not-found]  # noqa: F401

        monkeypatch.setattr(program, "execute", attack)
        error = failure(lambda: box.run("true"))
        assert "ModuleNotFoundError" in str(error)
        assert not mark.exists()

    def test_an_import_inside_finds_nothing_in_an_exec(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        mark = self.plant(box)

        def attack(*_: object) -> None:
            import bwplanted  # noqa: F401

        with box.start("sleep", "100") as (init, _):
            monkeypatch.setattr(users, "resolve", attack)

            def enter() -> None:
                with execute(init, "true"):
                    pass

            assert "ModuleNotFoundError" in str(failure(enter))
        assert not mark.exists()

    @pytest.mark.parametrize(
        "process",
        [
            {"args": ["nope"]},
            {"args": ["/bin/true", "\udcff\u20ac"]},
            {"user": {"username": "nobody-here"}},
            {"user": {"username": "b\u00fccher"}},
            {"cwd": "/etc/passwd"},
            {"cwd": "/\udcff"},
            {"env": ["\u20ac=\udcff", "PATH=/bin"]},
        ],
        ids=["missing program", "odd bytes", "unknown user", "odd user", "no directory", "odd directory", "odd env"],
    )
    def test_error_paths_load_nothing(self, box: Box, process: dict[str, Any]) -> None:
        mark = self.plant(box)
        with contextlib.suppress(Exception):
            box.run(spec=make_spec("true", **process))
        assert not mark.exists()

    def test_an_unforeseen_error_loads_nothing(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        mark = self.plant(box)
        monkeypatch.setattr(program, "find", lambda *_: 1 / 0)
        error = failure(lambda: box.run("true"))
        assert "ZeroDivisionError" in str(error)
        assert not mark.exists()


class TestExecHelper:
    """Own finding: a container with CAP_SYS_PTRACE looks into what enters it."""

    def test_helper_is_not_in_the_pid_namespace(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        with box.start(spec=make_spec("sleep", "100", capabilities=PTRACE)) as (init, _):

            def start() -> InitProcess:
                process = setns.create_exec(ExecRequest(init.pid, init.pidfd, make_spec("true")["process"]))
                until(lambda: stopped(process.pid))
                return process

            with frozen(monkeypatch, users, "resolve", start) as process:
                inside = [n for n in os.listdir(f"/proc/{init.pid}/root/proc") if n.isdigit()]
                assert inside == ["1"]
                assert os.readlink(f"/proc/{process.pid}/ns/pid") != os.readlink(f"/proc/{init.pid}/ns/pid")
                assert os.readlink(f"/proc/{process.pid}/ns/mnt") == os.readlink(f"/proc/{init.pid}/ns/mnt")

    @pytest.mark.parametrize("when", ["at once", "at the end"])
    def test_what_appears_inside_is_final(self, box: Box, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
        """Credentials, capabilities, descriptors, dumpability: as the program's, the moment it is in the namespace."""
        secret = os.open("/etc/passwd", os.O_RDONLY)
        os.set_inheritable(secret, True)
        wanted = make_spec("true", user={"username": "alice"})["process"]
        first = ModuleType("signals")  # for the child of the last fork alone: what it does first
        first.reset = signals.reset  # type: ignore[attr-defined]
        try:
            with box.start(spec=make_spec("sleep", "100", capabilities=PTRACE)) as (init, _):

                def start() -> InitProcess:
                    process = setns.create_exec(ExecRequest(init.pid, init.pidfd, wanted))
                    process.wait("ready")
                    until(lambda: process.feed() is None and process.helper_pid != 0 and stopped(process.pid))
                    return process

                module, name = (first, "reset") if when == "at once" else (program, "find")
                monkeypatch.setattr(handover, "signals", first)
                with frozen(monkeypatch, module, name, start) as process:
                    found = status(process.pid)
                    assert found["NSpid"].split()[1] != "1"
                    assert len(found["NSpid"].split()) == 2
                    assert found["Uid"].split() == found["Gid"].split() == ["1000"] * 4
                    assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == int(found["CapInh"], 16) == 0
                    assert int(found["CapBnd"], 16) == 0xA80425FB
                    assert not is_dumpable(process.pid)
                    opened = {
                        fd: to for fd, to in descriptors(process.pid).items() if not to.startswith("pipe:") or fd < 3
                    }
                    assert set(opened) - {0, 1, 2} == {fd for fd, name in opened.items() if name.startswith("socket:")}
                    assert len(opened) == 4  # the sync socket
        finally:
            os.close(secret)

    def test_init_that_joins_another_pid_namespace_is_final_too(
        self, box: Box, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`--pid=container:X`: X's processes may trace what appears beside them."""
        with box.start(spec=make_spec("sleep", "100", capabilities=PTRACE)) as (other, _):
            spec = make_spec("true", user={"username": "alice"})
            spec["linux"]["namespaces"][1]["path"] = f"/proc/{other.pid}/ns/pid"
            mount_fd, _ = rootfs.make_rootfs({"type": "bind", "source": str(box.root), "lock": None})

            def start() -> InitProcess:
                process = create_init(InitRequest(spec, mount_fd))
                process.wait("ready")
                inside = [n for n in os.listdir(f"/proc/{other.pid}/root/proc") if n.isdigit()]
                assert inside == ["1"]
                process.release_gate()
                until(lambda: process.feed() is None and process.helper_pid != 0 and stopped(process.pid))
                return process

            try:
                with frozen(monkeypatch, program, "find", start) as process:
                    assert int(status(process.pid)["CapPrm"], 16) == 0
                    assert len(descriptors(process.pid)) == 4
                    assert not is_dumpable(process.pid)
            finally:
                os.close(mount_fd)

    def test_covered_multiplexer_is_refused(self, box: Box) -> None:
        """exec -t in a container that has put something over the node from which terminals come."""
        spec = make_spec("sh", "-c", "touch /tmp/bait; mount -o bind /tmp/bait /dev/pts/ptmx; echo ready; sleep 100")
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind] = [*CAPABILITIES, "CAP_SYS_ADMIN"]
        with box.start(spec=spec) as (init, output):
            assert read_line(output) == "ready"

            def enter() -> None:
                with execute(init, "true", terminal=True):
                    pass

            error = failure(enter)
            assert (error.operation, error.path) == ("openat2", "ptmx")

    def test_hostile_devpts_is_refused(self, box: Box) -> None:
        """exec -t in a container whose /dev/pts is something else."""
        spec = make_spec("sh", "-c", "umount /dev/pts; mknod /dev/pts/ptmx c 1 5; echo ready; sleep 100")
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind] = [*CAPABILITIES, "CAP_SYS_ADMIN"]
        with box.start(spec=spec) as (init, output):
            assert read_line(output) == "ready"

            def enter() -> None:
                with execute(init, "true", terminal=True):
                    pass

            error = failure(enter)
            assert (error.step, error.path) == ("console", "/dev/pts")


class TestCapabilities:
    def test_inheritable_is_empty(self, box: Box) -> None:
        """CVE-2022-29162; also when the spec names some, and for exec."""
        sets = {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted", "inheritable")}
        spec = make_spec("sh", "-c", "grep CapInh /proc/self/status; echo; sleep 100", capabilities=sets)
        with box.start(spec=spec) as (init, output):
            assert read_line(output).split() == ["CapInh:", "0" * 16]
            with execute(init, "grep", "CapInh", "/proc/self/status", capabilities=sets) as (process, text):
                assert finish(process, text)[1].split() == ["CapInh:", "0" * 16]

    def test_set_user_id_gives_no_more_than_the_bound(self, box: Box) -> None:
        shutil.copy("/bin/busybox", box.root / "bin/suid")
        (box.root / "bin/suid").chmod(0o4755)
        spec = make_spec("/bin/suid", "cat", "/proc/self/status", user={"username": "alice"}, capabilities={})
        code, text = box.run(spec=spec)
        if code == 0:
            assert "CapEff:\t" + "0" * 16 in text


class TestDescriptors:
    """CVE-2024-21626: a leaked descriptor of a host directory is a way out."""

    @pytest.fixture
    def leaked(self) -> Iterator[int]:
        fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        os.set_inheritable(fd, True)
        yield fd
        os.close(fd)

    def test_none_reaches_the_program(self, box: Box, leaked: int) -> None:
        assert box.run("ls", "/proc/self/fd")[1].split() == ["0", "1", "2", "3"]
        with box.start("sleep", "100") as (init, _), execute(init, "ls", "/proc/self/fd") as (process, output):
            assert finish(process, output)[1].split() == ["0", "1", "2", "3"]

    def test_working_directory_through_one(self, box: Box, leaked: int) -> None:
        for fd in range(3, 20):
            error = failure(lambda fd=fd: box.run(spec=make_spec("pwd", cwd=f"/proc/self/fd/{fd}")))  # type: ignore[misc]
            assert error.step == "cwd"

    def test_exec_working_directory_through_one(self, box: Box, leaked: int) -> None:
        with box.start("sleep", "100") as (init, _):
            for path in [*(f"/proc/self/fd/{fd}" for fd in range(3, 20)), "/proc/1/cwd", "/proc/1/root"]:

                def enter(path: str = path) -> None:
                    with execute(init, "pwd", cwd=path):
                        pass

                assert failure(enter).step == "cwd"

    def test_directory_outside_is_noticed(self, box: Box, monkeypatch: pytest.MonkeyPatch, leaked: int) -> None:
        """Should ever a descriptor of the host be where the working directory is taken from, the last check holds."""
        original = handover.own_streams

        def stray(uid: int) -> None:
            original(uid)
            os.fchdir(stray_fd)

        stray_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        monkeypatch.setattr(handover, "own_streams", stray)
        try:
            error = failure(lambda: box.run("pwd", keep_fds=(stray_fd,)))
        finally:
            os.close(stray_fd)
        assert "outside of container mount namespace root" in str(error)


class TestUsers:
    @pytest.mark.parametrize(
        ("user", "ids"),
        [
            ("1", ["1", "0"]),  # CVE-2026-30892: a number is an id, with or without an entry
            ("1000", ["1000", "1000"]),
            ("alice", ["1000", "1000"]),
            ("2147483647", ["2147483647", "0"]),
        ],
    )
    def test_exec_runs_as_who_was_asked_for(self, box: Box, user: str, ids: list[str]) -> None:
        with box.start("sleep", "100") as (init, _):
            script = "echo $(id -u) $(id -g)"
            with execute(init, "sh", "-c", script, user={"username": user}) as (process, output):
                assert finish(process, output) == (0, " ".join(ids) + "\n")

    @pytest.mark.parametrize("user", ["4294967296", "4294967295", "2147483648", "99999999999999999999", "0:4294967296"])
    def test_ids_out_of_range_are_refused(self, box: Box, user: str) -> None:
        """CVE-2026-46680: 4294967296 is not root."""
        error = failure(lambda: box.run(spec=make_spec("id", user={"username": user})))
        assert "uids and gids must be in range 0-2147483647" in str(error)

    def test_an_entry_out_of_range_is_refused(self, box: Box) -> None:
        (box.root / "etc/passwd").write_text("evil:x:4294967296:0::/:/bin/sh\n")
        assert "range" in str(failure(lambda: box.run(spec=make_spec("id", user={"username": "evil"}))))

    def test_a_huge_passwd_is_not_read(self, box: Box) -> None:
        """GHSA-jpcc-p29g-p8mq: the read is bounded; a sparse file costs an attacker nothing."""
        with (box.root / "etc/passwd").open("wb") as file:
            file.truncate(1 << 40)
        error = failure(lambda: box.run(spec=make_spec("id", user={"username": "alice"})))
        assert (error.step, error.path) == ("user", "/etc/passwd")

    @pytest.mark.parametrize("kind", ["fifo", "device", "socket", "directory", "link to the host"])
    def test_a_passwd_that_is_no_file(self, box: Box, kind: str) -> None:
        path = box.root / "etc/passwd"
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 5))
        elif kind == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o644)
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to("/proc/1/root/etc/passwd")
        error = failure(lambda: box.run(spec=make_spec("id", user={"username": "alice"})))
        assert error.step == "user"

    def test_a_link_in_etc_stays_inside(self, box: Box) -> None:
        (box.root / "etc/passwd").rename(box.root / "etc/real")
        (box.root / "etc/passwd").symlink_to("/etc/real")
        assert box.run(spec=make_spec("id", "-u", user={"username": "alice"})) == (0, "1000\n")


class TestEnvironment:
    def test_malformed_entries_do_not_leak_the_hosts(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        """CVE-2026-57231: `FOO` without `=` is no request for the host's FOO."""
        monkeypatch.setenv("BW_SECRET", "host")
        env = ["BW_SECRET", "=x", "", "=", "A=1", "PATH=/bin", "N=a\0b"]
        code, text = box.run(spec=make_spec("env", env=env))
        assert (code, sorted(text.split())) == (0, ["A=1", "HOME=/root", "PATH=/bin"])


class TestKeyring:
    def test_the_hosts_session_keyring_is_left(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        number = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
        if number is None:
            pytest.skip("keyctl's number is not known here")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(number, 1, None) < 0:
            pytest.skip("no keyrings in this kernel")
        ours = libc.syscall(number, 0, -3, 0)
        mount_fd, _ = rootfs.make_rootfs({"type": "bind", "source": str(box.root), "lock": None})

        def report(*_: object) -> None:
            raise RuntimeError(f"keyring {libc.syscall(number, 0, -3, 0)}")

        monkeypatch.setattr(program, "execute", report)
        try:
            error = failure(lambda: box.run("true"))
        finally:
            os.close(mount_fd)
        assert f"keyring {ours}" not in str(error)


def test_exit_status_survives_hostile_output(box: Box) -> None:
    """What the program writes is never taken for a report of ours."""
    code, text = box.run("sh", "-c", 'echo \'["failed", {"error": {"message": "x"}}]\'; exit 3')
    assert (code, "failed" in text) == (3, True)


def test_sealing_helpers(tmp_path: Path) -> None:
    from boxwright.linux import memfd

    program_file = str(tmp_path / "busybox")
    shutil.copy("/bin/busybox", program_file)
    fd = memfd.sealed_copy(program_file)
    try:
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    finally:
        os.close(fd)
    fd = memfd.read_only_bind(program_file)
    try:
        with pytest.raises(OSError, match="Read-only"):
            os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
        child = os.fork()
        if child == 0:
            os.execve(fd, ["true"], {})
        assert pidfd.wait(pidfd.open_pid(child)) == 0
    finally:
        os.close(fd)
