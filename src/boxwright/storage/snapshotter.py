"""What the engine asks of a storage driver, and the choice between the two that exist.

Layers are read-only and named by chain id; snapshots are writable and named by a key (a container's id).  A Mount
value, a plain dict, is all that the executing side ever learns of them:

    {"type": "overlay", "lower": [topmost, …, base], "upper": …, "work": …, "options": [], "lock": …}
    {"type": "overlay", "lower": [topmost, …, base], "options": [], "lock": None}       read-only, two layers or more
    {"type": "bind", "source": …, "readonly": bool, "lock": … | None}
    {"type": "hostfs", "lower": "/", "size": bytes, "options": [], "lock": …}

All paths are absolute.  Whoever mounts takes LOCK_EX on `lock` first, because the kernel lets two overlays share an
upper directory and says so only in its log; the lock goes with the descriptor.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from boxwright.confined import Jobs
from boxwright.db.connection import Database
from boxwright.trees.trash import Trash

Mount = dict[str, Any]

# The base of a snapshot whose lower layer is the host's own root (images/hostfs.py).
HOSTFS = "hostfs"
# Memory that one such snapshot may take, bytes.
HOSTFS_SIZE = 2 << 30


class Source(NamedTuple):
    """A layer's archive: `length` bytes at `offset` of the regular file `fd`, compressed or not.

    Of a pipe, whatever comes until its end; offset and length are not looked at.
    """

    fd: int
    offset: int = 0
    length: int = 0


class Unpacked(NamedTuple):
    """A layer that nobody sees yet, in `path` below tmp.

    diff_id is the digest of the uncompressed archive, size the sum of its file sizes in bytes.  implied are the
    directories that no member described, parents first; deletions those that have deletions in them.  archive: length
    of the uncompressed archive, bytes.
    """

    path: str
    diff_id: str
    size: int
    implied: tuple[str, ...] = ()
    deletions: tuple[str, ...] = ()
    archive: int = -1


class Snapshotter(Protocol):
    """A storage driver.  Methods are for the loop's thread; only the awaited ones take time."""

    name: str
    """Docker's name of the driver, as `docker info` shows it: overlay2, vfs."""
    independent: bool
    """Whether a layer can be unpacked before the one below it exists."""
    needed: Callable[[str], bool]
    """Whether a layer, by chain id, is an image's topmost one.  Set by the image store; until then all of them are."""

    # -- layers --------------------------------------------------------------------------------------------------------

    def has_layer(self, chain_id: str) -> bool:
        """Whether the layer exists."""
        ...

    def layer_size(self, chain_id: str) -> int:
        """Bytes in the layer's own files.  Raises NotFound."""
        ...

    async def unpack(
        self, source: Source, parent: str | None, progress: Callable[[int], None] | None = None
    ) -> Unpacked:
        """Unpack an archive in a confined child; `progress` hears how many bytes of `source` are done.

        `parent` is a chain id; drivers that are `independent` do not look at it.  Raises InvalidParameter for an
        archive that is malformed or hostile; nothing is left then.
        """
        ...

    async def complete(self, unpacked: Unpacked, parent: str | None) -> None:
        """Before `commit_layer`, when the layer below exists: fit this one to it (owners and modes of directories that
        are implied, deletions of what is not there)."""
        ...

    def commit_layer(self, unpacked: Unpacked, chain_id: str, parent: str | None) -> None:
        """Make it exist, or drop it when another one was first.  Raises NotFound when the parent does not exist."""
        ...

    def discard(self, unpacked: Unpacked) -> None:
        """Drop what was unpacked."""
        ...

    def release_layer(self, chain_id: str) -> list[str]:
        """Remove this layer and those below it, as far as nothing stands on them and nobody needs them.

        Returns the removed chain ids, topmost first.
        """
        ...

    def lease(self, chain_ids: Sequence[str]) -> AbstractContextManager[None]:
        """Nothing of these is removed while the body runs."""
        ...

    def archive(self, chain_id: str) -> AsyncGenerator[bytes, None]:
        """The archive that the layer was unpacked from, byte for byte; the layer stays meanwhile.

        Raises NotFound, and System when a file of it has changed since: perhaps after a part of it.  Of layers without
        a record an archive is made that may be another one.
        """
        ...

    def archive_size(self, chain_id: str) -> int:
        """Its length in bytes, -1 for a layer without a record.  Raises NotFound."""
        ...

    # -- snapshots -----------------------------------------------------------------------------------------------------

    async def prepare(self, key: str, chain_ids: Sequence[str], record: bool = True) -> None:
        """Make the writable snapshot `key` above the layers (base first; [HOSTFS] for the host's root).

        record: write its row; without, the caller does it by `record` in a transaction of its own, or removes the
        snapshot again, and holds the layers until then.
        Raises Conflict when it exists, NotFound when a layer does not.
        """
        ...

    def record(self, key: str) -> None:
        """Write the row of a snapshot that was prepared without: from the commit on a new engine knows it, too."""
        ...

    def mount(self, key: str, volatile: bool = False) -> Mount:
        """How to mount the snapshot.  volatile: skip all syncing, for what will not be seen again.  Raises NotFound."""
        ...

    def view(self, chain_ids: Sequence[str]) -> Mount:
        """How to mount the layers (base first, one at least) read-only.  Raises NotFound."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the snapshot exists."""
        ...

    def remove(self, key: str) -> None:
        """Remove the snapshot, and layers that only it kept; no error when there is none.

        The bytes go later, in a thread.
        """
        ...

    async def changes(self, key: str) -> list[tuple[int, str]]:
        """What the snapshot has that its layers have not: kind (0 modified, 1 added, 2 deleted) and absolute path.

        Also while a container runs in it.  Raises NotFound, InvalidParameter for hostfs.
        """
        ...

    def diff(self, key: str, latest: int | None = None) -> AsyncGenerator[bytes, None]:
        """The same as the archive of a layer; no time in it is later than `latest`, seconds since the epoch.

        Raises as `changes` does."""
        ...

    def export(self, key: str) -> AsyncGenerator[bytes, None]:
        """The whole root file system as an archive.  Raises as `changes` does."""
        ...

    async def usage(self, key: str) -> tuple[int, int]:
        """Bytes and inodes that the snapshot takes beyond its layers.  Raises NotFound."""
        ...

    def describe(self, key: str) -> dict[str, Any]:
        """`GraphDriver` of inspect, for a snapshot's key or a layer's chain id."""
        ...

    def status(self) -> list[list[str]]:
        """`DriverStatus` of info: pairs of text."""
        ...

    # -- life ----------------------------------------------------------------------------------------------------------

    def reconcile(self, keep: Collection[str]) -> None:
        """At engine start: remove snapshots whose key is not in `keep`, and all that has no row."""
        ...

    def close(self) -> None:
        """Finish deleting."""
        ...


def open_snapshotter(
    data_root: str, db: Database, jobs: Jobs, driver: str | None = None, trash: Trash | None = None
) -> Snapshotter:
    """The driver named, or overlay where `data_root`'s file system carries one, else vfs.

    trash: `tmp` below `data_root`, when the caller has opened it: one thread deletes for both.

    Raises InvalidParameter for a name that does not exist.
    """
    from boxwright.errdefs import InvalidParameter
    from boxwright.storage.overlay import Overlay, supported
    from boxwright.storage.vfs import Vfs

    if driver not in (None, "overlay", "overlay2", "vfs"):
        raise InvalidParameter(f"graphdriver not supported: {driver}")
    if driver is None:
        driver = "overlay" if supported(data_root) else "vfs"
    return (Vfs if driver == "vfs" else Overlay)(data_root, db, jobs, trash)
