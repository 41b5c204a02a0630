"""The worker: runs one confined job in each child of its launcher.

The request names a job of the table below; its arguments are data, its descriptors are all that it can reach.

    engine                              worker's child
      ├── {kind, args} + descriptors ────►│
      │◄── {begun: true} ─────────────────┤  it has the request; nothing is done before
      │◄── {progress: {…}} ───────────────┤  any number
      │◄── {result: {…}} | {error: {…}} ──┤  once, then the child ends
"""

from _socket import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from boxwright import errdefs
from boxwright.launcher import jobfilter, protocol
from boxwright.launcher.confine import Confinement
from boxwright.libcontainer import seccomp_job
from boxwright.storage import apply, building, contexts, copying, differences, repository
from boxwright.volumes import copyup

Function = Callable[[dict[str, Any], list[int], Confinement], dict[str, Any]]


class Job(NamedTuple):
    """A row of the table: what runs, and the capabilities that it keeps inside its root."""

    function: Function
    capabilities: tuple[str, ...]


# To make files of any owner, kind and mode.
_FILES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
_READING = ("CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN")

JOBS: dict[str, Job] = {
    # CAP_SYS_ADMIN: the kernel lets nobody else set trusted.overlay.opaque.
    "layer.apply": Job(apply.apply_layer, (*_FILES, "CAP_SYS_ADMIN")),
    "layer.rebuild": Job(apply.rebuild_layer, ("CAP_DAC_READ_SEARCH",)),
    "layer.adopt": Job(apply.adopt, _FILES),
    "archive.index": Job(apply.index_archive, ()),
    "archive.expand": Job(apply.expand_archive, ()),
    # CAP_SYS_ADMIN: trusted.overlay.opaque is read by nobody else.
    "tree.changes": Job(differences.list_changes, _READING),
    "tree.diff": Job(differences.write_diff, _READING),
    "tree.merge": Job(differences.write_merged, _READING),
    "tree.export": Job(differences.write_tree, ("CAP_DAC_READ_SEARCH",)),
    "container.stat": Job(copying.path_stat, ("CAP_DAC_READ_SEARCH",)),
    "container.read": Job(copying.read_archive, ("CAP_DAC_READ_SEARCH",)),
    "container.write": Job(copying.write_archive, _FILES),
    "build.repository": Job(repository.fetch, ()),
    "build.context": Job(contexts.receive_context, _FILES),
    "build.read": Job(building.read_file, ("CAP_DAC_READ_SEARCH",)),
    "build.find": Job(building.find_archives, ("CAP_DAC_READ_SEARCH",)),
    "build.layer": Job(building.write_layer, ("CAP_DAC_READ_SEARCH",)),
    "tree.copy": Job(apply.copy, _FILES),
    "seccomp.compile": Job(seccomp_job.compile_apart, ()),
    "volume.copy_up": Job(copyup.copy_up, _FILES),
}


def warm_up() -> None:
    """Load whatever a job may need: afterwards there is nothing left to import from."""
    for name in ("utf-8", "ascii", "latin-1"):
        "".encode(name).decode(name)
    apply.warm_up()
    jobfilter.compile_all()


def serve(sock: socket, _asked: bytes = b"") -> None:
    """Run the one job that arrives on `sock`."""
    sock.setblocking(True)
    request = protocol.receive(sock)
    if request is None:
        return
    message, fds = request
    try:
        protocol.send(sock, {"begun": True})
    except OSError:  # nobody waits for it
        return
    try:
        answer = {"result": _run(sock, message, fds)}
    except Exception as error:
        answer = {"error": protocol.error_to_dict(_translated(error))}
    try:
        protocol.send(sock, answer)
    except OSError:
        pass  # the engine is gone: so is its interest


def _run(sock: socket, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    job = JOBS.get(str(message.get("kind")))
    args = message.get("args")
    if job is None or not isinstance(args, dict):
        raise errdefs.System(f"no such job: {message.get('kind')}")
    confinement = Confinement(sock, job.capabilities)
    result = job.function(args, fds, confinement)
    if not confinement.entered:
        raise errdefs.System(f"the job {message['kind']} did its work without entering a root")
    return result


def _translated(error: Exception) -> Exception:
    """What a job raised, as an error that may cross."""
    if isinstance(error, errdefs.Error):
        return error
    if isinstance(error, MemoryError):
        return errdefs.System("the job ran out of memory")
    if isinstance(error, OSError):
        path = error.filename if isinstance(error.filename, str) else ""
        if isinstance(error.filename, bytes):
            path = error.filename.decode(errors="replace")
        return errdefs.System(f"{error.strerror or error}{': ' + path if path else ''}")
    return errdefs.System(f"{type(error).__name__}: {error}")
