"""A busybox root and containers in it, straight on libcontainer: what the tests of this directory share."""

import contextlib
import os
import select
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from boxwright.errdefs import StepError
from boxwright.libcontainer import rootfs, setns
from boxwright.libcontainer.process import ExecRequest, InitProcess, InitRequest, create_init
from boxwright.linux import namespaces as linux_namespaces
from boxwright.linux import pidfd

BUSYBOX = "/bin/busybox"
DEADLINE = 20.0
APPLETS = [
    "cat",
    "chmod",
    "chown",
    "echo",
    "env",
    "false",
    "grep",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mknod",
    "mount",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "sh",
    "sleep",
    "stat",
    "stty",
    "sysctl",
    "test",
    "touch",
    "true",
    "tty",
    "umount",
    "unshare",
]
CAPABILITIES = [
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
]  # fmt: skip
PROC = {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}
DEV = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]}
PTS = {
    "destination": "/dev/pts",
    "type": "devpts",
    "source": "devpts",
    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
}
SYS = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
MQUEUE = {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}
NAMESPACES = ("mount", "pid", "network", "uts", "ipc", "cgroup")


def make_root(path: Path) -> Path:
    """A root file system with busybox and the files that a base image has."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nwheel:x:10:root,alice\nalice:x:1000:\naudio:x:29:alice\n")
    return path


def make_spec(*args: str, namespaces: tuple[str, ...] = NAMESPACES, **process: Any) -> dict[str, Any]:
    """An OCI spec with Docker's mounts, default capabilities and namespaces; `process` overrides its process."""
    sets = {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")}
    return {
        "process": {
            "args": list(args),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"username": ""},
            "capabilities": sets,
            **process,
        },
        "root": {"path": "unused"},
        "mounts": [PROC, DEV, PTS, SYS, CGROUP, MQUEUE],
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


class Box:
    """A container root; `run` a program in a new container of it, `start` one that stays."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *args: str, spec: dict[str, Any] | None = None, **request: Any) -> tuple[int, str]:
        """(exit code, what it wrote on stdout and stderr) of a program in a container; StepError when it fails."""
        with self.start(*args, spec=spec, **request) as (process, output):
            return finish(process, output)

    def script(self, text: str, **options: Any) -> str:
        """Output of a shell script in a container; its exit code must be 0."""
        code, output = self.run("sh", "-c", text, **options)
        assert code == 0, (code, output)
        return output

    @contextlib.contextmanager
    def start(
        self, *args: str, spec: dict[str, Any] | None = None, gate: Callable[[InitProcess], None] | None = None,
        **request: Any,
    ) -> Iterator[tuple[InitProcess, int]]:  # fmt: skip
        """A running container: (process, descriptor of its output); killed and cleaned up at the end.

        gate: called before the gate is released.
        """
        spec = spec or make_spec(*args)
        mount_fd, lock_fd = rootfs.make_rootfs({"type": "bind", "source": str(self.root), "lock": None})
        assert lock_fd == -1
        process, output = None, -1
        try:
            with streams(spec["process"]) as (stdio, output):
                process = create_init(InitRequest(spec, mount_fd, stdio=stdio, **request))
            process.wait("ready", timeout=DEADLINE)
            if gate:
                gate(process)
            process.release_gate()
            process.wait("executed", timeout=DEADLINE)
            yield process, process.console_fd if spec["process"].get("terminal") else output
        finally:
            os.close(mount_fd)
            if output >= 0:
                os.close(output)
            if process is not None:
                process.abort()
                process.close()


@contextlib.contextmanager
def execute(init: InitProcess, *args: str, **process: Any) -> Iterator[tuple[InitProcess, int]]:
    """A process in the container of `init`, as `docker exec` starts one: (process, descriptor of its output)."""
    wanted = {**make_spec(*args)["process"], **process}
    options = wanted.pop("request", {})
    child, output = None, -1
    try:
        with streams(wanted) as (stdio, output):
            child = setns.create_exec(ExecRequest(init.pid, init.pidfd, wanted, stdio=stdio, **options))
        child.wait("executed", timeout=DEADLINE)
        yield child, child.console_fd if wanted.get("terminal") else output
    finally:
        if output >= 0:
            os.close(output)
        if child is not None:
            child.abort()
            child.close()


@contextlib.contextmanager
def streams(process: dict[str, Any]) -> Iterator[tuple[tuple[int, int, int] | None, int]]:
    """(stdio for a request, the end to read from or -1); the program's ends are closed on leaving."""
    if process.get("terminal"):
        yield None, -1
        return
    ours, theirs = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        yield (null, theirs, theirs), ours
    finally:
        os.close(null)
        os.close(theirs)


def finish(process: InitProcess, output: int) -> tuple[int, str]:
    """Read to the end of the output, reap: (exit code, text)."""
    text = read_all(output)
    return pidfd.wait(process.pidfd), text


def read_all(fd: int) -> str:
    """Everything until end of file (a pty's end is EIO), with a deadline."""
    parts = []
    while select.select([fd], [], [], DEADLINE)[0]:
        try:
            part = os.read(fd, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    else:
        raise TimeoutError(f"no end of output: {b''.join(parts)!r}")
    return b"".join(parts).decode(errors="replace")


def read_line(fd: int) -> str:
    """One line, byte by byte, so that what follows stays in the pipe."""
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([fd], [], [], DEADLINE)[0], line
        byte = os.read(fd, 1)
        assert byte, line
        line += byte
    return line.decode().strip()


def failure(call: Callable[[], object]) -> StepError:
    """The StepError that `call` must raise."""
    try:
        call()
    except StepError as error:
        return error
    raise AssertionError("no failure")


def until(condition: Callable[[], bool]) -> None:
    """Wait for what no descriptor tells of, with a deadline."""
    deadline = monotonic() + DEADLINE
    while not condition():
        assert monotonic() < deadline, "did not happen"
        select.select([], [], [], 0.005)


def user_namespaces() -> bool:
    """Whether this process can make one: in a chroot, and where an administrator forbids it, it cannot."""
    child = os.fork()
    if child == 0:
        try:
            linux_namespaces.unshare(linux_namespaces.CLONE_NEWUSER)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
