"""Make a layer's files out of an archive, inside a root that is nobody's yet.

Every object is made in the descriptor of its parent directory; parents are resolved with RESOLVE_IN_ROOT, so a symbolic
link of the archive leads nowhere but into the root.  The caller has confined the process to the root anyway.

A layer is either kept apart (overlay: deletions become character devices 0:0 and trusted.overlay.opaque) or merged into
a copy of the layers below (vfs: deletions are carried out).  Deletions in archives are named `.wh.NAME`, and
`.wh..wh..opq` empties its directory (OCI image-spec, "Whiteouts"); they speak of the layers below only, in whatever
order they come.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Callable

from boxwright.linux import inroot
from boxwright.storage import tarstream
from boxwright.storage.record import Keeper
from boxwright.storage.tarstream import Archive, Entry, Malformed
from boxwright.trees.trash import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STRAIGHT = inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS
_WHITEOUT = b".wh."
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
# Open directories.  Archives are ordered by directory, so a few are enough.
_OPEN = 64
_DEEPEST = 500
MOST_ENTRIES = 8_000_000
# What is left free on the file system, whatever the archive holds: bytes, and share of the inodes.
_RESERVE = 256 << 20
_RESERVE_INODES = 100
_CHECK_BYTES = 64 << 20
_CHECK_ENTRIES = 4096


class Extractor:
    """Unpacks one archive into the directory `root`.

    merge: carry deletions out instead of recording them.
    After `run`: `size` is the sum of the file sizes (bytes), `implied` the directories that no member described.
    """

    def __init__(self, root: int, merge: bool, progress: Callable[[int], None], recorder: Keeper) -> None:
        """root: also this process's own root directory.  recorder: learns where the contents go, and what goes."""
        self._root = root
        self._merge = merge
        self._progress = progress
        self._recorder = recorder
        self._recorded: set[bytes] = set()  # merging only: files of this layer, by canonical path
        self._open: dict[bytes, int] = {}
        self._canonical: dict[bytes, bytes] = {}  # of open directories that a symbolic link leads to
        self._times: dict[bytes, tuple[int, int]] = {}
        self._stale = False
        self._made: set[bytes] = set()
        self._written = self._entries = 0
        self.size = 0
        self.implied: list[bytes] = []
        self._opaque: set[bytes] = set()
        self._deletions: set[bytes] = set()

    def run(self, archive: Archive) -> None:
        """Unpack everything.  Raises Malformed for what cannot be right, OSError for what the kernel refuses."""
        make = self._make
        os.umask(0)
        while (entry := archive.next()) is not None:
            self._entries += 1
            if not self._entries % _CHECK_ENTRIES:
                self._check_room()
                self._progress(archive.position)
            make(entry, archive)
        self._set_times()
        self._close_all()

    # -- members -------------------------------------------------------------------------------------------------------

    def _make(self, entry: Entry, archive: Archive) -> None:
        path = entry.name
        if self._stale:
            self._close_all()
        if not path:
            if entry.kind != tarstream.DIRECTORY:
                raise Malformed("a member without a name")
            self._describe_directory(self._root, b"", entry)
            return
        if path.startswith(_META) and path != _OPAQUE:
            return  # AUFS's own bookkeeping
        head, _, name = path.rpartition(b"/")
        parent = self._parent(head)
        if name.startswith(_WHITEOUT):
            self._whiteout(parent, head, name)
            return
        self._member(entry, archive, head, name, parent)

    def _member(self, entry: Entry, archive: Archive, head: bytes, name: bytes, parent: int) -> None:
        """Make the member `name` in the open directory `parent`, whose path is `head`."""
        path, kind = entry.name, entry.kind
        if kind == tarstream.REGULAR:
            self._recorder.begin(self._path(head, name))
            self._file(parent, name, entry, archive)
            self._recorder.end()
        elif kind == tarstream.DIRECTORY:
            self._directory(parent, name, entry)
        elif kind == tarstream.SYMLINK:
            self._place(parent, path, name, lambda: os.symlink(entry.link, name, dir_fd=parent))
            self.size += len(entry.link)  # as Docker counts
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(entry.atime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        elif kind == tarstream.LINK:
            self._link(parent, name, entry)
        else:
            self._node(parent, name, entry)
        if self._merge:
            self._remember(path)

    def _file(self, parent: int, name: bytes, entry: Entry, archive: Archive) -> None:
        mode = entry.mode
        try:
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._clear(parent, entry.name, name)
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=parent)
        try:
            if entry.ranges is not None:
                self._sparse(fd, entry, archive)
            elif entry.size:
                self._copy(fd, entry.size, archive)
            self.size += entry.length
            os.fchown(fd, entry.uid, entry.gid)
            if mode & 0o7000:  # chown took these bits away
                os.fchmod(fd, mode)
            if entry.xattrs:
                _set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(entry.atime, entry.mtime))
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int, archive: Archive) -> None:
        while size:
            data = archive.read(size)
            size -= len(data)
            self._written += len(data)
            if self._written >= _CHECK_BYTES:
                self._written = 0
                self._check_room()
                self._progress(archive.position)
            while data:
                data = data[os.write(fd, data) :]

    def _sparse(self, fd: int, entry: Entry, archive: Archive) -> None:
        for offset, size in entry.ranges or ():
            os.lseek(fd, offset, os.SEEK_SET)
            self._recorder.seek(offset)
            self._copy(fd, size, archive)
        os.ftruncate(fd, entry.length)

    def _directory(self, parent: int, name: bytes, entry: Entry) -> None:
        path = entry.name
        replaced = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                replaced = True
                self._clear(parent, path, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        self._keep_open(path, fd, self._path(path.rpartition(b"/")[0], name))
        if replaced:
            self._hide(fd, path)
        self._describe_directory(fd, path, entry)

    def _describe_directory(self, fd: int, path: bytes, entry: Entry) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        if entry.xattrs:
            _set_xattrs(fd, entry.xattrs)
        self._times[path] = (entry.atime, entry.mtime)  # set at the end: what is made inside changes them

    def _link(self, parent: int, name: bytes, entry: Entry) -> None:
        head, _, target = entry.link.rpartition(b"/")
        if not target or entry.link == entry.name:
            raise Malformed(f"invalid hard link {_show(entry.name)} -> {_show(entry.link)}")
        source = self._existing(head)
        try:
            self._place(
                parent,
                entry.name,
                name,
                lambda: os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False),
            )
        finally:
            os.close(source)

    def _node(self, parent: int, name: bytes, entry: Entry) -> None:
        if entry.kind == tarstream.CHARACTER and not entry.major and not entry.minor:
            # No device has this number; in an overlay it is a deletion, and means nothing else anywhere.
            self._whiteout(parent, entry.name.rpartition(b"/")[0], _WHITEOUT + name)
            return
        kind = {tarstream.CHARACTER: stat.S_IFCHR, tarstream.BLOCK: stat.S_IFBLK}.get(entry.kind, stat.S_IFIFO)
        device = os.makedev(entry.major, entry.minor)
        self._place(parent, entry.name, name, lambda: os.mknod(name, kind | entry.mode & 0o777, device, dir_fd=parent))
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.mode & 0o7000:  # just made by us and no link: following is safe
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, ns=(entry.atime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    # -- deletions -----------------------------------------------------------------------------------------------------

    def _whiteout(self, parent: int, head: bytes, name: bytes) -> None:
        if name == _OPAQUE:
            if self._merge:
                self._empty(parent, head, self._canonical.get(head, head))
            else:
                self._hide(parent, head)
            return
        if name.startswith(_META):
            return
        target = name[len(_WHITEOUT) :]
        if target in (b"", b".", b".."):
            raise Malformed(f"invalid whiteout {_show(name)}")
        path = head + b"/" + target if head else target
        if self._merge:
            self._lower(parent, path, target, self._path(head, target))
            return
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # This layer made it already: what is below it goes, what is in the layer stays.
            if stat.S_ISDIR(os.stat(target, dir_fd=parent, follow_symlinks=False).st_mode):
                fd = os.open(target, _DIRECTORY, dir_fd=parent)
                try:
                    self._hide(fd, path)
                finally:
                    os.close(fd)
        else:
            self._deletions.add(head)

    def _hide(self, directory: int, path: bytes) -> None:
        """Nothing of the layers below shows in this directory.

        So it is, too, where the directory took the place of something in the same layer: the layer's members are read
        in order, and that something had taken the place of what is below.
        """
        if not self._merge:
            os.setxattr(directory, OPAQUE_XATTR, b"y")
            self._opaque.add(path)

    def deletions(self) -> list[bytes]:
        """Overlay: the directories with deletions in them, after taking away those that can delete nothing.

        Where the kernel has nothing to merge it lists a directory as it is, deletions included.
        """
        kept = []
        for path in sorted(self._deletions):
            if any(above in self._opaque for above in _ancestors(path)):
                forget_deletions(self._root, path)
            else:
                kept.append(path)
        return kept

    def _lower(self, parent: int, path: bytes, name: bytes, canonical: bytes) -> None:
        """Merging: remove `name`, but for what this layer made of it."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if path not in self._made:
            self._record_loss(parent, canonical, name)  # this layer's, when a symbolic link led to it before
            self._remove(parent, name)
        elif stat.S_ISDIR(status.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                self._empty(fd, path, canonical)
            finally:
                os.close(fd)

    def _empty(self, directory: int, head: bytes, canonical: bytes) -> None:
        """Merging: remove from a directory what this layer did not make."""
        for name in map(os.fsencode, os.listdir(directory)):
            below = b"/" + name if head else name
            self._lower(directory, head + below, name, canonical + (b"/" + name if canonical else name))

    def _remember(self, path: bytes) -> None:
        """Merging only: what this layer made, with the directories on the way to it."""
        head, _, name = path.rpartition(b"/")
        self._recorded.add(self._path(head, name))
        while path and path not in self._made:
            self._made.add(path)
            path = path.rpartition(b"/")[0]

    # -- places --------------------------------------------------------------------------------------------------------

    def _path(self, head: bytes, name: bytes) -> bytes:
        """The canonical path of `name` in the directory `head`, which is open."""
        head = self._canonical.get(head, head)
        return head + b"/" + name if head else name

    def _place(self, parent: int, path: bytes, name: bytes, make: Callable[[], None]) -> None:
        """Make something where perhaps something is: the last member of a name counts."""
        try:
            make()
        except FileExistsError:
            self._clear(parent, path, name)
            make()

    def _clear(self, parent: int, path: bytes, name: bytes) -> None:
        self._times.pop(path, None)
        self._record_loss(parent, self._path(path.rpartition(b"/")[0], name), name)
        self._remove(parent, name)

    def _record_loss(self, parent: int, path: bytes, name: bytes) -> None:
        """What is about to be removed may be content of the archive, which is nowhere else."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                for below in map(os.fsencode, os.listdir(fd)):
                    self._record_loss(fd, path + b"/" + below, below)
            finally:
                os.close(fd)
        elif stat.S_ISREG(status.st_mode) and (not self._merge or path in self._recorded):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._recorder.keep(path, fd)
            finally:
                os.close(fd)

    def _remove(self, parent: int, name: bytes) -> None:
        """Remove the file or tree `name`, if it is there."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._stale = True  # paths of open directories may have led through it
        remove_tree(parent, os.fsdecode(name))

    def _parent(self, path: bytes) -> int:
        """A descriptor of the directory `path`, made where it is missing; open as long as it is among the last used."""
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if path.count(b"/") > _DEEPEST:
            raise Malformed("a member is too deep")
        canonical = path
        try:
            fd, canonical = self._open_parent(path)
        except (FileNotFoundError, NotADirectoryError):
            fd = self._imply(path)
            canonical = self._path(*path.rpartition(b"/")[::2])
        self._keep_open(path, fd, canonical)
        return fd

    def _open_parent(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory, and its canonical path."""
        try:
            return inroot.openat2(self._root, os.fsdecode(path), _DIRECTORY & ~os.O_NOFOLLOW, _STRAIGHT), path
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        fd = self._existing(path)
        return fd, posixpath.realpath(b"/" + path)[1:]  # in this process's root, which is ours

    def _existing(self, path: bytes) -> int:
        return inroot.open_in_root(self._root, os.fsdecode(path) or "/", _DIRECTORY & ~os.O_NOFOLLOW)

    def _imply(self, path: bytes) -> int:
        """Make the missing directories of `path`.  A file in the way was replaced by a directory: so do readers."""
        head, _, name = path.rpartition(b"/")
        parent = self._parent(head)
        replaced = False
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            replaced = True
            self._clear(parent, path, name)
            os.mkdir(name, 0o755, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        if replaced:
            self._hide(fd, path)
        else:
            self.implied.append(path)
        if self._merge:
            self._remember(path)
        return fd

    def _keep_open(self, path: bytes, fd: int, canonical: bytes) -> None:
        old = self._open.pop(path, None)
        if old is not None:
            os.close(old)
        elif len(self._open) >= _OPEN:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))
            self._canonical.pop(oldest, None)
        self._open[path] = fd
        if canonical != path:
            self._canonical[path] = canonical

    # -- the end -------------------------------------------------------------------------------------------------------

    def _set_times(self) -> None:
        """Directories last, the deepest first."""
        for path, times in sorted(self._times.items(), reverse=True):
            try:
                fd = self._again(path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # replaced by a later member
                raise
            try:
                os.utime(fd, ns=times)
            finally:
                os.close(fd)

    def _again(self, path: bytes) -> int:
        """A descriptor of a directory that was described before."""
        return inroot.open_in_root(self._root, os.fsdecode(path) or "/", _DIRECTORY)

    def _close_all(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._canonical.clear()
        self._stale = False

    def _check_room(self) -> None:
        """Leave the rest of the host some room: archives that expand without end stop here."""
        if self._entries > MOST_ENTRIES:
            raise Malformed(f"an archive of more than {MOST_ENTRIES} members")
        room = os.fstatvfs(self._root)
        if room.f_bavail * room.f_frsize < _RESERVE or room.f_favail * _RESERVE_INODES < room.f_files:
            raise OSError(errno.ENOSPC, "write: unpacking would leave no room on the file system")


def _set_xattrs(fd: int, xattrs: dict[bytes, bytes]) -> None:
    """Set what an image may say about a file.

    Nothing of the kernel's own (trusted.*: overlay reads redirections there; security.* but file capabilities).  Not
    every file system has them: Docker goes on, too.
    """
    for name, value in xattrs.items():
        allowed = name.startswith(b"user.") and not name.startswith(b"user.overlay.")
        if allowed or name in (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"):
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise


def forget_deletions(root: int, path: bytes) -> None:
    """Remove the deletions in the directory `path` of a layer, if it still is one."""
    flags, resolve = os.O_RDONLY | os.O_DIRECTORY, inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS
    try:
        directory = inroot.openat2(root, os.fsdecode(path) or ".", flags, resolve)
    except OSError:
        return
    try:
        for name in os.listdir(directory):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)


def _ancestors(path: bytes) -> list[bytes]:
    """The path itself and every directory above it, below the root."""
    parts = path.split(b"/") if path else []
    return [b"/".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _show(name: bytes) -> str:
    return repr(name[:200].decode(errors="replace"))
