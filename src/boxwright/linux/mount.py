"""Mounts as file descriptors (the mount API of Linux 5.2), and the two old calls that still have no successor.

A mount is made detached, given its attributes, and attached by descriptor: no step names a path inside a container, so
no step can be redirected by one.  Sources: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2),
mount_setattr(2), include/uapi/linux/mount.h.
"""

import ctypes
import os

from boxwright.linux.libc import check, function, prepared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# mount(2) flags that have no successor: changing propagation of what is already mounted uses mount_setattr.
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# Attributes of one mount (not of its file system).
ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_ATIME = 0x70  # the mask: relatime is 0 in it
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_IDMAP = 0x100000
ATTR_NOSYMFOLLOW = 0x200000

# Propagation, as mount_setattr takes it.
PROPAGATION_UNBINDABLE = 1 << 17
PROPAGATION_PRIVATE = 1 << 18
PROPAGATION_SLAVE = 1 << 19
PROPAGATION_SHARED = 1 << 20

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

_OPEN_TREE_CLONE = 1
_CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6
_MOVE_F_EMPTY_PATH = 0x4
_MOVE_T_EMPTY_PATH = 0x40
_CONFIG_STRING_LIMIT = 255  # strndup_user(_value, 256) in fs/fsopen.c

_INT, _UINT, _TEXT = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p
_fsopen = prepared("fsopen", _TEXT, _UINT)
_fsconfig = prepared("fsconfig", _INT, _UINT, _TEXT, _TEXT, _INT)
_fsmount = prepared("fsmount", _INT, _UINT, _UINT)
_open_tree = prepared("open_tree", _INT, _TEXT, _UINT)
_move_mount = prepared("move_mount", _INT, _TEXT, _INT, _TEXT, _UINT)
_mount_setattr = prepared("mount_setattr", _INT, _TEXT, _UINT, ctypes.c_void_p, ctypes.c_size_t)
_pivot_root = prepared("pivot_root", _TEXT, _TEXT)
_mount = function("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = function("umount2", ctypes.c_char_p, ctypes.c_int)


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


_ATTR_SIZE = ctypes.sizeof(_MountAttr)


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2); for what the descriptor calls cannot do (propagation of a whole tree, old overlayfs)."""
    encode = os.fsencode
    check("mount", target, _mount, encode(source), encode(target), encode(fstype), flags, encode(data))


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    check("umount", target, _umount2, os.fsencode(target), flags)


def fsopen(fstype: str) -> int:
    """A configuration context for a new file system of `fstype`."""
    return check("fsopen", fstype, _fsopen, fstype.encode(), _CLOEXEC)


def set_flag(context: int, key: str) -> None:
    """fsconfig: an option without a value ("ro", "newinstance")."""
    check("fsconfig", key, _fsconfig, context, _SET_FLAG, key.encode(), None, 0)


def set_string(context: int, key: str, value: str) -> None:
    """fsconfig: `key=value`; the kernel refuses values above 255 bytes (EINVAL), and so the error names the option."""
    check("fsconfig", f"{key}={value}", _fsconfig, context, _SET_STRING, key.encode(), os.fsencode(value), 0)


def set_fd(context: int, key: str, fd: int) -> None:
    """fsconfig: an option whose value is an open descriptor ("pidns")."""
    check("fsconfig", key, _fsconfig, context, _SET_FD, key.encode(), None, fd)


def fits(value: str) -> bool:
    """Whether `set_string` can carry `value`."""
    return len(os.fsencode(value)) <= _CONFIG_STRING_LIMIT


def create(context: int, name: str) -> None:
    """fsconfig: make (or find) the superblock; `name` is for the error."""
    check("fsconfig", name, _fsconfig, context, _CREATE, None, None, 0)


def fsmount(context: int, attributes: int = 0, name: str = "") -> int:
    """A detached mount of the created superblock, as an O_PATH descriptor of its root."""
    return check("fsmount", name, _fsmount, context, _CLOEXEC, attributes)


def make(fstype: str, source: str, settings: "Iterable[tuple[str, str | None]]" = (), attributes: int = 0) -> int:
    """A new file system as a detached mount, close-on-exec.

    source: what /proc/mounts shows, or "".  settings: (key, value or None for a bare flag).
    """
    context = fsopen(fstype)
    try:
        if source:
            set_string(context, "source", source)
        for key, value in settings:
            if value is None:
                set_flag(context, key)
            else:
                set_string(context, key, value)
        create(context, fstype)
        return fsmount(context, attributes, fstype)
    finally:
        os.close(context)


def read_log(context: int) -> str:
    """What the file system said about the last failure (`e overlay: …`), one line a message; "" when nothing."""
    lines: list[str] = []
    try:
        while len(lines) < 8:
            lines.append(os.read(context, 1024).decode(errors="replace").rstrip("\n"))
    except OSError:  # ENODATA: nothing left
        pass
    return "\n".join(lines)


def open_tree(dir_fd: int, path: str, *, recursive: bool = False, follow: bool = True) -> int:
    """A detached copy of the mount at `path` (of `dir_fd` itself when ""), with its submounts when `recursive`.

    The copy joins the peer group of its source: attached elsewhere, it still propagates.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    flags |= AT_RECURSIVE if recursive else 0
    flags |= 0 if follow else AT_SYMLINK_NOFOLLOW
    flags |= 0 if path else AT_EMPTY_PATH
    return check("open_tree", path or f"fd {dir_fd}", _open_tree, dir_fd, os.fsencode(path), flags)


def move_mount(mount_fd: int, target_fd: int, name: str = "") -> None:
    """Attach the detached mount `mount_fd` on what `target_fd` names; `name` is for the error."""
    flags = _MOVE_F_EMPTY_PATH | _MOVE_T_EMPTY_PATH
    check("move_mount", name, _move_mount, mount_fd, b"", target_fd, b"", flags)


def set_attributes(
    fd: int, add: int = 0, remove: int = 0, *, propagation: int = 0, recursive: bool = False, name: str = ""
) -> None:
    """mount_setattr(2) on the mount whose root is `fd`; `add` and `remove` are ATTR_ masks."""
    if add & ATTR_ATIME or remove & ATTR_ATIME:
        remove |= ATTR_ATIME  # the kernel wants the whole field cleared when any of it is set
    attr = _MountAttr(add, remove, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    check("mount_setattr", name, _mount_setattr, fd, b"", flags, ctypes.addressof(attr), _ATTR_SIZE)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    check("pivot_root", new_root, _pivot_root, os.fsencode(new_root), os.fsencode(put_old))
