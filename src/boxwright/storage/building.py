"""Confined jobs of a build: a file of a source is read, and COPY, ADD and WORKDIR become the archive of a layer.

Nothing is written into an image's files: a layer is an archive that is made here, out of sources that are only read.
Its names are those that the destination has below the image's root once every link of the image is followed.  The image
(this process's root) and the sources (a directory from which nothing leads out) are resolved by openat2 only.
"""

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Callable

from boxwright.confined import Args, Confinement
from boxwright.errdefs import InvalidParameter, NotFound, StepError
from boxwright.libcontainer import users
from boxwright.libcontainer.rootfs import make_rootfs
from boxwright.linux import inroot
from boxwright.storage import compression, ignore, modes, tarstream
from boxwright.storage.apply import write_all
from boxwright.storage.lookup import matching, missing, resolve
from boxwright.storage.tarstream import Archive, Entry, Malformed
from boxwright.storage.tarwriter import END, Described, Writer, described, header

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_DEEPEST = 250
_WHITEOUT = b".wh."
_TAR_MAGIC = 257
_KINDS = {
    tarstream.REGULAR: b"0", tarstream.LINK: b"1", tarstream.SYMLINK: b"2", tarstream.CHARACTER: b"3",
    tarstream.BLOCK: b"4", tarstream.DIRECTORY: b"5", tarstream.FIFO: b"6",
}  # fmt: skip


def read_file(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `build.read`: copy the regular file args["path"] of a source to the file fds[0].

    args: source (see `_source`), limit (bytes).  Raises NotFound, InvalidParameter.
    """
    out, *rest = fds
    tree = _source(args, rest, confinement)
    confinement.enter(-1)
    try:
        fd = inroot.open_in_root(tree, str(args["path"]), _READ)
    except OSError as error:
        raise NotFound(f"{args['path']}: {error.strerror}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > int(args["limit"]):
        raise InvalidParameter(f"{args['path']}: no regular file, or too large")
    while data := os.read(fd, 1 << 20):
        write_all(out, memoryview(data))
    return {"size": status.st_size}


def find_archives(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `build.find`: what the patterns args["sources"] name.

    args: source.  Result: found, each [path, kind]; kind: "" a directory or any file, "tar", or a kind of compression.
    """
    tree = _source(args, fds, confinement)
    confinement.enter(-1)
    found = []
    for pattern in args["sources"]:
        for path in matching(tree, str(pattern), "ADD"):
            found.append([path, _archive_kind(tree, path)])
    return {"found": found}


def _archive_kind(tree: int, path: str) -> str:
    try:
        fd = inroot.open_in_root(tree, path, _READ)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        head = os.pread(fd, tarstream.BLOCK_SIZE, 0)
        kind = compression.detect(head)
        if kind:
            return kind
        return "tar" if head[_TAR_MAGIC : _TAR_MAGIC + 5] == b"ustar" else ""
    finally:
        os.close(fd)


# -- a layer ----------------------------------------------------------------------------------------------------------


def write_layer(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `build.layer`: the archive of a layer that has the items at the destination, written to the file fds[0].

    args:
        write     false: nothing is written, the digest alone is asked for
        view      a read-only Mount value of the image below, None: it has no files
        link      the destination is looked up nowhere (COPY --link)
        source    see `_source`
        items     {"kind": "tree", "path": pattern} of the source
                  {"kind": "file", "name", "mode", "mtime"}: the file fds[n], in order
                  {"kind": "archive"}: the members of the tar archive fds[n], in order
                  {"kind": "directory"}: what is in the directory fds[n], in order
        destination, parents, excludes, chmod (see `modes.py`, or None), now (seconds)
        owner     "user:group", None for root; keep: what the sources say instead
        instruction   COPY or ADD, for errors
    Result: digest (of everything but times), what ("file", "dir" or "multi"), empty (whether the layer has nothing).
    Raises NotFound (a source), InvalidParameter.
    """
    out, *rest = fds
    tree = _source(args, rest, confinement) if args["source"] is not None else -1
    files = rest[1:] if args["source"] == "directory" else rest
    files = [confinement.isolate(fd, readonly=True) if stat.S_ISDIR(os.fstat(fd).st_mode) else fd for fd in files]
    if args["view"] is None:
        confinement.enter(-1)
        image = None
    else:
        root, _ = make_rootfs(args["view"])
        image = confinement.enter(root, detached=True, readonly=True)
    owner = None if args["owner"] is None else _owner(image, str(args["owner"]))
    layer = _Layer(args, out if args["write"] else -1, image, owner)
    return layer.make(tree, files)


def _source(args: Args, fds: list[int], confinement: Confinement) -> int:
    """The tree that files come from: args["source"] is "directory" (fds[0]) or a read-only Mount value."""
    if args["source"] == "directory":
        return confinement.isolate(fds[0], readonly=True)
    root, _ = make_rootfs(args["source"])
    try:
        return os.open(".", _DIRECTORY, dir_fd=root)
    finally:
        os.close(root)


def _owner(image: int | None, text: str) -> tuple[int, int]:
    """ "user[:group]", names as the image's files have them; a number alone is both ids."""
    name, colon, group = text.partition(":")
    numbers = [int(part) for part in (name, group if colon else name) if part.isdigit() and len(part) < 11]
    if len(numbers) == 2:
        if max(numbers) > users.MAX_ID:
            raise InvalidParameter(f"uids and gids must be in range 0-{users.MAX_ID}")
        return numbers[0], numbers[1]
    if image is None:
        raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
    try:
        found = users.resolve(image, {"username": text})
    except StepError as error:
        raise InvalidParameter(f"unable to convert uid/gid chown string to host mapping: {error.message}") from error
    return found.uid, found.gid


class _Layer:
    """Writes one archive: members in the order of the items, each directory that is missing before what is in it."""

    def __init__(self, args: Args, out: int, image: int | None, owner: tuple[int, int] | None) -> None:
        self._args = args
        self._image = image
        self._owner = (0, 0) if owner is None else owner
        self._keep_owner = bool(args["keep"]) and owner is None
        self._chmod = modes.parse(str(args["chmod"])) if args["chmod"] else None
        self._excludes = _patterns(args["excludes"])
        self._hash = hashlib.sha256()
        self._out = out
        self._made: set[bytes] = set()
        self._size = 0
        self._writer = Writer(self._write, self._describe)

    def make(self, tree: int, files: list[int]) -> Args:
        """The job's work and its result."""
        args = self._args
        destination = str(args["destination"])
        items = self._found(tree, args["items"])
        into = destination.endswith(("/", "/."))
        parts, there = self._resolve(destination)
        if len(items) > 1 and not into:
            raise InvalidParameter(
                f"When using {args['instruction']} with more than one source file, "
                "the destination must be a directory and end with a /"
            )
        target = b"/".join(parts)
        what = "multi" if len(items) > 1 else "file"
        if not items:
            self._directories(target)
        streams = iter(files)
        for item in items:
            if item["kind"] == "tree":
                kind = self._tree(tree, str(item["path"]), target, into or there == "directory", there)
                what = "dir" if kind == "dir" and what == "file" else what
            elif item["kind"] == "file":
                self._file(next(streams), item, target, into or there == "directory")
            elif item["kind"] == "directory":
                self._check_directory(there)
                self._directories(target, owned=1)
                self._walk(next(streams), target, "", _DEEPEST)
                what = "dir" if what == "file" else what
            else:
                self._check_directory(there)
                self._directories(target)
                self._archive(next(streams), target)
        self._writer.finish()
        return {"digest": self._hash.hexdigest(), "what": what, "empty": self._size == len(END)}

    def _found(self, tree: int, items: "list[Args]") -> "list[Args]":
        found: list[Args] = []
        for item in items:
            if item["kind"] != "tree":
                found.append(item)
                continue
            paths = self._matching(tree, str(item["path"]))
            found += [{"kind": "tree", "path": path} for path in paths]
        return found

    def _matching(self, tree: int, pattern: str) -> "list[str]":
        instruction = str(self._args["instruction"])
        if not self._args["parents"] or not ignore.has_wildcards(pattern):
            return matching(tree, pattern, instruction)
        # What stands before "/./" is no part of the names that are kept, and stays marked off in what matches.
        before, pivot, behind = pattern.partition("/./")
        above = len([name for name in posixpath.normpath(before).split("/") if name not in ("", ".")]) if pivot else 0
        found = []
        whole = f"{before.replace('**', '*')}/{behind}" if pivot else before
        for path in matching(tree, whole, instruction, deep=True):
            names = path.strip("/").split("/")
            found.append(f"/{'/'.join(names[:above])}/./{'/'.join(names[above:])}" if pivot else path)
        return found

    # -- sources -------------------------------------------------------------------------------------------------------

    def _tree(self, tree: int, path: str, target: bytes, into: bool, there: str) -> str:
        parts, kind = resolve(tree, path)
        if not kind:
            raise missing(str(self._args["instruction"]), path)
        if self._args["parents"]:
            target = self._with_parents(tree, path, target)
            into = kind != "directory"
        head = "/".join(map(os.fsdecode, parts[:-1])) or "/"
        parent = inroot.open_in_root(tree, head, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if kind == "directory":
                if not self._args["parents"]:
                    self._check_directory(there)
                self._directories(target, owned=1)
                fd = os.open(parts[-1] if parts else b".", _DIRECTORY, dir_fd=parent)
                self._walk(fd, target, "", _DEEPEST)
                return "dir"
            name = os.fsencode(posixpath.basename(path.rstrip("/")))
            if self._excludes is not None and self._excludes.match(os.fsdecode(name)):
                return "file"
            member = self._member(target, name) if into else target
            self._directories(member.rpartition(b"/")[0], owned=_DEEPEST)
            self._writer.add(_allowed(member), parent, parts[-1])
            return "file"
        finally:
            os.close(parent)

    def _with_parents(self, tree: int, path: str, target: bytes) -> bytes:
        """COPY --parents: the directories that lead to the source, behind "/./" where there is one, are made, too."""
        _, pivot, behind = path.partition("/./")
        kept = (behind if pivot else path).strip("/")
        start = path[: len(path.rstrip("/")) - len(kept)]
        names = [name for name in kept.split("/") if name not in ("", ".")]
        self._directories(target)
        _, kind = resolve(tree, path)
        for count in range(1, len(names) + (kind == "directory")):
            member = self._member(target, os.fsencode(names[count - 1]))
            parts, _ = resolve(tree, start + "/" + "/".join(names[:count]))
            above = inroot.open_in_root(
                tree, "/".join(map(os.fsdecode, parts[:-1])) or "/", os.O_RDONLY | os.O_DIRECTORY
            )
            if member not in self._made:
                self._made.add(member)
                self._writer.add(_allowed(member), above, parts[-1])
            os.close(above)
            target = member
        return target

    def _walk(self, directory: int, target: bytes, path: str, depth: int) -> None:
        """Add what is in the directory; closes it."""
        try:
            if not depth:
                raise InvalidParameter(f"the tree is too deep: {path[:200]}")
            for name in sorted(map(os.fsencode, os.listdir(directory))):
                below = f"{path}/{os.fsdecode(name)}" if path else os.fsdecode(name)
                out = self._excludes is not None and self._excludes.match(below)
                if out and not (self._excludes is not None and self._excludes.has_exceptions):
                    continue
                member = self._member(target, name)
                try:
                    child = os.open(name, _DIRECTORY, dir_fd=directory)
                except OSError as error:
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    if not out:
                        self._writer.add(_allowed(member), directory, name)
                    continue
                if not out:
                    self._made.add(member)
                    self._writer.add(_allowed(member), directory, name)
                self._walk(child, member, below, depth - 1)
        finally:
            os.close(directory)

    def _file(self, fd: int, item: Args, target: bytes, into: bool) -> None:
        member = self._member(target, os.fsencode(str(item["name"]))) if into else target
        self._directories(member.rpartition(b"/")[0], owned=_DEEPEST)
        mode = self._mode(int(item["mode"]), False)
        size = os.fstat(fd).st_size
        self._send(header(_allowed(member), mode=mode, uid=self._owner[0], gid=self._owner[1], size=size,
                          mtime=self._time(int(item["mtime"]))))  # fmt: skip
        self._copy(lambda count, done: os.pread(fd, count, done), size)

    def _archive(self, fd: int, target: bytes) -> None:
        os.lseek(fd, 0, os.SEEK_SET)  # it is read once for the digest and once more for the layer
        archive = Archive(lambda view: os.readv(fd, [view]), lambda count: _skip(fd, count))
        try:
            while (entry := archive.next()) is not None:
                if entry.name:
                    self._entry(entry, archive, target)
        except Malformed as error:
            raise InvalidParameter(f"archive/tar: {error}") from error

    def _entry(self, entry: Entry, archive: Archive, target: bytes) -> None:
        kind = _KINDS[entry.kind]
        link = entry.link
        if entry.kind == tarstream.LINK:
            link = self._member(target, link)
        uid, gid = (entry.uid, entry.gid) if self._args["owner"] is None else self._owner
        mode = self._mode(entry.mode, entry.kind == tarstream.DIRECTORY)
        records = {b"SCHILY.xattr." + name: value for name, value in entry.xattrs.items()}
        member = _allowed(self._member(target, entry.name))
        regular = entry.kind == tarstream.REGULAR
        if entry.kind == tarstream.DIRECTORY:
            self._made.add(member)
            member += b"/"
        self._send(
            header(
                member,
                kind,
                mode=mode,
                uid=uid,
                gid=gid,
                size=entry.length if regular else 0,
                mtime=self._time(entry.mtime // 10**9),
                link=link,
                device=os.makedev(entry.major, entry.minor) if kind in (b"3", b"4") else 0,
                records=records,
            )
        )
        if regular:
            self._data(entry, archive)

    def _data(self, entry: Entry, archive: Archive) -> None:
        done = 0
        for offset, size in entry.ranges if entry.ranges is not None else [(0, entry.size)]:
            self._zeroes(offset - done)
            done = offset + size
            while size:
                data = archive.read(size)
                size -= len(data)
                self._send(data)
        self._zeroes(entry.length - done)
        self._zeroes(-entry.length % tarstream.BLOCK_SIZE)

    # -- destinations --------------------------------------------------------------------------------------------------

    def _resolve(self, path: str) -> "tuple[list[bytes], str]":
        if self._image is None or self._args["link"]:
            names = posixpath.normpath("/" + path.lstrip("/")).strip("/")
            return ([os.fsencode(name) for name in names.split("/")] if names else []), ("" if names else "directory")
        try:
            return resolve(self._image, path)
        except NotADirectoryError:
            raise InvalidParameter(f"cannot copy to non-directory: {path}") from None

    def _check_directory(self, there: str) -> None:
        if there == "file":
            raise InvalidParameter(f"cannot copy to non-directory: {self._args['destination']}")

    def _directories(self, path: bytes, owned: int = 0) -> None:
        """Describe every directory on the way to `path` that the image has not, nor the layer so far.

        owned: how many of them, from the end, belong to whom the files do; the others are root's.
        """
        parts = path.split(b"/") if path else []
        for count in range(1, len(parts) + 1):
            prefix = b"/".join(parts[:count])
            if prefix in self._made:
                continue
            self._made.add(prefix)
            if self._args["link"] and self._args["below"]:
                continue  # what it looks like is for the layers below to say
            kind = "" if self._image is None or self._args["link"] else resolve(self._image, os.fsdecode(prefix))[1]
            if kind == "file":
                raise InvalidParameter(f"cannot copy to non-directory: /{os.fsdecode(prefix)}")
            if not kind:
                owner = self._owner if len(parts) - count < owned else (0, 0)
                self._send(
                    header(_allowed(prefix) + b"/", b"5", mode=0o755, uid=owner[0], gid=owner[1],
                           mtime=self._time(int(self._args["now"])))
                )  # fmt: skip

    def _member(self, target: bytes, name: bytes) -> bytes:
        return target + b"/" + name if target else name

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _describe(self, status: os.stat_result) -> Described:
        found = described(status)
        if not self._keep_owner:
            found = found._replace(uid=self._owner[0], gid=self._owner[1])
        if not stat.S_ISLNK(status.st_mode):
            found = found._replace(mode=self._mode(found.mode, stat.S_ISDIR(status.st_mode)))
        return found._replace(mtime=self._time(found.mtime))

    def _mode(self, mode: int, directory: bool) -> int:
        return mode if self._chmod is None else self._chmod.apply(mode, directory)

    def _time(self, seconds: int) -> int:
        """Times are no part of the digest; in the archive none is later than `latest`."""
        if self._out < 0:
            return 0
        latest = self._args["latest"]
        return seconds if latest is None else min(seconds, int(latest))

    def _copy(self, read: "Callable[[int, int], bytes]", size: int) -> None:
        done = 0
        while done < size:
            data = read(min(1 << 20, size - done), done)
            if not data:
                raise InvalidParameter("a source became shorter while it was read")
            done += len(data)
            self._send(data)
        self._zeroes(-size % tarstream.BLOCK_SIZE)

    def _zeroes(self, count: int) -> None:
        while count > 0:
            self._send(bytes(min(count, 1 << 20)))
            count -= min(count, 1 << 20)

    def _send(self, data: bytes | memoryview) -> None:
        self._writer.send(data)

    def _write(self, data: memoryview) -> None:
        self._size += len(data)
        if self._out < 0:
            self._hash.update(data)
        else:
            write_all(self._out, data)


def _patterns(texts: "list[str]") -> "ignore.Patterns | None":
    try:
        return ignore.Patterns(texts) if texts else None
    except ignore.BadPattern as error:
        raise InvalidParameter(f"invalid --exclude: {error}") from error


def _allowed(member: bytes) -> bytes:
    """A name that a layer can have: those of deletions would delete what is below it."""
    if member.startswith(_WHITEOUT) or b"/" + _WHITEOUT in member:
        shown = member.decode(errors="replace")
        raise InvalidParameter(f"{shown}: a name that begins with .wh. means a deletion in a layer")
    return member


def _skip(fd: int, count: int) -> None:
    os.lseek(fd, count, os.SEEK_CUR)
