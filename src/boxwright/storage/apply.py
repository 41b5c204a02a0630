"""Confined jobs on archives: unpack a layer and make its archive again, expand a compressed archive, copy a tree.

A decoder is a C library that reads hostile bytes: it runs in a helper of its own, which has nothing but its input and a
pipe.  Digests are taken of the bytes as they are unpacked; nothing is visible before the engine has compared them.
"""

import os
import stat
from collections.abc import Callable

from boxwright.confined import Args, Confinement
from boxwright.errdefs import InvalidParameter, System
from boxwright.libcontainer.rootfs import make_rootfs
from boxwright.linux import inroot
from boxwright.storage import compression
from boxwright.storage.extract import Extractor, forget_deletions
from boxwright.storage.record import Rebuilder, Recorder
from boxwright.storage.tarstream import Archive, Malformed
from boxwright.trees.duplicate import copy_attributes, copy_tree

# Names in an index together, bytes: they travel in one message.
_MOST_NAMES = 4 << 20
_STEP = 4 << 20  # bytes of archive between two progress messages


def apply_layer(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `layer.apply`: unpack `length` bytes at `offset` of the file fds[0] into the directory fds[1].

    fds[0] may be a pipe, too: it is read to its end, whatever offset and length say.
    fds[2], fds[3]: the files `record` and `kept` of record.py, empty.
    args: offset, length, merge (see extract.py).
    Progress: {"done": bytes of the uncompressed archive}.
    Result: diff_id, size, archive (bytes of the uncompressed archive), implied (directories that no member described),
    deletions (directories with some in them).
    """
    source, root, record, kept = fds
    offset, length = int(args["offset"]), int(args["length"])
    if stat.S_ISFIFO(os.fstat(source).st_mode):
        readinto = _arriving(source, confinement)
    else:
        kind = compression.detect(os.pread(source, min(compression.MAGIC_SIZE, length), offset))
        readinto = _Range(source, offset, length).readinto
        if kind:
            readinto = _Pipe(
                confinement.helper(lambda out: _expand(kind, source, offset, length, out), [source])
            ).readinto
    root = confinement.enter(root)
    recorder = Recorder(record, kept)
    archive = Archive(readinto, recorder=recorder)
    extractor = Extractor(root, bool(args["merge"]), _Reporter(confinement).report, recorder)
    try:
        extractor.run(archive)
        deletions = extractor.deletions()
        diff_id = archive.finish()
        recorder.finish()
    except Malformed as error:
        raise InvalidParameter(f"archive/tar: {error}") from error
    return {
        "diff_id": diff_id,
        "size": extractor.size,
        "archive": recorder.size,
        "implied": _some(extractor.implied),
        "deletions": _some(deletions),
    }


def rebuild_layer(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `layer.rebuild`: write the archive that the layer fds[0] was unpacked from to the pipe fds[3].

    fds[1], fds[2]: its files `record` and `kept`.
    args: diff_id.
    Result: size (bytes written).  Raises System when a file has changed since; part of the archive is written then.
    """
    root, record, kept, out = fds
    length = os.fstat(record).st_size
    source = _Pipe(confinement.helper(lambda pipe: _expand(compression.ZSTD, record, 0, length, pipe), [record]))
    root = confinement.enter(root, readonly=True)
    rebuilder = Rebuilder(root, kept, lambda data: write_all(out, data))
    diff_id = rebuilder.run(source.readinto)
    if diff_id != args["diff_id"]:
        raise System(f"the layer's archive would have the digest {diff_id}, and should have {args['diff_id']}")
    return {"size": rebuilder.size}


def decoded(kind: str, source: int, confinement: Confinement) -> Callable[[memoryview], int]:
    """What reads the regular file `source` expanded by a helper; before the job enters its root."""
    length = os.fstat(source).st_size
    return _Pipe(confinement.helper(lambda out: _expand(kind, source, 0, length, out), [source])).readinto


def _arriving(source: int, confinement: Confinement) -> Callable[[memoryview], int]:
    """What reads the pipe `source` to its end, expanded by a helper if it is compressed."""
    stream = _Stream(source)
    kind = compression.detect(stream.peek(compression.MAGIC_SIZE))
    if not kind:
        return stream.readinto

    def expand(out: int) -> None:
        for piece in compression.expand_from(kind, stream.read):
            write_all(out, memoryview(piece))

    return _Pipe(confinement.helper(expand, [source])).readinto


def write_all(out: int, data: memoryview) -> None:
    """Write everything to a pipe; the job ends when nobody reads any longer."""
    while data:
        data = data[os.write(out, data) :]


def adopt(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `layer.adopt`: fit the layer fds[0] to the layers below it.

    An archive may hold a/b/c and say nothing of a and a/b; in an overlay the layer's own ones would cover up owner and
    mode of those that exist: they are made to look the same.  And it may delete what is not there: where nothing below
    has the directory, the kernel would show the deletions as files.
    args: view (a read-only Mount value of the layers below, or None), implied (parents first), deletions.
    """
    layer = confinement.isolate(fds[0])
    if args["view"] is None:
        confinement.enter(-1)
        for path in args["deletions"]:
            forget_deletions(layer, os.fsencode(path))
        return {}
    root, _ = make_rootfs(args["view"])
    root = confinement.enter(root, detached=True)
    flags, resolve = os.O_RDONLY | os.O_DIRECTORY, inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS
    for path in args["deletions"]:
        try:
            os.close(inroot.openat2(root, path or ".", flags, resolve))
        except OSError:
            forget_deletions(layer, os.fsencode(path))
    for path in args["implied"]:
        try:
            source = inroot.openat2(root, path, flags, resolve)
        except OSError:
            continue  # new in this layer, or it takes the place of something else
        try:
            target = inroot.openat2(layer, path, flags, resolve)
        except OSError:
            os.close(source)
            continue  # a later member put something else there
        try:
            copy_attributes(source, target, os.fstat(source))
        finally:
            os.close(source)
            os.close(target)
    return {}


def expand_archive(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `archive.expand`: write the expanded bytes of the file fds[0] to the file fds[1], at most args["limit"].

    Result: size (bytes written).
    """
    source, target = fds
    length = os.fstat(source).st_size
    kind = compression.detect(os.pread(source, compression.MAGIC_SIZE, 0))
    confinement.enter(-1)
    size = 0
    try:
        for piece in compression.expand(kind, source, 0, length):
            size += len(piece)
            if size > int(args["limit"]):
                raise InvalidParameter(f"the archive is larger than {args['limit']} bytes when it is expanded")
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]
    except compression.ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InvalidParameter(f"{kind}: invalid data: {error}") from error
    return {"size": size}


def index_archive(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `archive.index`: list the members of the archive fds[0], which is not compressed.

    args: limit (members).
    Result: members, each [name, kind, position of its data, size, target of a link].
    """
    confinement.enter(-1)
    source = _Range(fds[0], 0, os.fstat(fds[0]).st_size)
    archive = Archive(source.readinto, source.seek)
    members: list[list[str | int]] = []
    names = 0
    try:
        while (entry := archive.next()) is not None:
            names += len(entry.name) + len(entry.link)
            if len(members) >= int(args["limit"]) or names > _MOST_NAMES:
                raise InvalidParameter(f"an archive of more than {args['limit']} members, or of names too long")
            name, link = os.fsdecode(entry.name), os.fsdecode(entry.link)
            members.append([name, entry.kind, entry.position, entry.size, link])
    except Malformed as error:
        raise InvalidParameter(f"archive/tar: {error}") from error
    return {"members": members}


def copy(args: Args, fds: list[int], confinement: Confinement) -> Args:
    """Job `tree.copy`: copy what is in the directory fds[0] into the empty directory fds[1].

    Owner, mode, times and extended attributes of the directory itself are copied too.
    """
    target = confinement.isolate(fds[1])
    copy_tree(confinement.enter(fds[0]), target)
    return {}


def warm_up() -> None:
    """Run every decoder once, in the launcher: what they load late is loaded then."""
    for kind, sample in compression.SAMPLES.items():
        with open(os.memfd_create(kind), "w+b") as file:
            file.write(sample)
            file.flush()
            b"".join(compression.expand(kind, file.fileno(), 0, len(sample)))


def _expand(kind: str, source: int, offset: int, length: int, out: int) -> None:
    """In the helper: expand into the pipe `out`."""
    for piece in compression.expand(kind, source, offset, length):
        write_all(out, memoryview(piece))


def _some(paths: list[bytes]) -> list[str]:
    """As many paths as fit into one message; for the rest an odd archive has to do without our corrections."""
    room, some = _MOST_NAMES, []
    for path in paths:
        room -= len(path)
        if room < 0:
            break
        some.append(os.fsdecode(path))
    return some


class _Reporter:
    """Progress, but not for every member."""

    def __init__(self, confinement: Confinement) -> None:
        self._confinement = confinement
        self._last = 0

    def report(self, done: int) -> None:
        if done - self._last >= _STEP:
            self._last = done
            self._confinement.emit({"done": done})


class _Range:
    """Reads a part of a regular file; the descriptor's own offset is shared with others and stays untouched."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidParameter("a layer has to be a regular file")
        self._fd, self._offset, self._end = fd, offset, offset + length

    def readinto(self, view: memoryview) -> int:
        view = view[: self._end - self._offset]
        count = os.preadv(self._fd, [view], self._offset) if view else 0
        self._offset += count
        return count

    def seek(self, count: int) -> None:
        self._offset += count


class _Stream:
    """Reads a pipe whose first bytes may be looked at."""

    def __init__(self, fd: int) -> None:
        self._fd, self._seen = fd, b""

    def peek(self, count: int) -> bytes:
        """The first `count` bytes, fewer when there are no more."""
        while len(self._seen) < count and (data := os.read(self._fd, count - len(self._seen))):
            self._seen += data
        return self._seen

    def read(self, count: int) -> bytes:
        if self._seen:
            data, self._seen = self._seen[:count], self._seen[count:]
            return data
        return os.read(self._fd, count)

    def readinto(self, view: memoryview) -> int:
        if self._seen:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)
        return os.readv(self._fd, [view])


class _Pipe:
    """Reads what a helper writes; `ended` tells at the end whether the helper was satisfied."""

    def __init__(self, helper: "tuple[int, Callable[[], str]]") -> None:
        self._fd, self._ended = helper

    def readinto(self, view: memoryview) -> int:
        count = os.readv(self._fd, [view])
        if not count and (problem := self._ended()):
            raise InvalidParameter(f"archive: {problem}")
        return count
