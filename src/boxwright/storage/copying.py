"""Confined jobs of `docker cp`: what a path of a container is, its files as an archive, an archive into it.

Each runs with the container's tree as its root (`container_root.py`), without a right but that to read or make files;
every path is resolved by openat2 in that root, to a descriptor that is then worked with.  Nothing is imported, loaded
or executed once the root is entered (CVE-2019-14271, CVE-2026-41567): the decoder of a compressed archive is started
before, and sees only its input.  The kernel's own file systems in a container (proc, sysfs, …) are shown as empty
directories: they hold no files to copy.
"""

import errno
import os
import posixpath
import stat
from typing import Any

from boxwright.confined import Args, Confinement
from boxwright.errdefs import Forbidden, InvalidParameter, NotFound, StepError
from boxwright.libcontainer import users
from boxwright.linux import inroot
from boxwright.storage import copypath
from boxwright.storage.apply import decoded, write_all
from boxwright.storage.container_root import detached_tree
from boxwright.storage.placing import Placer
from boxwright.storage.tarstream import Archive, Malformed, pass_over
from boxwright.storage.tarwriter import Writer

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 500
_MOST_LINKS = 255  # as Docker follows for `linkTarget`
_LONGEST_TARGET = 8192  # of what a link leads to: parts that are not looked at yet, and bytes of those that were
_ST_RDONLY = 1
# statfs(2), f_type: proc, sysfs, cgroup, cgroup2, devpts, mqueue, securityfs, debugfs, tracefs, bpf.
_KERNELS = frozenset({
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x19800202, 0x73636673, 0x64626720, 0x74726163, 0xCAFE4A11,
})  # fmt: skip


def path_stat(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `container.stat`: what args["path"] is, a final symbolic link itself.

    args: see `container_root.detached_tree`; path, name (of the container, for the error).
    Result: stat, the JSON of X-Docker-Container-Path-Stat.  Raises NotFound.
    """
    root = confinement.enter(detached_tree(args, fds, True), detached=True, readonly=True)
    path = copypath.absolute(args["path"])
    fd = _find(root, path, args)
    return {"stat": _stat(root, path, os.fstat(fd))}


def read_archive(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `container.read`: tell {"stat"} of args["path"], then write it and what is in it to the pipe fds[-1]."""
    out = fds[-1]
    root = confinement.enter(detached_tree(args, fds, True), detached=True, readonly=True)
    path = copypath.absolute(args["path"])
    fd = _find(root, path, args)
    status = os.fstat(fd)
    confinement.emit({"stat": _stat(root, path, status)})
    writer = Writer(lambda data: write_all(out, data), pipe=out)
    name = os.fsencode(copypath.base(path))
    if stat.S_ISDIR(status.st_mode):
        member = b"" if name == b"/" else name
        writer.add(member, fd, b".")
        directory = os.open(".", _DIRECTORY, dir_fd=fd)
        _walk(writer, directory, member, _DEEPEST)
    else:
        parent = inroot.open_in_root(root, path.rpartition("/")[0] or "/", os.O_PATH | os.O_DIRECTORY)
        writer.add(name, parent, name)
    writer.finish()
    return {}


def _walk(writer: Writer, directory: int, path: bytes, depth: int) -> None:
    """Add what is in the directory; closes it."""
    try:
        if _is_kernels(directory):
            return
        if not depth:
            raise InvalidParameter(f"the tree is too deep: {path[:200].decode(errors='replace')}")
        with os.scandir(directory) as entries:
            found = sorted(
                (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False))
                for entry in entries
            )
        for name, is_directory, is_file in found:
            below = path + b"/" + name
            writer.add(below, directory, name, is_file)
            if not is_directory:
                continue
            try:
                child = os.open(name, _DIRECTORY, dir_fd=directory)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                    continue  # gone or replaced meanwhile
                raise
            _walk(writer, child, below, depth - 1)
    finally:
        os.close(directory)


def write_archive(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `container.write`: unpack the archive that comes from fds[-1], a pipe or a regular file, below args["path"].

    args: also kind (of compression, of a regular file), keep_types (noOverwriteDirNonDir), user (whom everything is to
    belong to, None: as the archive says).
    Raises NotFound, InvalidParameter (no directory, a broken archive), Forbidden (read-only).
    """
    source = fds[-1]
    readinto = decoded(args["kind"], source, confinement) if args["kind"] else _Stream(source).readinto
    root = confinement.enter(detached_tree(args, fds, False), detached=True)
    path = copypath.absolute(args["path"])
    target = _directory(root, path, args)
    owner = _owner(root, args["user"]) if args["user"] is not None else None
    # With a `seek` no digest is taken, which nobody asks for.
    archive = Archive(readinto, lambda count: pass_over(readinto, count))
    try:
        Placer(target, posixpath.normpath(path), bool(args["keep_types"]), owner, _is_kernels).run(archive)
        archive.finish()
    except Malformed as error:
        raise InvalidParameter(f"archive/tar: {error}") from error
    return {}


def _owner(root: int, user: str) -> tuple[int, int]:
    try:
        found = users.resolve(root, {"username": user})
    except StepError as error:
        raise InvalidParameter(error.message) from error
    return found.uid, found.gid


def _directory(root: int, path: str, args: Args) -> int:
    try:
        target = inroot.open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise _missing(args) from None
    except NotADirectoryError:
        raise InvalidParameter("extraction point is not a directory") from None
    if _is_kernels(target):
        raise _missing(args)
    if os.fstatvfs(target).f_flag & _ST_RDONLY:
        raise Forbidden(
            "container rootfs is marked read-only" if _same_mount(root, path) else "mounted volume is marked read-only"
        )
    return target


def _same_mount(root: int, path: str) -> bool:
    try:
        os.close(inroot.open_in_root(root, path, resolve=inroot.RESOLVE_NO_XDEV))
    except OSError:
        return False
    return True


def _find(root: int, path: str, args: Args) -> int:
    """A descriptor of what the path names, a final symbolic link itself."""
    try:
        fd = inroot.open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise _missing(args) from None
        if error.errno == errno.ENOTDIR:
            raise InvalidParameter(f"lstat {path}: not a directory") from None
        if error.errno == errno.ELOOP:
            raise InvalidParameter(f"lstat {path}: too many levels of symbolic links") from None
        raise
    if not stat.S_ISDIR(os.fstat(fd).st_mode) and _is_kernels(fd):
        raise _missing(args)
    return fd


def _missing(args: Args) -> NotFound:
    return NotFound(f"Could not find the file {args['path']} in container {args['name']}")


def _is_kernels(fd: int) -> bool:
    return inroot.filesystem_type(fd) in _KERNELS


def _stat(root: int, path: str, status: os.stat_result) -> dict[str, Any]:
    target = _target(root, path) if stat.S_ISLNK(status.st_mode) else ""
    return {
        "name": copypath.base(path),
        "size": status.st_size,
        "mode": copypath.go_mode(status.st_mode),
        "mtime": copypath.go_time(status.st_mtime_ns),
        "linkTarget": target,
    }


def _target(root: int, path: str) -> str:
    """Where a symbolic link leads in the end, as far as it leads somewhere: for people, nothing is opened by it."""
    parts, done, links = path.split("/")[::-1], "", 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        try:
            fd = inroot.open_in_root(root, f"{done}/{part}", os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            done = f"{done}/{part}"
            continue
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                done = f"{done}/{part}"
                continue
            text = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        links += 1
        if links > _MOST_LINKS or len(done) + len(parts) > _LONGEST_TARGET:
            # Each link may hold thousands of parts, and the answer is a header.
            raise InvalidParameter(f"too many links in {path}")
        if text.startswith("/"):
            done = ""
        parts += text.split("/")[::-1]
    return done or "/"


class _Stream:
    """Reads a pipe; what it holds is not compressed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readinto(self, view: memoryview) -> int:
        return os.readv(self._fd, [view])
