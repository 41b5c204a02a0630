"""What the two drivers share: one directory for each layer and snapshot below `snapshots/<driver>/`, rows and removal.

Layers are numbered in base 36: the fall-back for kernels without `lowerdir+` has to fit 500 of them into one page of
mount options.  Snapshots carry the first twelve characters of their key.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, aclosing, contextmanager
from typing import Any, NamedTuple

from boxwright.confined import Jobs
from boxwright.db.connection import Database
from boxwright.errdefs import Conflict, InvalidParameter, NotFound, System
from boxwright.storage.layers import MOST_LAYERS, Layer, LayerTable
from boxwright.storage.snapshotter import HOSTFS, Mount, Source, Unpacked
from boxwright.storage.streams import job_stream
from boxwright.trees.measure import usage
from boxwright.trees.placement import spread
from boxwright.trees.trash import Trash

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# A layer's record, and what its tree has lost of the archive: beside `fs` (see record.py).
RECORD, KEPT = "record", "kept"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SHORT = 12


class _Parts(NamedTuple):
    """A snapshot that is read: arguments of the jobs that compare it, its own tree, and a view of all of it."""

    args: dict[str, Any]
    tree: int
    whole: Mount


class Directories:
    """Base of the drivers; they add how a directory is filled and mounted."""

    name: str
    independent: bool
    folder: str

    def __init__(self, data_root: str, db: Database, jobs: Jobs, trash: Trash | None = None) -> None:
        """Makes `snapshots/<driver>` and `tmp` below `data_root`, mode 0710 and 0700.  trash: `tmp`, if it is open."""
        self.root = f"{data_root}/snapshots/{self.folder}"
        os.makedirs(self.root, 0o710, exist_ok=True)
        spread(self.root)
        self.trash = trash or Trash(f"{data_root}/tmp")
        self.layers = LayerTable(db)
        self._db = db
        self._jobs = jobs
        self.needed: Callable[[str], bool] = _always
        self._chains: dict[str, tuple[Layer, ...]] = {}
        self._rows: dict[str, tuple[str, str]] = {}  # of snapshots that have been asked for or have none yet
        # Snapshots that are being read, and the directories of those that were removed meanwhile.
        self._readers: Counter[str] = Counter()
        self._left: dict[str, str] = {}
        self._kept: set[str] = set()  # directories of the driver's own, which have no row
        self._next = 1 + max((number for name in os.listdir(self.root) if (number := _number(name)) >= 0), default=0)

    # -- layers --------------------------------------------------------------------------------------------------------

    def has_layer(self, chain_id: str) -> bool:
        return chain_id in self.layers

    def layer_size(self, chain_id: str) -> int:
        return self.layers.get(chain_id).size

    async def _apply(self, path: str, source: Source, merge: bool, progress: Callable[[int], None] | None) -> Unpacked:
        """Run the unpacking job on the directory `fs` in `path`, beside which it leaves the layer's record."""
        args = {"offset": source.offset, "length": source.length, "merge": merge}
        hear = None if progress is None else (lambda message: progress(int(message["done"])))
        with ExitStack() as undo:
            fds = [source.fd, opened(undo, f"{path}/fs", DIRECTORY)]
            fds += [opened(undo, f"{path}/{name}", _NEW) for name in (RECORD, KEPT)]
            result = await self._jobs.run("layer.apply", args, fds, hear)
        implied, deletions = tuple(result["implied"]), tuple(result["deletions"])
        return Unpacked(path, str(result["diff_id"]), int(result["size"]), implied, deletions, int(result["archive"]))

    def commit_layer(self, unpacked: Unpacked, chain_id: str, parent: str | None) -> None:
        if chain_id in self.layers:
            self.discard(unpacked)
            return
        if parent is not None and len(self._chain(parent)) >= MOST_LAYERS:
            self.discard(unpacked)
            raise InvalidParameter("max depth exceeded")
        directory = _text(self._next)
        self._next += 1
        path = f"{self.root}/{directory}"
        try:
            os.rename(unpacked.path, path)
            self.layers.insert(Layer(chain_id, directory, unpacked.diff_id, parent, unpacked.size, unpacked.archive))
        except BaseException:
            self.trash.discard(unpacked.path)
            self.trash.discard(path)
            raise

    def discard(self, unpacked: Unpacked) -> None:
        self.trash.discard(unpacked.path)

    def release_layer(self, chain_id: str) -> list[str]:
        removed: list[str] = []
        current: str | None = chain_id
        while current is not None and not self._stays(current) and current in self.layers:
            layer = self.layers.get(current)
            self.layers.delete(current)
            self._chains.clear()
            self.trash.discard(f"{self.root}/{layer.directory}")
            removed.append(current)
            current = layer.parent
        return removed

    def _stays(self, chain_id: str) -> bool:
        return self.needed(chain_id) or self.layers.above(chain_id)

    def lease(self, chain_ids: Sequence[str]) -> AbstractContextManager[None]:
        return self.layers.lease(chain_ids)

    async def archive(self, chain_id: str) -> AsyncGenerator[bytes, None]:
        layer = self.layers.get(chain_id)
        path = f"{self.root}/{layer.directory}"
        with self._using([chain_id]), ExitStack() as undo:
            tree = opened(undo, f"{path}/fs", DIRECTORY)
            if layer.archive >= 0:
                fds = [tree, *(opened(undo, f"{path}/{name}", _OLD) for name in (RECORD, KEPT))]
                stream = job_stream(self._jobs, "layer.rebuild", {"diff_id": layer.diff_id}, fds)
            else:
                below = None if self.independent or layer.parent is None else self.view([layer.parent])
                stream = job_stream(self._jobs, "tree.diff", {"overlay": self.independent, "view": below}, [tree])
            async with aclosing(stream):
                async for piece in stream:
                    yield piece

    def archive_size(self, chain_id: str) -> int:
        return self.layers.get(chain_id).archive

    @contextmanager
    def _using(self, chain: Sequence[str]) -> Iterator[None]:
        """Layers stay while the body runs; what nobody needs afterwards goes."""
        try:
            with self.lease(chain):
                yield
        finally:
            for chain_id in chain:
                self.release_layer(chain_id)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    async def changes(self, key: str) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        with self._reading(key) as parts:
            await self._jobs.run(
                "tree.changes",
                parts.args,
                [parts.tree],
                lambda message: found.extend((kind, path) for kind, path in message["changes"]),
            )
        return found

    async def diff(self, key: str, latest: int | None = None) -> AsyncGenerator[bytes, None]:
        with self._reading(key) as parts:
            args = {**parts.args, "latest": latest}
            async with aclosing(job_stream(self._jobs, "tree.diff", args, [parts.tree])) as stream:
                async for piece in stream:
                    yield piece

    async def export(self, key: str) -> AsyncGenerator[bytes, None]:
        with self._reading(key) as parts:
            async with aclosing(job_stream(self._jobs, "tree.export", {"view": parts.whole}, [])) as stream:
                async for piece in stream:
                    yield piece

    def view(self, chain_ids: Sequence[str]) -> Mount:
        raise NotImplementedError

    def parts(self, key: str) -> tuple[str, Mount | None, Mount]:
        """The snapshot's own tree, and read-only views of what is below it and of everything.

        Raises NotFound, InvalidParameter for hostfs.
        """
        raise NotImplementedError

    @contextmanager
    def _reading(self, key: str) -> Iterator["_Parts"]:
        """The snapshot stays on disk while the body runs, even when it is removed meanwhile; and so do its layers."""
        _, base = self._snapshot(key)
        tree, below, whole = self.parts(key)
        self._readers[key] += 1
        try:
            with self._using([base] if base else []), ExitStack() as undo:
                fd = opened(undo, tree, DIRECTORY)
                yield _Parts({"overlay": self.independent, "view": below}, fd, whole)
        finally:
            self._readers[key] -= 1
            if not self._readers[key]:
                del self._readers[key]
                left = self._left.pop(key, None)
                if left is not None:
                    self.trash.discard(left)

    def exists(self, key: str) -> bool:
        return self._find(key) is not None

    def remove(self, key: str) -> None:
        found = self._find(key)
        if found is None:
            return
        directory, base = found
        # The row first: bytes without a row are swept, a row without bytes would be a container that cannot start.
        self._db.execute("DELETE FROM snapshots WHERE key = ?", (key,))
        self._rows.pop(key, None)
        if key in self._readers:
            self._left[key] = f"{self.root}/{directory}"
        else:
            self.trash.discard(f"{self.root}/{directory}")
        if base not in ("", HOSTFS):
            self._db.after_commit(lambda: self.release_layer(base))

    async def usage(self, key: str) -> tuple[int, int]:
        directory, _ = self._snapshot(key)
        return await asyncio.to_thread(usage, f"{self.root}/{directory}/fs")

    def _reserve(self, key: str, chain_ids: Sequence[str]) -> tuple[str, str]:
        """Check that `key` is new and its layers exist; returns the directory's name and the base."""
        if self.exists(key):
            raise Conflict(f"snapshot {key} already exists")
        base = chain_ids[-1] if chain_ids else ""
        if base not in ("", HOSTFS):
            self._chain(base)
        directory = key[:_SHORT]
        path = f"{self.root}/{directory}"
        if os.path.lexists(path):
            if self._db.query("SELECT 1 FROM snapshots WHERE directory = ?", (directory,)):
                raise Conflict(f"snapshot {key} would share the directory {path}")
            self.trash.discard(path)
        return directory, base

    def record(self, key: str) -> None:
        self._db.execute("INSERT INTO snapshots VALUES (?, ?, ?)", (key, *self._rows[key]))

    def _made(self, key: str, directory: str, base: str, record: bool) -> None:
        """The snapshot is complete: known from now on, with a row now or later."""
        self._rows[key] = (directory, base)
        if record:
            try:
                self.record(key)
            except BaseException:
                del self._rows[key]
                raise

    def _snapshot(self, key: str) -> tuple[str, str]:
        """Directory and base of a snapshot.  Raises NotFound."""
        found = self._find(key)
        if found is None:
            raise NotFound(f"snapshot {key} does not exist")
        return found

    def _find(self, key: str) -> tuple[str, str] | None:
        found = self._rows.get(key)
        if found is None:
            rows = self._db.query("SELECT directory, base FROM snapshots WHERE key = ?", (key,))
            if rows:
                found = self._rows[key] = rows[0]
        return found

    def _chain(self, chain_id: str) -> tuple[Layer, ...]:
        """The layer and all below it, topmost first.  Raises NotFound."""
        chain = self._chains.get(chain_id)
        if chain is None:
            found = []
            current: str | None = chain_id
            while current is not None:
                found.append(self.layers.get(current))
                current = found[-1].parent
                if len(found) > MOST_LAYERS:
                    raise System(f"layer {chain_id} has more than {MOST_LAYERS} below it")
            chain = self._chains[chain_id] = tuple(found)
        return chain

    # -- life ----------------------------------------------------------------------------------------------------------

    def reconcile(self, keep: Collection[str]) -> None:
        for (key,) in self._db.query("SELECT key FROM snapshots"):
            if key not in keep:
                self.remove(key)
        known = {row[0] for row in self._db.query("SELECT directory FROM layers UNION SELECT directory FROM snapshots")}
        for name in os.listdir(self.root):
            if name not in known and name not in self._kept:
                self.trash.discard(f"{self.root}/{name}")
        self.trash.sweep()

    def close(self) -> None:
        self.trash.close()

    def status(self) -> list[list[str]]:
        return [["Backing Filesystem", _file_system(self.root)]]

    def describe(self, key: str) -> dict[str, Any]:
        raise NotImplementedError


def opened(undo: ExitStack, path: str, flags: int) -> int:
    """`path` as a descriptor that is closed with `undo`."""
    fd = os.open(path, flags, 0o600)
    undo.callback(os.close, fd)
    return fd


def _always(chain_id: str) -> bool:
    return True


def _number(name: str) -> int:
    """The number that a layer's directory name stands for; -1 for other names."""
    if len(name) >= _SHORT or not name or any(c not in _DIGITS for c in name):
        return -1
    return int(name, 36)


def _text(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


def _file_system(path: str) -> str:
    """Name of the file system that holds `path`: the longest mount point of /proc/self/mountinfo above it."""
    best, kind = "", "unknown"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            point = fields[4].rstrip("/")
            if (path + "/").startswith(point + "/") and len(point) >= len(best):
                best, kind = point, fields[fields.index("-") + 1]
    return "extfs" if kind in ("ext2", "ext3", "ext4") else kind
