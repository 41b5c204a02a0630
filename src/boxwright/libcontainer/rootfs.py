"""A container's root file system as one detached mount, made by the parent in the host's namespaces.

The host's mount table stays empty: nothing is attached before init moves it into its own mount namespace.  Overlay is
made layer by layer with fsconfig(2), so neither the number nor the length of the layers' names meets the page that
limits mount(2); kernels without `lowerdir+` (before 6.5) take the layers as descriptor numbers instead.
"""

import errno
import fcntl
import os

from boxwright.errdefs import StepError
from boxwright.libcontainer import faults
from boxwright.libcontainer.fetch import fetch
from boxwright.linux import mount, namespaces
from boxwright.linux.libc import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_LAYERS = 500  # OVL_MAX_STACK in fs/overlayfs/params.h
_STEP = "rootfs"
_append: bool | None = None  # whether this kernel knows lowerdir+; None: not tried yet


def make_rootfs(value: "dict[str, Any]") -> tuple[int, int]:
    """(mount_fd, lock_fd) for a Mount value of the snapshotter; both close-on-exec and the caller's.

    `{"type": "overlay", "lower": [topmost first], "upper", "work", "options": [...], "lock"}`, without an upper for a
    read-only one, `{"type": "bind", "source", "readonly", "lock"}` or
    `{"type": "hostfs", "lower", "size", "options", "lock"}`.  lock_fd holds an exclusive flock on `lock` for as long as
    it (or an inherited copy) is open, so that an upper never serves two mounts; it is -1 without a lock.  Waits for the
    lock.
    """
    lock_fd = _lock(value.get("lock"))
    try:
        if value["type"] == "bind":
            return _bind(value), lock_fd
        if value["type"] == "overlay":
            return _overlay(value), lock_fd
        if value["type"] == "hostfs":
            try:
                return _hostfs(value), lock_fd
            except OSError as error:
                raise faults.step_error(error, _STEP, "", hint=_overlay_hint(error)) from error
        raise StepError(f"no such kind of root file system: {value['type']}", step=_STEP)
    except BaseException:
        if lock_fd >= 0:
            os.close(lock_fd)
        raise


def _lock(path: str | None) -> int:
    if not path:
        return -1
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise faults.step_error(error, _STEP, f"lock {path}", path) from error
    return fd


def _bind(value: "dict[str, Any]") -> int:
    source = value["source"]
    try:
        fd = mount.open_tree(mount.AT_FDCWD, source, recursive=True)
        attributes = mount.ATTR_RDONLY if value.get("readonly") else 0
        mount.set_attributes(fd, attributes, propagation=mount.PROPAGATION_PRIVATE, recursive=True, name=source)
    except OSError as error:
        raise faults.step_error(error, _STEP, f"root file system {source}", source) from error
    return fd


def _overlay(value: "dict[str, Any]") -> int:
    lower = value["lower"]
    if not 0 < len(lower) <= MAX_LAYERS:
        raise StepError(
            f"an image of {len(lower)} layers cannot be mounted: overlay takes 1 to {MAX_LAYERS}",
            step=_STEP,
            operation="fsconfig",
            hint="squash the image, or use the vfs storage driver",
        )
    try:
        if work := value.get("work"):
            _forget_volatile(work)
        return _overlay_mount(value)
    except OSError as error:
        raise faults.step_error(error, _STEP, "", hint=_overlay_hint(error)) from error


def _forget_volatile(work: str) -> None:
    """Remove the mark that a volatile mount has left, and that the kernel refuses to mount beside.

    It warns of a host that went down with what was not synced.  What was volatile belonged to an auto-removed
    container, which no such host has afterwards: so there was no crash, and a start that was lost begins anew, say.
    """
    mark = f"{work}/work/incompat/volatile"
    try:
        os.unlink(f"{mark}/dirty")
        os.rmdir(mark)
    except FileNotFoundError:
        pass  # the first, as nearly always


def _overlay_mount(value: "dict[str, Any]") -> int:
    global _append
    if _append is not False:
        try:
            return _by_configuration(value)
        except OSError as error:
            if _append or error.errno != errno.EINVAL or not str(error.filename).startswith("lowerdir+"):
                raise
            _append = False
    return _by_descriptors(value)


def _overlay_hint(error: OSError) -> str:
    if error.errno == errno.ENODEV:
        return "this kernel has no overlay file system: modprobe overlay, or use the vfs storage driver"
    if error.errno == errno.EINVAL:
        return "the upper directory's file system must support trusted xattrs and not be an overlay itself"
    return ""


def _by_configuration(value: "dict[str, Any]") -> int:
    global _append
    held: list[int] = []
    context = mount.fsopen("overlay")
    try:
        if _append is None and _takes_anything(context):
            raise fault(errno.EINVAL, "fsconfig", "lowerdir+")
        mount.set_string(context, "source", "overlay")  # what `df` and `mount` inside call it
        for directory in value["lower"]:
            _set_directory(context, "lowerdir+", directory, held)
            _append = True
        if value.get("upper"):
            _set_directory(context, "upperdir", value["upper"], held)
            _set_directory(context, "workdir", value["work"], held)
        for option in value.get("options") or ():
            key, separator, text = option.partition("=")
            if separator:
                mount.set_string(context, key, text)
            else:
                mount.set_flag(context, key)
        try:
            mount.create(context, "overlay")
        except OSError as error:
            raise OSError(error.errno, f"fsconfig: {mount.read_log(context) or 'overlay'}", "overlay") from error
        return mount.fsmount(context, name="overlay")
    finally:
        os.close(context)
        for fd in held:
            os.close(fd)


def _takes_anything(context: int) -> bool:
    """Before 6.5 overlayfs only looks at its options when it is mounted, and then complains in the kernel's log."""
    try:
        mount.set_flag(context, "boxwright")
    except OSError:
        return False
    return True


def _set_directory(context: int, key: str, path: str, held: "list[int]") -> None:
    """Name a directory to overlayfs; one whose name is too long for fsconfig goes through a descriptor's."""
    if not mount.fits(path):
        held.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        path = f"/proc/self/fd/{held[-1]}"
    mount.set_string(context, key, path)


def _by_descriptors(value: "dict[str, Any]") -> int:
    """Overlay by mount(2), in a mount namespace of its own.

    The layers are named by descriptor number, relative to /proc/self/fd: 500 of them fit into the page of mount(2).
    """
    return _in_namespace(lambda: _mount_by_descriptors(value))


def _in_namespace(make: "Callable[[], int]") -> int:
    """Run `make` in a child with a private mount namespace, and take over the detached mount that it returns."""

    def enter_and_make() -> int:
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        return make()

    return fetch(enter_and_make, "overlay", namespaces.CLONE_NEWNS)


def _hostfs(value: "dict[str, Any]") -> int:
    """The host's root with a tmpfs of bounded size above it.

    A tmpfs, because an upper directory below its own lower one is refused (ELOOP); in a namespace, because before
    kernel 6.15 overlayfs takes no upper directory on a mount that is not attached.  The overlay keeps the tmpfs alive.
    """
    return _in_namespace(lambda: _over_tmpfs(value))


def _over_tmpfs(value: "dict[str, Any]") -> int:
    place = os.path.dirname(value["lock"])
    mount.mount("tmpfs", place, "tmpfs", 0, f"mode=0755,size={int(value['size'])}")
    upper, work = f"{place}/upper", f"{place}/work"
    os.mkdir(upper)
    os.chmod(upper, 0o755)
    os.mkdir(work)
    return _overlay_mount({**value, "lower": [value["lower"]], "upper": upper, "work": work})


def _mount_by_descriptors(value: "dict[str, Any]") -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    names = [str(os.open(directory, flags)) for directory in value["lower"]]
    data = "lowerdir=" + ":".join(names)
    if value.get("upper"):
        data += f",upperdir={os.open(value['upper'], flags)},workdir={os.open(value['work'], flags)}"
    data = ",".join([data, *(value.get("options") or ())])
    target = value.get("upper") or value["lower"][0]
    os.chdir("/proc/self/fd")
    mount.mount("overlay", target, "overlay", 0, data)
    return mount.open_tree(mount.AT_FDCWD, target)
