"""RUN --mount=type=cache: directories that outlive builds, until they are pruned."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from boxwright.trees.measure import usage

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from boxwright.builder.dockerfile.mounts import Mount
    from boxwright.engine.engine import Engine

Fill = Callable[[int], Awaitable[None]]
KIND = "exec.cachemount"
_DIRECTORY = "build-cache"


class CacheMounts:
    """The directories, and who uses which of them now."""

    def __init__(self, eng: Engine) -> None:
        self._eng = eng
        self._users: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._making: dict[str, asyncio.Lock] = {}
        self._root = eng.config.path(_DIRECTORY)
        os.makedirs(self._root, 0o700, exist_ok=True)
        self._reconcile()

    async def take(self, mount: Mount, id: str, fill: Fill | None, undo: AsyncExitStack) -> str:
        """The path of the directory that is called `id`, the caller's until `undo` runs.

        Shared: with others; locked: after others; private: another one, when somebody has it.
        fill: puts the first files into a new one, given a descriptor; raises what it does, and then there is none.
        """
        if mount.sharing == "locked":
            await undo.enter_async_context(self._locks.setdefault(id, asyncio.Lock()))
        async with self._making.setdefault(id, asyncio.Lock()):
            rows = self._eng.db.query("SELECT directory FROM build_mounts WHERE id = ? ORDER BY created", (id,))
            names = [row[0] for row in rows]
            if mount.sharing == "private":
                names = [name for name in names if not self._users[name]]
            name = names[0] if names else await self._make(id, mount, fill)
            self._users[name] += 1
        undo.callback(self._release, name)
        self._eng.db.execute(
            "UPDATE build_mounts SET used = ?, uses = uses + 1 WHERE directory = ?", (int(time.time()), name)
        )
        return f"{self._root}/{name}"

    async def describe(self) -> list[dict[str, Any]]:
        """The records of `system df`."""
        found = []
        rows = self._eng.db.query("SELECT directory, id, created, used, uses FROM build_mounts ORDER BY created")
        for name, id, created, used, uses in rows:
            size, _ = await asyncio.to_thread(usage, f"{self._root}/{name}")
            found.append(
                {
                    "ID": name,
                    "Type": KIND,
                    "Description": f"cached mount {id}",
                    "InUse": bool(self._users[name]),
                    "Shared": False,
                    "Size": size,
                    "CreatedAt": _time(created),
                    "LastUsedAt": _time(used),
                    "UsageCount": uses,
                }
            )
        return found

    async def prune(self, before: int | None, ids: list[str]) -> tuple[list[str], int]:
        """Remove those that nobody uses: (their names, bytes).

        before: only those not used since, seconds since the epoch.  ids: only these, when there are any.
        """
        gone, freed = [], 0
        rows = self._eng.db.query("SELECT directory, used FROM build_mounts")
        for name, used in rows:
            if (before is not None and used >= before) or (ids and name not in ids):
                continue
            size, _ = await asyncio.to_thread(usage, f"{self._root}/{name}")
            if self._users[name]:
                continue
            self._eng.db.execute("DELETE FROM build_mounts WHERE directory = ?", (name,))
            self._eng.trash.discard(f"{self._root}/{name}")
            gone.append(name)
            freed += size
        return gone, freed

    async def _make(self, id: str, mount: Mount, fill: Fill | None) -> str:
        """Directory first, then its row: what has no row is removed at the next start."""
        name = os.urandom(16).hex()
        path = f"{self._root}/{name}"
        os.mkdir(path, 0o700)
        try:
            if fill is not None:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    await fill(fd)
                finally:
                    os.close(fd)
            os.chown(path, mount.uid, mount.gid)
            os.chmod(path, 0o755 if mount.mode < 0 else mount.mode & 0o7777)
        except BaseException:
            self._eng.trash.discard(path)
            raise
        now = int(time.time())
        self._eng.db.execute("INSERT INTO build_mounts VALUES (?, ?, ?, ?, 0)", (name, id, now, now))
        return name

    def _release(self, name: str) -> None:
        self._users[name] -= 1
        self._users += Counter()

    def _reconcile(self) -> None:
        there = set(os.listdir(self._root))
        known = {row[0] for row in self._eng.db.query("SELECT directory FROM build_mounts")}
        for name in there - known:
            self._eng.trash.discard(f"{self._root}/{name}")
        for name in known - there:
            self._eng.db.execute("DELETE FROM build_mounts WHERE directory = ?", (name,))


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
