"""Copy a tree by descriptors: owners, modes, times, extended attributes, hard links, devices, holes.

Runs in a confined job; the source may be hostile, and nothing in it is followed.
"""

import errno
import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 400  # levels: two descriptors each
_CHUNK = 1 << 20


def copy_tree(source: int, target: int) -> None:
    """Copy the contents of the directory `source` into `target`, and what `source` itself is like.

    Raises OSError; what is in the way in `target` is an error.
    """
    os.umask(0)
    _Copier(target).directory(source, target, ".", _DEEPEST)


class _Copier:
    def __init__(self, root: int) -> None:
        self._root = root
        self._links: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, path: str, depth: int) -> None:
        """Copy everything in it; attributes last, because the copying changes them."""
        if not depth:
            raise OSError(errno.ENAMETOOLONG, "copy: the tree is too deep", path)
        for name in os.listdir(source):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            below = f"{path}/{name}"
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                inner = os.open(name, _DIRECTORY, dir_fd=source)
                try:
                    outer = os.open(name, _DIRECTORY, dir_fd=target)
                    try:
                        self.directory(inner, outer, below, depth - 1)
                    finally:
                        os.close(outer)
                finally:
                    os.close(inner)
            elif not self._linked(status, target, name, below):
                self._leaf(source, target, name, status)
        copy_attributes(source, target, os.fstat(source))

    def _linked(self, status: os.stat_result, target: int, name: str, path: str) -> bool:
        """Make the second and further names of a file as hard links."""
        if status.st_nlink < 2:
            return False
        first = self._links.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        os.link(first, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
        return True

    @staticmethod
    def _leaf(source: int, target: int, name: str, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            reader = os.open(name, _READ, dir_fd=source)
            try:
                writer = os.open(name, _CREATE, 0o600, dir_fd=target)
                try:
                    _data(reader, writer, status.st_size)
                    copy_attributes(reader, writer, status)
                finally:
                    os.close(writer)
            finally:
                os.close(reader)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _data(reader: int, writer: int, size: int) -> None:
    """Copy the data ranges; holes stay holes."""
    position = 0
    while position < size:
        try:
            position = os.lseek(reader, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            raise
        end = min(size, os.lseek(reader, position, os.SEEK_HOLE))
        while position < end:
            data = os.pread(reader, min(_CHUNK, end - position), position)
            if not data:
                return
            position += os.pwrite(writer, data, position)
    os.ftruncate(writer, size)


def copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Give `target` the owner, mode, times and extended attributes of `source`, whose status is `status`."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        names = []
    for name in names:
        if name.startswith(("user.", "system.posix_acl_")) or name == "security.capability":
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
