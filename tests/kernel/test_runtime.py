"""`boxwright-runtime` on bundles, as a process of its own: what containerd, podman and people call."""

import array
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel.containers import DEADLINE, Box, make_spec, read_all, until

from boxwright.libcontainer import cgroups
from boxwright.linux import pidfd

pytestmark = pytest.mark.root


class Runtime:
    """The command, with a runtime root, a cgroup parent and a bundle of the test's own."""

    def __init__(self, directory: Path, box: Box) -> None:
        self.root = directory / "state"
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        (self.bundle / "rootfs").symlink_to(box.root)
        self.parent = f"/boxwright-test-{os.getpid()}-{abs(hash(str(directory))) % 10**8}"
        self.made: list[str] = []

    def configure(self, *args: str, container: str = "c", **process: Any) -> dict[str, Any]:
        spec = make_spec(*args, **process)
        spec["ociVersion"] = "1.2.0"
        spec["root"] = {"path": "rootfs"}
        spec["linux"]["cgroupsPath"] = f"{self.parent}/{container}"
        spec["annotations"] = {"org.example": "yes"}
        self.write(spec)
        return spec

    def write(self, spec: dict[str, Any]) -> None:
        (self.bundle / "config.json").write_text(json.dumps(spec))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "boxwright.runtime.main", "--root", str(self.root), *words]

    def __call__(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a verb; output goes through files, as a container that outlives the command keeps a pipe open."""
        if words[0] in ("create", "run"):
            words = (words[0], "-b", str(self.bundle), *words[1:])
            self.made.append(words[-1])
        done = subprocess.run(self.command(*words), text=True, timeout=60, stdin=subprocess.DEVNULL, **{
            "capture_output": True, **options
        })  # fmt: skip
        if check:
            assert done.returncode == 0, (done.stdout, done.stderr)
        return done

    def state(self, container: str = "c") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", container).stdout)
        return found

    def close(self) -> None:
        for container in self.made:
            self("delete", "--force", container, check=False)
        cgroups.remove_parent(cgroups.detect(), self.parent)


@pytest.fixture
def runtime(tmp_path: Path, box: Box) -> Iterator[Runtime]:
    made = Runtime(tmp_path, box)
    yield made
    made.close()
    assert not made.root.exists() or not list(made.root.iterdir())


def detached(path: Path) -> dict[str, Any]:
    """Output options for what leaves a process behind."""
    return {"capture_output": False, "stdout": path.open("w"), "stderr": subprocess.STDOUT}


class TestRun:
    def test_output_and_exit_code(self, runtime: Runtime) -> None:
        runtime.configure("sh", "-c", "echo out; echo err >&2; exit 7")
        done = runtime("run", "c", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
        assert runtime("state", "c", check=False).returncode == 1

    def test_program_that_is_missing(self, runtime: Runtime) -> None:
        runtime.configure("nope")
        done = runtime("run", "c", check=False)
        assert done.returncode == 127
        assert 'exec: "nope": executable file not found in $PATH' in done.stderr

    def test_signals_reach_the_program(self, runtime: Runtime) -> None:
        runtime.configure("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done")
        words = runtime.command("run", "-b", str(runtime.bundle), "c")
        runtime.made.append("c")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 5

    def test_detached(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.configure("sleep", "100")
        pid_file = tmp_path / "pid"
        runtime("run", "-d", "--pid-file", str(pid_file), "c", **detached(tmp_path / "out"))
        state = runtime.state()
        assert (state["status"], state["pid"]) == ("running", int(pid_file.read_text()))
        runtime("kill", "c", "KILL")
        until(lambda: runtime.state()["status"] == "stopped")
        runtime("delete", "c")

    def test_a_terminal(self, runtime: Runtime) -> None:
        runtime.configure("sh", "-c", "tty; stty size; read line; echo got $line", terminal=True)
        master, slave = os.openpty()
        fcntl.ioctl(slave, 0x5414, b"\x14\x00\x3c\x00\0\0\0\0")  # TIOCSWINSZ: 20 x 60
        runtime.made.append("c")
        words = runtime.command("run", "-b", str(runtime.bundle), "c")
        with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
            os.close(slave)
            os.write(master, b"hello\n")
            text = read_all(master)
            assert process.wait(DEADLINE) == 0
        os.close(master)
        assert "/dev/pts/0\r\n" in text
        assert "20 60\r\n" in text
        assert "got hello" in text

    def test_passed_descriptors(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.configure("sh", "-c", "cat <&3; ls /proc/self/fd | wc -l")
        (tmp_path / "f").write_text("passed\n")
        with (tmp_path / "f").open() as file:
            saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else -1
            os.dup2(file.fileno(), 3)
            try:
                done = runtime("run", "--preserve-fds", "1", "c", pass_fds=(3,))
            finally:
                os.close(3)
                if saved >= 0:
                    os.dup2(saved, 3)
                    os.close(saved)
        assert done.stdout.split() == ["passed", "5"]


class TestLifecycle:
    def test_create_start_kill_delete(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.configure("sh", "-c", "echo started; sleep 100")
        out = tmp_path / "out"
        runtime("create", "--pid-file", str(tmp_path / "pid"), "c", **detached(out))
        state = runtime.state()
        assert {k: state[k] for k in ("ociVersion", "id", "status", "bundle", "annotations")} == {
            "ociVersion": "1.2.0",
            "id": "c",
            "status": "created",
            "bundle": str(runtime.bundle),
            "annotations": {"org.example": "yes"},
        }
        assert state["pid"] == int((tmp_path / "pid").read_text())
        assert out.read_text() == ""
        assert runtime("delete", "nope", check=False).returncode == 1
        runtime("start", "c")
        until(lambda: out.read_text() == "started\n")
        assert runtime.state()["status"] == "running"
        assert "not stopped" in runtime("delete", "c", check=False).stderr
        assert "it is running" in runtime("start", "c", check=False).stderr
        assert "already exists" in runtime("create", "c", check=False).stderr
        runtime("kill", "c", "9")
        until(lambda: runtime.state()["status"] == "stopped")
        assert runtime.state()["pid"] == 0
        assert runtime("kill", "c", check=False).returncode == 1
        runtime("delete", "c")
        assert "does not exist" in runtime("state", "c", check=False).stderr

    def test_created_and_deleted_without_a_start(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.configure("touch", "/tmp/ran")
        runtime("create", "c", **detached(tmp_path / "out"))
        pid = runtime.state()["pid"]
        runtime("delete", "c")
        until(lambda: not Path(f"/proc/{pid}").exists())
        assert not (runtime.bundle / "rootfs/tmp/ran").exists()

    def test_start_says_what_failed(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.configure("nope")
        runtime("create", "c", **detached(tmp_path / "out"))
        done = runtime("start", "c", check=False)
        assert done.returncode == 1
        assert 'exec: "nope": executable file not found in $PATH' in done.stderr
        until(lambda: runtime.state()["status"] == "stopped")
        runtime("delete", "c")

    def test_create_that_fails_leaves_nothing(self, runtime: Runtime) -> None:
        spec = runtime.configure("true")
        spec["mounts"].append({"type": "bind", "source": "/nope", "destination": "/x", "options": ["rbind"]})
        runtime.write(spec)
        log = runtime.root.parent / "log"
        done = subprocess.run(
            runtime.command("--log", str(log), "--log-format", "json", "create", "-b", str(runtime.bundle), "c"),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 1
        assert 'error mounting "/nope" to rootfs at "/x": no such file or directory' in done.stderr
        assert 'error mounting "/nope"' in json.loads(log.read_text())["msg"]
        assert not list(runtime.root.iterdir())
        manager = cgroups.manager(cgroups.detect(), runtime.parent, "c")
        assert not manager.exists()

    def test_kill_all(self, runtime: Runtime, tmp_path: Path) -> None:
        spec = runtime.configure("sh", "-c", "sleep 101 & sleep 102; true")
        spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
        runtime.write(spec)
        runtime("run", "-d", "c", **detached(tmp_path / "out"))
        manager = cgroups.manager(cgroups.detect(), runtime.parent, "c")
        until(lambda: len(manager.pids()) == 3)
        runtime("kill", "--all", "c", "KILL")
        until(lambda: manager.pids() == [])

    def test_console_socket(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.configure("sh", "-c", "echo on a tty; tty", terminal=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(tmp_path / "console"))
            listener.listen(1)
            listener.settimeout(DEADLINE)
            runtime("create", "--console-socket", str(tmp_path / "console"), "c")
            peer, _ = listener.accept()
            with peer:
                _, ancillary, _, _ = peer.recvmsg(100, socket.CMSG_SPACE(4))
            fds = array.array("i", ancillary[0][2])
        runtime("start", "c")
        assert read_all(fds[0]) == "on a tty\r\n/dev/pts/0\r\n"
        os.close(fds[0])

    def test_a_terminal_needs_the_socket_when_detached(self, runtime: Runtime) -> None:
        runtime.configure("true", terminal=True)
        assert "console socket" in runtime("create", "c", check=False).stderr

    def test_a_root_too_long_for_a_socket_address(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.root = tmp_path / ("r" * 150)
        runtime.configure("true")
        runtime("create", "c", **detached(tmp_path / "out"))
        runtime("start", "c")
        until(lambda: runtime.state()["status"] == "stopped")

    def test_limits_and_filter(self, runtime: Runtime) -> None:
        spec = runtime.configure("sh", "-c", "grep Seccomp: /proc/self/status; mkdir /x 2>&1")
        spec["linux"]["resources"] = {"pids": {"limit": 50}}
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }
        runtime.write(spec)
        done = runtime("run", "c", check=False)
        assert done.stdout.splitlines() == [
            "Seccomp:\t2",
            "mkdir: can't create directory '/x': Operation not permitted",
        ]


class TestSealed:
    """CVE-2019-5736: the host's interpreter cannot be reached from what enters the container."""

    def test_created_process_runs_from_a_sealed_memfd(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.configure("true")
        runtime("create", "c", **detached(tmp_path / "out"))
        pid = runtime.state()["pid"]
        fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_WRITE
            assert seals & fcntl.F_SEAL_SEAL
            assert os.fstat(fd).st_dev != os.stat(sys.executable).st_dev
        finally:
            os.close(fd)

    def test_environment_of_the_caller_stays_outside(self, runtime: Runtime) -> None:
        runtime.configure("env", env=["PATH=/bin", "BW_SECRET"])
        done = runtime("run", "c", env={**os.environ, "BW_SECRET": "host"})
        assert sorted(done.stdout.split()) == ["HOME=/root", "PATH=/bin"]


class TestRefusals:
    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "x" * 1025])
    def test_ids(self, runtime: Runtime, name: str) -> None:
        runtime.configure("true")
        done = runtime("create", name, check=False)
        runtime.made.clear()
        assert (done.returncode, "invalid container ID format" in done.stderr) == (1, True)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"process": 3}', "[" * 100000])
    def test_configurations_that_are_none(self, runtime: Runtime, text: str) -> None:
        (runtime.bundle / "config.json").write_text(text)
        done = runtime("create", "c", check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr

    def test_a_bundle_without_configuration(self, runtime: Runtime) -> None:
        assert "config.json not found" in runtime("create", "c", check=False).stderr

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ([], "a command is needed"),
            (["fly"], "no such command: fly"),
            (["state"], "state needs"),
            (["state", "a", "b"], "state needs"),
            (["state", "--wings", "a"], "flag provided but not defined"),
            (["kill", "a", "NOPE"], "does not exist"),
        ],
    )
    def test_words(self, runtime: Runtime, words: list[str], text: str) -> None:
        done = subprocess.run(runtime.command(*words), capture_output=True, text=True)
        assert (done.returncode, text in done.stderr) == (1, True)


def test_version(runtime: Runtime) -> None:
    assert "spec: 1.2.0" in subprocess.run(runtime.command("--version"), capture_output=True, text=True).stdout


def test_a_pid_that_was_given_to_another_process_is_not_ours(runtime: Runtime, tmp_path: Path) -> None:
    """The start time decides: a stale record never leads a signal to a stranger."""
    runtime.configure("sleep", "100")
    runtime("run", "-d", "c", **detached(tmp_path / "out"))
    runtime("kill", "c", "KILL")
    until(lambda: runtime.state()["status"] == "stopped")
    path = runtime.root / "c/state.json"
    record = json.loads(path.read_text())
    stranger = subprocess.Popen(["sleep", "100"])
    try:
        path.write_text(json.dumps({**record, "pid": stranger.pid}))
        assert runtime.state()["status"] == "stopped"
        assert runtime("kill", "c", "KILL", check=False).returncode == 1
        assert stranger.poll() is None
        fd = pidfd.open_pid(stranger.pid)
        assert not select.select([fd], [], [], 0)[0]
        os.close(fd)
    finally:
        stranger.kill()
        stranger.wait()
