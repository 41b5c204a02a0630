"""Storage, images and volumes over a directory, with jobs that are forked from the test."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from boxwright.db.connection import Database
from boxwright.images import schema as images_schema
from boxwright.images.store import ImageStore
from boxwright.libcontainer.rootfs import make_rootfs
from boxwright.storage import schema as storage_schema
from boxwright.storage.content import ContentStore
from boxwright.storage.snapshotter import Mount, Snapshotter, Source, Unpacked, open_snapshotter
from boxwright.volumes import schema as volumes_schema
from boxwright.volumes.store import VolumeStore
from support.jobs import ForkedJobs


class Stores:
    """All of them; `reopen` is what an engine's restart is."""

    def __init__(self, root: str, driver: str = "overlay", hostfs: bool = False) -> None:
        self.root, self._driver, self._hostfs = root, driver, hostfs
        self.jobs = ForkedJobs()
        self.events: list[tuple[str, str, str, dict[str, str]]] = []
        self.used: dict[str, list[str]] = {}
        self.open()

    def open(self) -> None:
        self.db = Database(f"{self.root}/test.db")
        for name, schema in (("storage", storage_schema), ("images", images_schema), ("volumes", volumes_schema)):
            self.db.migrate(name, schema.SCRIPTS)
        self.snapshotter: Snapshotter = open_snapshotter(self.root, self.db, self.jobs, self._driver)
        self.trash = self.snapshotter.trash  # type: ignore[attr-defined]
        self.content = ContentStore(self.root, self.db, self.trash)
        self.images = ImageStore(
            self.db, self.content, self.snapshotter, self.jobs, self.root, self._publish, hostfs=self._hostfs
        )
        self.volumes = VolumeStore(self.db, self.root, self.jobs, lambda name: self.used.get(name, []), self._publish)

    def reopen(self, keep: set[str] | None = None) -> None:
        self.close()
        self.open()
        self.snapshotter.reconcile(keep or set())
        self.images.reconcile()
        self.volumes.reconcile(set())
        self.trash.drain()

    def close(self) -> None:
        self.snapshotter.close()
        self.images.close()
        self.volumes.close()
        self.db.close()

    def _publish(self, type: str, action: str, id: str, attributes: dict[str, str]) -> None:
        self.events.append((type, action, id, attributes))

    def files(self) -> list[str]:
        """Everything below the root, without the database."""
        found = []
        for directory, names, files in os.walk(self.root):
            found += [os.path.relpath(os.path.join(directory, name), self.root) for name in (*names, *files)]
        return sorted(name for name in found if not name.startswith("test.db"))

    async def unpack(self, archive: bytes, parent: str | None = None) -> Unpacked:
        """Unpack an archive that is in memory."""
        fd = os.memfd_create("archive")
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(archive)
            return await self.snapshotter.unpack(Source(fd, 0, len(archive)), parent)
        finally:
            os.close(fd)

    async def unpack_arriving(self, archive: bytes, step: int = 3) -> Unpacked:
        """Unpack an archive that comes through a pipe: `step` bytes first, then as fast as they are read."""
        read, write = os.pipe()

        def send() -> None:
            with contextlib.suppress(BrokenPipeError), open(write, "wb", buffering=0) as pipe:
                pipe.write(archive[:step])
                view = memoryview(archive)[step:]
                while view:
                    view = view[pipe.write(view) or 0 :]

        sending = asyncio.ensure_future(asyncio.to_thread(send))
        try:
            return await self.snapshotter.unpack(Source(read), None)
        finally:
            os.close(read)
            await sending

    async def layers(self, *archives: bytes) -> list[str]:
        """Make layers on top of each other; returns the chain, base first."""
        from boxwright.storage.layers import chain_ids

        diff_ids: list[str] = []
        for archive in archives:
            parent = chain_ids(diff_ids)[-1] if diff_ids else None
            unpacked = await self.unpack(archive, parent)
            diff_ids.append(unpacked.diff_id)
            await self.snapshotter.complete(unpacked, parent)
            self.snapshotter.commit_layer(unpacked, chain_ids(diff_ids)[-1], parent)
        return chain_ids(diff_ids)


@contextmanager
def stores(driver: str = "overlay", hostfs: bool = False) -> Iterator[Stores]:
    """On a fresh directory that is removed at the end, whatever is in it."""
    root = tempfile.mkdtemp(prefix="bwt-stores-")
    try:
        made = Stores(root, driver, hostfs)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(root)


@contextmanager
def mounted(value: Mount) -> Iterator[str]:
    """The root file system of a Mount value, as a path that works while the body runs; nothing is attached."""
    mount_fd, lock_fd = make_rootfs(value)
    try:
        yield f"/proc/self/fd/{mount_fd}"
    finally:
        os.close(mount_fd)
        if lock_fd >= 0:
            os.close(lock_fd)


async def stream(data: bytes, step: int = 1 << 16) -> AsyncIterator[bytes]:
    """A request's body."""
    for start in range(0, len(data), step):
        await asyncio.sleep(0)
        yield data[start : start + step]


def tree(path: str) -> dict[str, Any]:
    """What is below `path`: name → (kind, mode, uid, gid, content, target or device)."""
    found: dict[str, Any] = {}
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            full = os.path.join(directory, name)
            status = os.lstat(full)
            kind = status.st_mode >> 12
            if kind == 0o10:
                with open(full, "rb") as file:
                    what: Any = file.read()
            elif kind == 0o12:
                what = os.readlink(full)
            else:
                what = status.st_rdev
            entry = (kind, status.st_mode & 0o7777, status.st_uid, status.st_gid, what)
            found[os.path.relpath(full, path)] = entry
    return found
