"""Paths inside a root that belongs to somebody else: opened, made and checked by descriptor, never by string.

openat2(2) with RESOLVE_IN_ROOT treats the root's descriptor as "/": absolute links and ".." stay inside, magic links
(/proc/PID/fd) are refused, and nothing that is renamed or swapped during the walk leads outside (CVE-2021-30465,
CVE-2024-45310, CVE-2026-55686).  EAGAIN says that a rename raced a "..": tried again, a bounded number of times.
"""

import ctypes
import errno
import os
import stat

from boxwright.linux.libc import check, fault, function, prepared

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
_RETRIES = 128
_MAX_DEPTH = 256  # directories made for one path: more is an attack on our time


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_HOW_SIZE = ctypes.sizeof(_OpenHow)


class _StatFs(ctypes.Structure):
    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_char * 248)]  # struct statfs, at most 120 bytes


_openat2 = prepared("openat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_fstatfs = function("fstatfs", ctypes.c_int, ctypes.c_void_p)


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that `fd` lies on (statfs(2))."""
    buffer = _StatFs()
    check("fstatfs", f"fd {fd}", _fstatfs, fd, ctypes.addressof(buffer))
    return int(buffer.f_type)


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2), close-on-exec; EAGAIN retried."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    raw = os.fsencode(path)
    for _ in range(_RETRIES):
        try:
            return check("openat2", path, _openat2, dir_fd, raw, ctypes.addressof(how), _HOW_SIZE)
        except BlockingIOError:
            continue
    raise fault(errno.EAGAIN, "openat2", path)


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH, *, resolve: int = 0, mode: int = 0) -> int:
    """Open `path` with `root_fd` as "/"; `resolve` adds RESOLVE_ restrictions."""
    return openat2(root_fd, path, flags, RESOLVE_IN_ROOT | resolve, mode)


def make_directories(root_fd: int, path: str, mode: int = 0o755, *, resolve: int = 0) -> int:
    """mkdir -p with `root_fd` as "/": an O_PATH descriptor of the directory `path`, made where it was missing.

    A symbolic link on the way is followed inside the root; one that dangles is not made up for.  Every directory is
    made in a descriptor, so no rename can place it elsewhere.  Raises NotADirectoryError when a file is in the way.
    `mode` is subject to the umask.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_in_root(root_fd, path, flags, resolve=resolve)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if len(parts) > _MAX_DEPTH:
        raise fault(errno.ENAMETOOLONG, "mkdir", path)
    done, current = 0, os.dup(root_fd)
    try:
        done, current = _deepest(root_fd, parts, current, resolve)
        for part in parts[done:]:
            if part == "..":
                raise fault(errno.ENOENT, "mkdir", path)
            try:
                os.mkdir(part, mode, dir_fd=current)
            except FileExistsError:
                pass  # somebody else made it, or it is a dangling link: the open below tells
            below = openat2(current, part, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            os.close(current)
            current = below
        return current
    except BaseException:
        os.close(current)
        raise


def _deepest(root_fd: int, parts: "list[str]", current: int, resolve: int) -> "tuple[int, int]":
    """The longest prefix of `parts` that exists: (its length, its descriptor); closes `current`, unless it fails."""
    flags = os.O_PATH | os.O_DIRECTORY
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = open_in_root(root_fd, "/".join(parts[:length]), flags, resolve=resolve)
        except FileNotFoundError:
            continue
        os.close(current)
        return length, found
    return 0, current


def make_file(root_fd: int, path: str, mode: int = 0o644, *, resolve: int = 0) -> int:
    """An O_PATH descriptor of the existing non-directory `path`, or of an empty file made there with its parents."""
    try:
        found = open_in_root(root_fd, path, resolve=resolve)
    except FileNotFoundError:
        pass
    else:
        if stat.S_ISDIR(os.fstat(found).st_mode):
            os.close(found)
            raise fault(errno.EISDIR, "open", path)
        return found
    head, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise fault(errno.EINVAL, "open", path)
    parent = make_directories(root_fd, head or "/", resolve=resolve)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.close(os.open(name, flags, mode, dir_fd=parent))
        except FileExistsError:
            pass  # made by another meanwhile, or a dangling link, which the next open refuses
        return openat2(parent, name, os.O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    finally:
        os.close(parent)


def read_bounded(root_fd: int, path: str, limit: int) -> bytes:
    """The regular file `path` in the root, at most `limit` bytes; raises EFBIG when it is longer.

    A device, FIFO or socket planted there is refused without opening it (a FIFO would block the open).
    """
    fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise fault(errno.EINVAL, "read (not a regular file)", path)
        parts, size = [], 0
        while size <= limit and (part := os.read(fd, min(65536, limit + 1 - size))):
            parts.append(part)
            size += len(part)
        if size > limit:
            raise fault(errno.EFBIG, "read", path)
        return b"".join(parts)
    finally:
        os.close(fd)
