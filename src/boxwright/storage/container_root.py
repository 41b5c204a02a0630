"""The file tree of a container as one detached mount, for a confined job that copies from it or into it.

Of a running container it is a private copy of what its mount namespace shows: a short-lived child joins the namespace,
clones the tree and is gone; no process that reads or writes files is ever in it.  Of one at rest the tree is put
together like at a start: its root, and its binds and volumes, each attached in a descriptor that was resolved in-root
(CVE-2018-15664, CVE-2026-41568, CVE-2026-42306: a path that is checked by name and used by name later is raced).
"""

import errno
import fcntl
import os
import stat
from typing import Any

from boxwright.errdefs import Conflict, System, Unavailable
from boxwright.libcontainer.fetch import fetch
from boxwright.libcontainer.rootfs import make_rootfs
from boxwright.libcontainer.sources import open_below
from boxwright.linux import inroot, mount, namespaces

_NO_DEVICES = mount.ATTR_NOSUID | mount.ATTR_NODEV | mount.ATTR_NOEXEC


def detached_tree(args: dict[str, Any], fds: list[int], readonly: bool) -> int:
    """A detached, private copy of the container's tree: nothing in it can be executed, no device opened.

    args: "view" (the snapshot's Mount value; None: the container of the pidfd fds[0] runs), "mounts" (destination,
    source, rw, subpath or ""; parents first), "readonly" (the root).
    readonly: nothing at all can be written.  Raises Conflict when it runs no longer, Unavailable when the snapshot is
    in use, System for a source that is not there.
    """
    tree = _running(fds[0]) if args["view"] is None else _at_rest(args)
    attributes = _NO_DEVICES | (mount.ATTR_RDONLY if readonly else 0)
    mount.set_attributes(
        tree, attributes, propagation=mount.PROPAGATION_PRIVATE, recursive=True, name="the container's files"
    )
    return tree


def _running(pidfd: int) -> int:
    def take() -> int:
        namespaces.setns(pidfd, namespaces.CLONE_NEWNS, "mount")
        return mount.open_tree(mount.AT_FDCWD, "/", recursive=True)

    try:
        return fetch(take, "/")
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOMEM):
            raise Conflict("the container is not running") from error
        raise


def _at_rest(args: dict[str, Any]) -> int:
    view = dict(args["view"])
    _take(view.pop("lock", None))
    root, _ = make_rootfs({**view, "lock": None})
    # Sources are paths of the host: taken before anything of the container is looked at.
    sources = [(str(path), _source(str(source), str(below)), bool(rw)) for path, source, rw, below in args["mounts"]]

    def assemble() -> int:
        """In a child with a mount namespace of its own, which ends with it: mounts can only be stacked in one, and the
        job must not have a second mount on its root: ".." would lead there."""
        slash = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.set_attributes(slash, propagation=mount.PROPAGATION_PRIVATE, recursive=True, name="/")
        mount.move_mount(root, slash, "/")
        os.umask(0o022)
        for path, source, rw in sources:
            _attach(root, path, source, rw)
        if args["readonly"]:
            mount.set_attributes(root, mount.ATTR_RDONLY, name="the root")
        return mount.open_tree(root, "", recursive=True)

    try:
        return fetch(assemble, "the container's files", namespaces.CLONE_NEWNS)
    finally:
        os.close(root)
        for _, source, _ in sources:
            os.close(source)


def _take(lock: str | None) -> None:
    """Be the only user of the snapshot until this process ends; never waits: its user may be a container that runs."""
    if lock is None:
        return
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Unavailable("the container's files are in use") from None


def _source(path: str, subpath: str) -> int:
    try:
        if subpath:
            return open_below(path, subpath, recursive=True)
        return mount.open_tree(mount.AT_FDCWD, path, recursive=True)
    except OSError as error:
        raise System(f"the source of a mount cannot be opened: {path}: {error.strerror}") from error


def _attach(root: int, path: str, source: int, rw: bool) -> None:
    is_directory = stat.S_ISDIR(os.fstat(source).st_mode)
    if not rw:
        mount.set_attributes(source, mount.ATTR_RDONLY, recursive=True, name=path)
    target = inroot.make_directories(root, path) if is_directory else inroot.make_file(root, path)
    try:
        mount.move_mount(source, target, path)
    finally:
        os.close(target)
