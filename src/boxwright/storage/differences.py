"""What a container's tree has that the layers below have not: `docker diff`, and the archive of `docker commit`.

The tree is either an overlay's upper directory (deletions are character devices 0:0, emptied directories opaque) or a
whole copy (vfs).  Two files are the same when what stat(2) says of them is, and their extended attributes.  Times are
compared to what the coarser of both keeps, a second for most layers; what may have been written in that second, and
what an overlay has copied up, is read.  In a whole copy, who sets a time back after a change of the content hides it.
"""

import os
import stat
import sys
from collections.abc import Callable

from boxwright.confined import Args, Confinement
from boxwright.errdefs import InvalidParameter
from boxwright.libcontainer.rootfs import make_rootfs
from boxwright.storage.apply import write_all
from boxwright.storage.extract import OPAQUE_XATTR
from boxwright.storage.tarwriter import Writer, attributes, described, not_after

MODIFIED, ADDED, DELETED = range(3)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DEEPEST = 500  # levels, as many as a layer may have: two descriptors and three of the interpreter's frames each
_FRAMES = 3 * _DEEPEST + 500
_CHUNK = 1 << 20
_BATCH = 500  # changes in one message
# Characters of all paths together: the engine holds them, and names in a deep tree add up to what no memory holds.
MOST_TEXT = 64 << 20

# Made in every container as places to mount on, by us as by dockerd, which has them in a layer of its own: no change.
_OURS = frozenset(
    {
        b".dockerenv", b"dev", b"dev/console", b"dev/pts", b"dev/shm", b"etc", b"etc/hostname", b"etc/hosts",
        b"etc/resolv.conf", b"proc", b"sys",
    }
)  # fmt: skip

# kind, path, directory that it lies in, name.
Visit = Callable[[int, bytes, int, bytes], None]


def list_changes(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `tree.changes`: compare the tree fds[0] with what is below it.

    args: overlay (whether the tree is an upper directory), view (a read-only Mount value of what is below, or None).
    Progress: {"changes": [[kind, path], …]}, in order, directories before what is in them.
    Raises InvalidParameter past MOST_TEXT.
    """
    new, old = _enter(args, fds[0], confinement)
    batch: list[list[int | str]] = []
    left = MOST_TEXT

    def visit(kind: int, path: bytes, parent: int, name: bytes) -> None:
        nonlocal left
        left -= len(path)
        if left < 0:
            raise InvalidParameter(f"the names of what has changed are longer than {MOST_TEXT} bytes together")
        batch.append([kind, "/" + os.fsdecode(path)])
        if len(batch) >= _BATCH:
            confinement.emit({"changes": batch})
            batch.clear()

    compare(new, old, bool(args["overlay"]), visit)
    if batch:
        confinement.emit({"changes": batch})
    return {}


def write_diff(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `tree.diff`: write what the tree fds[0] adds to what is below it, as a layer's archive, to the pipe fds[1].

    args: as of `tree.changes`; latest: no time is later, seconds since the epoch, or None.
    Without a view every deletion of an upper directory is written: a layer as it is.
    """
    tree, out = fds
    new, old = _enter(args, tree, confinement)
    overlay = bool(args["overlay"])
    latest = args.get("latest")
    writer = Writer(lambda data: write_all(out, data), described if latest is None else not_after(int(latest)))

    def visit(kind: int, path: bytes, parent: int, name: bytes) -> None:
        if kind == DELETED:
            writer.whiteout(path)
            return
        writer.add(path, parent, name)

    compare(new, old, overlay, visit, writer.opaque if overlay and old is None else None)
    writer.finish()
    return {}


def write_merged(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `tree.merge`: write to the file fds[0] one layer in place of several: what args["view"] has and args["base"]
    has not (read-only Mount values; base None: nothing is below).

    args: latest, as of `tree.diff`.  Unlike between containers and images nothing is left out, and files are the same
    only when they are one file or have the same content.
    """
    latest = args["latest"]
    old = _detached(args["base"]) if args["base"] else None
    root, _ = make_rootfs(args["view"])
    new = confinement.enter(root, detached=True, readonly=True)
    describe = described if latest is None else not_after(int(latest))
    writer = Writer(lambda data: write_all(fds[0], data), describe)

    def visit(kind: int, path: bytes, parent: int, name: bytes) -> None:
        if kind == DELETED:
            writer.whiteout(path)
        else:
            writer.add(path, parent, name)

    compare(new, old, False, visit, exact=True)
    writer.finish()
    return {}


def _detached(view: Args) -> int:
    """The root of a read-only Mount value; nothing leads out of it."""
    root, _ = make_rootfs(view)
    try:
        return os.open(".", _DIRECTORY, dir_fd=root)
    finally:
        os.close(root)


def write_tree(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `tree.export`: write a root file system, args["view"] (a read-only Mount value), to the pipe fds[0]."""
    root, _ = make_rootfs(args["view"])
    root = confinement.enter(root, detached=True, readonly=True)
    writer = Writer(lambda data: write_all(fds[0], data), pipe=fds[0])
    compare(root, None, False, lambda kind, path, parent, name: writer.add(path, parent, name))
    writer.finish()
    return {}


def _enter(args: Args, tree: int, confinement: Confinement) -> tuple[int, int | None]:
    new = confinement.isolate(tree, readonly=True)
    if args["view"] is None:
        confinement.enter(-1)
        return new, None
    root, _ = make_rootfs(args["view"])
    return new, confinement.enter(root, detached=True, readonly=True)


def compare(
    new: int,
    old: int | None,
    overlay: bool,
    visit: Visit,
    opaque: Callable[[bytes], None] | None = None,
    exact: bool = False,
) -> None:
    """Tell `visit` every difference between two trees, in the order of names.

    A directory with a difference in it counts as modified, the root itself never.  opaque: told the emptied directories
    of an upper one, when there is nothing to compare it with.  exact: places to mount on count, too, and of files that
    stat(2) says the same of the content is compared.
    """
    sys.setrecursionlimit(max(_FRAMES, sys.getrecursionlimit()))
    _Comparison(overlay, visit, opaque, overlay and old is None, exact).directory(new, old, b"", _DEEPEST)


class _Above:
    """A directory on the way to where the comparison is."""

    __slots__ = ("name", "parent", "path", "told")

    def __init__(self, path: bytes, parent: int, name: bytes, told: bool) -> None:
        self.path, self.parent, self.name, self.told = path, parent, name, told


class _Comparison:
    def __init__(
        self, overlay: bool, visit: Visit, opaque: Callable[[bytes], None] | None, blind: bool, exact: bool
    ) -> None:
        self._overlay, self._visit, self._opaque, self._blind, self._exact = overlay, visit, opaque, blind, exact
        self._above: list[_Above] = []

    def directory(self, new: int, old: int | None, path: bytes, depth: int) -> None:
        if not depth:
            raise InvalidParameter(f"the tree is too deep: {path[:200].decode(errors='replace')}")
        present = set(map(os.fsencode, os.listdir(new)))
        hidden = self._overlay and _opaque(new)
        if hidden and self._opaque is not None:
            self._opaque(path)
        gone: set[bytes] = set()
        if old is not None and (hidden or not self._overlay):
            gone = set(map(os.fsencode, os.listdir(old))) - present
        for name in sorted(present | gone):
            below = path + b"/" + name if path else name
            if name in gone:
                self._tell(DELETED, below, new, name)
            else:
                self._entry(new, old, name, below, depth)

    def _entry(self, new: int, old: int | None, name: bytes, path: bytes, depth: int) -> None:
        status = _status(new, name)
        if status is None:
            return
        before = None if old is None else _status(old, name)
        if self._overlay and stat.S_ISCHR(status.st_mode) and not status.st_rdev:
            if before is not None or self._blind:
                self._tell(DELETED, path, new, name)
            return
        if before is None:
            told = self._exact or not _ours(path, status)
        else:
            told = _differ(status, before) or _attributes(new, name, status) != _attributes(old, name, before)
            if not told and (self._exact or self._overlay or status.st_mtime_ns != before.st_mtime_ns):
                told = not _one(new, old, name, status, before, self._exact)
        if told:
            self._tell(ADDED if before is None else MODIFIED, path, new, name)
        if stat.S_ISDIR(status.st_mode):
            self._descend(new, old if before is not None and stat.S_ISDIR(before.st_mode) else None, name, path,
                          told, depth)  # fmt: skip

    def _descend(self, new: int, old: int | None, name: bytes, path: bytes, told: bool, depth: int) -> None:
        try:
            inner = os.open(name, _DIRECTORY, dir_fd=new)
        except (FileNotFoundError, NotADirectoryError):
            return  # a container that runs has removed it meanwhile
        try:
            lower = None if old is None else os.open(name, _DIRECTORY, dir_fd=old)
            self._above.append(_Above(path, new, name, told))
            try:
                self.directory(inner, lower, path, depth - 1)
            finally:
                self._above.pop()
                if lower is not None:
                    os.close(lower)
        finally:
            os.close(inner)

    def _tell(self, kind: int, path: bytes, parent: int, name: bytes) -> None:
        for above in self._above:
            if not above.told:
                above.told = True
                self._visit(MODIFIED, above.path, above.parent, above.name)
        self._visit(kind, path, parent, name)


def _status(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _differ(one: os.stat_result, other: os.stat_result) -> bool:
    if (one.st_mode, one.st_uid, one.st_gid, one.st_rdev) != (other.st_mode, other.st_uid, other.st_gid, other.st_rdev):
        return True
    if stat.S_ISDIR(one.st_mode):
        return False  # size and time say that something in it has changed: then it is found anyway
    if one.st_size != other.st_size:
        return True
    first, second = divmod(one.st_mtime_ns, 10**9), divmod(other.st_mtime_ns, 10**9)
    return first[0] != second[0] or (first[1] != second[1] and bool(first[1]) and bool(second[1]))


def _one(new: int, old: int | None, name: bytes, status: os.stat_result, before: os.stat_result, exact: bool) -> bool:
    """Whether files of which stat(2) says the same are the same: one file in both trees, or the same content.

    exact: the trees are views of the same layers.  Links to one file that have been copied up are another file than
    before, with all its names.
    """
    if stat.S_ISDIR(status.st_mode) or (exact and status.st_ino == before.st_ino):
        return True
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=new) == os.readlink(name, dir_fd=old)
    if not stat.S_ISREG(status.st_mode):
        return True
    if exact and status.st_nlink > 1:
        return False
    return _same_content(new, old, name)


def _same_content(new: int, old: int | None, name: bytes) -> bool:
    try:
        one = os.open(name, _READ, dir_fd=new)
    except FileNotFoundError:
        return True  # a container that runs has removed it meanwhile
    other = os.open(name, _READ, dir_fd=old)
    try:
        while (data := os.read(one, _CHUNK)) == os.read(other, _CHUNK):
            if not data:
                return True
        return False
    finally:
        os.close(one)
        os.close(other)


def _ours(path: bytes, status: os.stat_result) -> bool:
    """Whether this is a place to mount on, that nobody has put anything in."""
    return path in _OURS and (stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and not status.st_size))


def _attributes(directory: int | None, name: bytes, status: os.stat_result) -> dict[bytes, bytes]:
    """The extended attributes that a layer carries, of files and directories."""
    if directory is None or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return {}
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError:
        return {}  # gone meanwhile, and the next comparison will say so
    try:
        return attributes(fd)
    finally:
        os.close(fd)


def _opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
