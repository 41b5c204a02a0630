"""procfs of a pid namespace that is joined (`--pid=container:X`), made from outside.

procfs shows the pid namespace of the process that mounts it, and nothing of ours may be in X's before it is final
(rule 13).  Linux 6.17 and later take the namespace as an option; before, the /proc that X has is copied, and checked to
be that namespace's.
"""

import errno
import os

from boxwright.errdefs import StepError
from boxwright.libcontainer import sources
from boxwright.linux import inroot, mount

_MAGIC = 0x9FA0  # PROC_SUPER_MAGIC
_ROOT_INODE = 1
_SUFFIX = "/ns/pid"
_has_option = True  # until the kernel says otherwise


def of_namespace(namespace_fd: int, path: str) -> int:
    """A detached procfs of the pid namespace behind `namespace_fd`, which was opened as `path`."""
    global _has_option
    if _has_option:
        try:
            return _by_option(namespace_fd)
        except OSError as error:
            if error.errno != errno.EINVAL or not str(error.filename).startswith("pidns"):
                raise
            _has_option = False
    return _by_copy(namespace_fd, path)


def _by_option(namespace_fd: int) -> int:
    context = mount.fsopen("proc")
    try:
        mount.set_fd(context, "pidns", namespace_fd)
        mount.create(context, "proc")
        return mount.fsmount(context, 0, "proc")
    finally:
        os.close(context)


def _by_copy(namespace_fd: int, path: str) -> int:
    if not path.endswith(_SUFFIX):
        raise StepError(
            f"this kernel cannot mount the /proc of {path}",
            step="mounts",
            path=path,
            hint=f"before Linux 6.17 the namespace must be named as /proc/PID{_SUFFIX}",
        )
    fd = sources.open_elsewhere(path[: -len("pid")] + "mnt", "/proc", recursive=False)
    try:
        if not _is_of(fd, namespace_fd):
            raise StepError(
                f"the /proc of the container whose pid namespace is joined is another's: {path}",
                step="mounts",
                path=path,
                errno=errno.EXDEV,
            )
        mount.set_attributes(fd, propagation=mount.PROPAGATION_PRIVATE, name="/proc")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_of(fd: int, namespace_fd: int) -> bool:
    """Whether `fd` is the root of a procfs whose process 1 lives in the namespace."""
    if inroot.filesystem_type(fd) != _MAGIC or os.fstat(fd).st_ino != _ROOT_INODE:
        return False
    try:
        return os.stat("1/ns/pid", dir_fd=fd).st_ino == os.fstat(namespace_fd).st_ino
    except OSError:
        return False
