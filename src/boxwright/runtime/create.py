"""`create` and `run`: from a bundle to a process."""

import os
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket
from array import array
from time import gmtime, strftime, time

from boxwright import errdefs
from boxwright.libcontainer import cgroups, rootfs
from boxwright.libcontainer.container import Container
from boxwright.libcontainer.process import InitProcess, InitRequest, create_init
from boxwright.linux import pidfd
from boxwright.runtime import terminal
from boxwright.runtime.bundle import Bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from boxwright.runtime.arguments import Arguments


def create(root: str, arguments: "Arguments") -> int:
    """Everything but the program: the first process waits at the gate, outlives us and is started by `start`."""
    container = Container(root, arguments.operands[0])
    bundle = Bundle(arguments.value("--bundle"))
    if bundle.spec["process"].get("terminal") and not arguments.flag("--console-socket"):
        raise errdefs.InvalidParameter("cannot allocate tty if runc will detach without setting console socket")
    _begin(container, bundle, arguments, gated=True).close()
    return 0


def run(root: str, arguments: "Arguments") -> int:
    """Create and start; in the foreground also wait, and remove.  Returns the program's exit code (0 when detached)."""
    container = Container(root, arguments.operands[0])
    bundle = Bundle(arguments.value("--bundle"))
    detach = arguments.flag("--detach")
    has_terminal = bool(bundle.spec["process"].get("terminal"))
    if has_terminal and detach and not arguments.flag("--console-socket"):
        raise errdefs.InvalidParameter("cannot allocate tty if runc will detach without setting console socket")
    process = _begin(container, bundle, arguments, gated=False)
    try:
        if detach:
            _start(container, process)
            return 0
        with terminal.Watch(process, has_terminal and not arguments.flag("--console-socket")) as watch:
            _start(container, process)
            return watch.wait()
    except BaseException:
        process.abort()
        raise
    finally:
        process.close()
        if not detach and not arguments.flag("--keep"):
            remove(container)


def _start(container: Container, process: InitProcess) -> None:
    process.release_gate()
    process.wait("executed")
    container.save({**container.record, **_identity(process.pid)})


def _begin(container: Container, bundle: Bundle, arguments: "Arguments", gated: bool) -> InitProcess:
    """The container's first process, ready at its gate; nothing is left of it when this fails."""
    container.reserve()
    process = None
    gate = None
    root_fd = -1
    try:
        parent, name = bundle.cgroup_place(container.id)
        place = {"driver": cgroups.detect(), "parent": parent, "name": name}
        record = {
            "id": container.id,
            "bundle": bundle.directory,
            "annotations": bundle.spec.get("annotations") or {},
            "created": _now(),
            "cgroup": place,
        }
        container.record = record
        manager = cgroups.manager(
            place["driver"], parent, name, (bundle.spec.get("linux") or {}).get("resources") or {}
        )
        manager.create()
        root_fd, _ = rootfs.make_rootfs(bundle.root_mount())
        gate = container.listen() if gated else None
        request = InitRequest(
            bundle.spec,
            root_fd,
            seccomp_bpf=bundle.filter(),
            cgroup=manager,
            keep_fds=range(3, 3 + int(arguments.value("--preserve-fds", "0"))),
            gate_fd=gate.fileno() if gate else -1,
            die_with_parent=False,
        )
        process = create_init(request)
        process.wait("ready")
        if arguments.flag("--console-socket") and process.console_fd >= 0:
            _send_console(arguments.value("--console-socket"), process.console_fd)
        container.save({**record, **_identity(process.pid)})
        if arguments.flag("--pid-file"):
            _write_pid(arguments.value("--pid-file"), process.pid)
        return process
    except BaseException:
        if process is not None:
            process.abort()
            process.close()
        remove(container)
        raise
    finally:
        if root_fd >= 0:
            os.close(root_fd)
        if gate is not None:
            gate.close()


def _identity(pid: int) -> "dict[str, Any]":
    return {"pid": pid, "start_time": pidfd.start_time(pid)}


def remove(container: Container) -> None:
    """Take away a container, and our own parent group when it was the last."""
    container.remove()
    place = container.record.get("cgroup")
    if place and place["parent"] == "/boxwright-runtime":
        cgroups.remove_parent(place["driver"], place["parent"])


def _now() -> str:
    seconds = time()
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds)) + f".{int(seconds % 1 * 1e9):09d}Z"


def _send_console(path: str, master: int) -> None:
    """Hand the pty master to whoever listens on the console socket (runc's protocol: a name, one descriptor)."""
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        sock.connect(path)
        sock.sendmsg([b"/dev/ptmx"], [(SOL_SOCKET, SCM_RIGHTS, array("i", [master]))])
    finally:
        sock.close()


def _write_pid(path: str, pid: int) -> None:
    """Whoever waits for the file never sees it empty."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}")
    with open(temporary, "w", encoding="ascii") as file:
        file.write(str(pid))
    os.rename(temporary, path)
