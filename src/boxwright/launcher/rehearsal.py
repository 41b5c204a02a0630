"""What the launcher does once before it forks, so that no child has to: each page that it leaves alone is shared.

A shim's life is played through a few times, in the launcher itself, with real descriptors and with stand-ins for what
a container would have.  The interpreter then has specialised the code, filled its attribute caches and made whatever is
made on first use; a shim finds all that done, and does not write to these pages any more.
"""

import os

from boxwright import errdefs
from boxwright.launcher import exitrecord, packets, sample, shim, starter
from boxwright.launcher.gathering import gather
from boxwright.libcontainer import cgroups, credentials, devices, rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any, NoReturn

ROUNDS = 12  # Python 3.11 specialises a function after its eighth call
_ID = "rehearsal"
_PREFIX = ".rehearsal-"


def warm_up(exec_root: str) -> None:
    """Play; `exec_root` is where a directory for it can be made.

    The caller is a subreaper and has not yet ignored SIGCHLD.  A life that fails (a full disk) ends the rehearsal
    early: shims then only cost more memory.
    """
    cgroups.detect()
    credentials.remember_bounding()
    for name in os.listdir(exec_root):
        if name.startswith(_PREFIX) and not os.path.exists(f"/proc/{name.removeprefix(_PREFIX)}"):
            _remove(f"{exec_root}/{name}")  # of a launcher that was killed while it rehearsed
    directory = f"{exec_root}/{_PREFIX}{os.getpid()}"
    os.mkdir(directory, 0o700)
    real, starter.serve = starter.serve, _stand_in
    try:
        root = _make_layers(directory)

        def play_first() -> None:
            starter.set_name(b"rehearsal")
            sample.play(root)
            _play_group(f"{directory}/group")

        def play_both() -> None:
            _play(directory)
            play_first()

        gather(play_both)
        for _ in range(ROUNDS):
            play_first()
        for _ in range(ROUNDS):
            if not _play(directory):
                break
    finally:
        starter.serve = real
        _remove(directory)


def _remove(directory: str) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(directory)


def _make_layers(directory: str) -> "dict[str, Any] | None":
    """A Mount value of an overlay, or None where the file system of `directory` cannot carry one."""
    names = {name: f"{directory}/{name}" for name in ("lower", "upper", "work")}
    for path in names.values():
        os.mkdir(path)
    value = {"type": "overlay", **names, "lower": [names["lower"]], "lock": f"{directory}/lock"}
    try:
        packets.close_all(rootfs.make_rootfs(value))
    except errdefs.StepError:
        return None
    return value


def _play_group(directory: str) -> None:
    """A cgroup's life in directories that are none."""
    os.mkdir(directory)
    controllers = ("memory", "cpu", "pids", "devices", "freezer")
    group, spare = (
        cgroups.fs.Manager({name: f"{directory}/{kind}-{name}" for name in controllers}, {}) for kind in ("c", "spare")
    )
    for path in spare.directories():
        os.mkdir(path)
        for name in (
            "tasks",
            "cgroup.procs",
            "devices.allow",
            "devices.deny",
            "memory.oom_control",
            "cgroup.event_control",
        ):
            os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_WRONLY))
    try:
        spare.limit(devices.Policy(True))
        spare.enter()
        spare.is_beside(group)
        group.take(spare)
        os.close(group.oom_fd())
        group.oom_kills()
        group.pids()
    except errdefs.StepError:
        pass  # only that much is rehearsed then
    _remove(directory)


def _play(directory: str) -> bool:
    """One life: start, a question, the program's output and end, release.  False when it did not get that far."""
    engine, control = packets.pair()
    life = shim.Shim(control)
    request = {
        "type": "start", "generation": 1, "id": _ID, "container_dir": directory, "socket_dir": directory,
        "cgroup": {"driver": "", "parent": "/boxwright-rehearsal", "name": _ID},
        "log": {"type": "json-file", "config": {}}, "tty": False, "open_stdin": True, "stdin_once": False,
        "configure_network": False, "limit": None, "attach": [], "sent_ns": 0, "becomes": True,
    }  # fmt: skip
    record = exitrecord.open_in(directory)
    packets.send(engine, request, (record,), b"{}")
    os.close(record)
    while life.state in ("waiting", "starting"):
        life.loop.turn(-1)
    played = life.state == "running"
    if played:
        packets.send(engine, {"type": "call", "generation": 1, "verb": "resize", "seq": 1, "h": 24, "w": 80})
        life.loop.turn(-1)
        life.stdio.finish()  # the stand-in's program ends with its stdin
        while life.state != "ended":
            life.loop.turn(-1)
        packets.send(engine, {"type": "release", "generation": 1})
        life.loop.run()
    life.loop.close()
    engine.close()
    return played


def _stand_in(
    sock: "socket",
    warm_up: "Callable[[], None] | None" = None,
    spare: "cgroups.fs.Manager | None" = None,
    usual: bytes = b"",
    line: "socket | None" = None,
) -> "NoReturn":
    """In the place of `starter.serve`: a program that says something and ends with its stdin."""
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, packets.HIGHEST_FD)
    sock.setblocking(True)
    got = packets.receive(sock)
    if got is None:
        os._exit(1)
    _, (stdin, stdout, _stderr, _record) = got
    sock.send(b'["ready",{"kept":[]}]\n[["mounts",1,2,""]]')
    packets.receive_packet(sock)
    sock.send(b'["executing",{"path":"/bin/true","execve_ns":1}]\n[["credentials",1,2,""]]')
    sock.close()
    os.write(stdout, b"a line\nanother\n")
    os.read(stdin, 1)
    os._exit(0)
