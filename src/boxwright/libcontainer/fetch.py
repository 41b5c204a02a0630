"""A descriptor that can only be made elsewhere: a short-lived child goes there, makes it and passes it back."""

import errno
import os

from boxwright.libcontainer import sync
from boxwright.linux import namespaces, pidfd, process
from boxwright.linux.libc import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import NoReturn


def fetch(make: "Callable[[], int]", name: str, flags: int = 0) -> int:
    """The descriptor that `make` returns in a child with new namespaces `flags`; `name` is for the error.

    Raises the OSError of `make`.
    """
    ours, theirs = sync.pair()
    pid, child = namespaces.clone_process(flags, name=name)
    if pid == 0:
        _make(make, theirs)
    theirs.close()
    try:
        kind, body, fds = sync.receive(ours)
        pidfd.wait(child)
    finally:
        ours.close()
        os.close(child)
    if kind != sync.READY:
        raise fault(body.get("errno") or errno.EIO, body.get("operation") or "clone", body.get("path") or name)
    return fds[0]


def _make(make: "Callable[[], int]", sock: "socket") -> "NoReturn":
    try:
        process.set_dumpable(False)
        sync.send(sock, sync.READY, None, [make()])
    except OSError as error:
        operation = str(error.strerror or "").partition(":")[0]
        path = "" if error.filename is None else str(error.filename)
        sync.send(sock, sync.FAILED, {"errno": error.errno, "operation": operation, "path": path})
    finally:
        os._exit(0)
