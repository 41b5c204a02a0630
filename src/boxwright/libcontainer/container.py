"""A container as a directory: its id, bundle and first process, so that later commands find it again.

`<root>/<id>/state.json` is written once, when the container is created, and read by every other verb; `gate.sock` is
where the created process waits for `start`, and its presence tells created from running.
"""

import errno
import fcntl
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket

from boxwright import errdefs
from boxwright.libcontainer import cgroups, jsontext, state, sync
from boxwright.linux import pidfd, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_VERSION = "1.2.0"
_STATE, _GATE = "state.json", "gate.sock"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_MAX_NAME = 1024
_STATE_LIMIT = 1 << 20


class Container:
    """One container of a runtime root.

    record: `id`, `bundle`, `pid`, `start_time` (clock ticks since boot: with the pid it names one process for ever),
    `created` (RFC 3339), `annotations`, `cgroup` ({"driver", "parent", "name"} or None).
    """

    __slots__ = ("directory", "id", "record")

    def __init__(self, root: str, container_id: str) -> None:
        if not 0 < len(container_id) <= _MAX_NAME or not _NAME_CHARACTERS.issuperset(container_id):
            raise errdefs.InvalidParameter(f"invalid container ID format: {container_id}")
        if container_id in (".", ".."):
            raise errdefs.InvalidParameter(f"invalid container ID format: {container_id}")
        self.id = container_id
        self.directory = os.path.join(root, container_id)
        self.record: dict[str, Any] = {}

    @classmethod
    def load(cls, root: str, container_id: str) -> "Container":
        """The existing container; raises errdefs.NotFound."""
        found = cls(root, container_id)
        try:
            with open(os.path.join(found.directory, _STATE), "rb") as file:
                found.record = jsontext.loads(file.read(_STATE_LIMIT))
        except FileNotFoundError:
            raise errdefs.NotFound(f"container does not exist: {container_id}") from None
        return found

    def reserve(self) -> None:
        """Make the directory; raises errdefs.Conflict when the id is taken."""
        os.makedirs(os.path.dirname(self.directory), 0o711, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise errdefs.Conflict(f"container with given ID already exists: {self.id}") from None

    def save(self, record: "dict[str, Any]") -> None:
        """Write the record, whole or not at all."""
        self.record = record
        temporary = os.path.join(self.directory, _STATE + ".new")
        with open(temporary, "wb") as file:
            file.write(jsontext.dumps(record).encode())
        os.rename(temporary, os.path.join(self.directory, _STATE))

    def status(self) -> str:
        """The state, asked of the kernel: of the process, its freezer and the gate."""
        pid = self.record.get("pid") or 0
        if not pid or not self._alive(pid):
            return state.STOPPED
        if os.path.exists(os.path.join(self.directory, _GATE)):
            return state.CREATED
        manager = self.cgroup()
        return state.PAUSED if manager is not None and manager.frozen() else state.RUNNING

    def oci_state(self) -> "dict[str, Any]":
        """The OCI state document; `pid` is 0 when stopped."""
        status = self.status()
        return {
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "status": status,
            "pid": 0 if status == state.STOPPED else self.record["pid"],
            "bundle": self.record["bundle"],
            "created": self.record["created"],
            "annotations": self.record.get("annotations") or {},
        }

    def cgroup(self) -> "cgroups.Manager | None":
        """The manager of the container's group."""
        place = self.record.get("cgroup")
        return cgroups.manager(place["driver"], place["parent"], place["name"]) if place else None

    def open_process(self) -> int:
        """A pidfd of the first process; raises errdefs.Conflict when it has ended."""
        pid = self.record.get("pid") or 0
        try:
            fd = pidfd.open_pid(pid)
        except (ProcessLookupError, OSError):
            raise errdefs.Conflict(f"container not running: {self.id}") from None
        # The pidfd is opened first: if the start time fits now, it is the same process that it names.
        if not self._alive(pid):
            os.close(fd)
            raise errdefs.Conflict(f"container not running: {self.id}")
        return fd

    def kill(self, number: int, everything: bool = False) -> None:
        """Send a signal to the first process, or to all of the container's."""
        manager = self.cgroup()
        if everything and manager is not None:
            if number == signals.SIGKILL:
                manager.kill()
                return
            for pid in manager.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            return
        fd = self.open_process()
        try:
            pidfd.send_signal(fd, number)
        except ProcessLookupError:
            raise errdefs.Conflict(f"container not running: {self.id}") from None
        finally:
            os.close(fd)

    def listen(self) -> socket:
        """The gate of a container that is being created; the first process inherits it and accepts on it."""
        gate = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        self._with_gate_address(gate.bind)
        gate.listen(1)
        return gate

    def start(self) -> None:
        """Open the gate and wait for execve; raises StepError with the failure of the container's first process."""
        lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state.require("start", self.status(), self.id)
            sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
            self._with_gate_address(sock.connect)
            self.close_gate()
            sync.send(sock, sync.GO)
            pid = sync.await_execve(sock)
            sock.close()
            if pid:
                self.save({**self.record, "pid": pid, "start_time": pidfd.start_time(pid)})
        except ConnectionRefusedError:
            raise errdefs.Conflict(f"container not running: {self.id}") from None
        finally:
            os.close(lock)

    def close_gate(self) -> None:
        """Remove the gate: nobody starts this container any more."""
        try:
            os.unlink(os.path.join(self.directory, _GATE))
        except FileNotFoundError:
            pass

    def remove(self) -> None:
        """Take away the group and the directory; fine when parts are gone."""
        manager = self.cgroup()
        if manager is not None:
            manager.kill()
            manager.destroy()
        for name in (_GATE, _STATE, _STATE + ".new"):
            try:
                os.unlink(os.path.join(self.directory, name))
            except FileNotFoundError:
                continue
        try:
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass

    def _alive(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read(4096).rpartition(b")")[2].split()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                return False
            raise
        return fields[0] not in (b"Z", b"X") and int(fields[19]) == self.record["start_time"]

    def _with_gate_address(self, call: "Any") -> None:
        """bind or connect through a descriptor: a long root does not fit into sockaddr_un (108 bytes)."""
        fd = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            call(f"/proc/self/fd/{fd}/{_GATE}")
        finally:
            os.close(fd)
