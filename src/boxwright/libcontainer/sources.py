"""Sources of mounts that lie in another mount namespace, or below a directory that others write to."""

import errno
import os

from boxwright.errdefs import StepError
from boxwright.libcontainer.fetch import fetch
from boxwright.linux import inroot, mount, namespaces


def open_elsewhere(namespace: str, source: str, recursive: bool) -> int:
    """A detached copy of `source` in another mount namespace (`--ipc=container:X`: its /dev/shm, rule 7).

    A short-lived child enters that namespace, and its root.
    """
    namespace_fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)

    def take() -> int:
        namespaces.setns(namespace_fd, namespaces.CLONE_NEWNS, "mount")
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        target = inroot.open_in_root(root, source, resolve=inroot.RESOLVE_NO_SYMLINKS)
        return mount.open_tree(target, "", recursive=recursive)

    try:
        return fetch(take, source)
    finally:
        os.close(namespace_fd)


def open_below(base: str, subpath: str, recursive: bool) -> int:
    """A detached copy of what lies at `subpath` of the volume whose directory is `base`.

    Raises StepError like `find_below`.
    """
    base_fd = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = find_below(base_fd, base, subpath, os.O_PATH)
    finally:
        os.close(base_fd)
    try:
        return mount.open_tree(found, "", recursive=recursive)
    finally:
        os.close(found)


def find_below(base_fd: int, base: str, subpath: str, flags: int) -> int:
    """Open `subpath` of the volume whose directory is `base`, open as `base_fd`.

    Whoever has the volume may rename and link in it meanwhile: the walk stays below `base` or fails (CVE-2021-25741 is
    Kubernetes' trouble with this).  Raises StepError, step "subpath", with dockerd's texts.
    """
    try:
        return inroot.openat2(base_fd, subpath, flags, inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        raise _unreachable(base, subpath, error.errno or 0) from error


def _unreachable(base: str, subpath: str, number: int) -> StepError:
    path = f"{base}/{subpath}"
    if number == errno.EXDEV:
        message = f"path concatenation escapes the base directory, base: {base}, subpath: {subpath}"
        hint = "a symbolic link in the volume leads out of it"
    else:
        message = f"cannot access path {path}: lstat {path}: {os.strerror(number).lower()}"
        hint = "the subpath has to exist in the volume before the container is started"
    return StepError(message, step="subpath", operation="openat2", path=path, errno=number, hint=hint)
