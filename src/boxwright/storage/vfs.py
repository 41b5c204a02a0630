"""The driver for file systems that carry no overlay: every layer and snapshot is a whole tree, copied.

snapshots/vfs/<number>/fs              a layer with all below it
snapshots/vfs/<key[:12]>/{fs,lock}     a snapshot
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from boxwright.errdefs import InvalidParameter
from boxwright.storage.directories import DIRECTORY, Directories
from boxwright.storage.mountpoints import make_mark
from boxwright.storage.snapshotter import HOSTFS, Mount, Source, Unpacked


class Vfs(Directories):
    """`Snapshotter` by copying.  Slow and large, and right wherever files are."""

    name = "vfs"
    independent = False
    folder = "vfs"

    async def unpack(
        self, source: Source, parent: str | None, progress: Callable[[int], None] | None = None
    ) -> Unpacked:
        path = self.trash.place("layer")
        try:
            await self._make_tree(path, parent)
            return await self._apply(path, source, True, progress)
        except BaseException:
            self.trash.discard(path)
            raise

    async def complete(self, unpacked: Unpacked, parent: str | None) -> None:
        pass  # the layer was merged into a copy of the one below: what is implied was there

    async def prepare(self, key: str, chain_ids: Sequence[str], record: bool = True) -> None:
        if list(chain_ids) == [HOSTFS]:
            raise InvalidParameter("the hostfs image needs the overlay driver, which this host does not carry")
        directory, base = self._reserve(key, chain_ids)
        path = self.trash.place("snapshot")
        try:
            await self._make_tree(path, base or None)
            make_mark(f"{path}/fs")
            os.close(os.open(f"{path}/lock", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            os.rename(path, f"{self.root}/{directory}")
            self._made(key, directory, base, record)
        except BaseException:
            self.trash.discard(path)
            self.trash.discard(f"{self.root}/{directory}")
            raise

    def mount(self, key: str, volatile: bool = False) -> Mount:
        directory, _ = self._snapshot(key)
        path = f"{self.root}/{directory}"
        return {"type": "bind", "source": f"{path}/fs", "readonly": False, "lock": f"{path}/lock"}

    def parts(self, key: str) -> tuple[str, Mount | None, Mount]:
        directory, base = self._snapshot(key)
        tree = f"{self.root}/{directory}/fs"
        whole = {"type": "bind", "source": tree, "readonly": True, "lock": None}
        return tree, self.view([base]) if base else None, whole

    def view(self, chain_ids: Sequence[str]) -> Mount:
        layer = self._chain(chain_ids[-1])[0]
        return {"type": "bind", "source": f"{self.root}/{layer.directory}/fs", "readonly": True, "lock": None}

    def describe(self, key: str) -> dict[str, Any]:
        directory = self.layers.get(key).directory if key in self.layers else self._snapshot(key)[0]
        return {"Name": self.name, "Data": {"Dir": f"{self.root}/{directory}/fs"}}

    async def _make_tree(self, path: str, parent: str | None) -> None:
        """`path`/fs with all that the layer `parent` holds."""
        os.makedirs(path, 0o710)
        os.mkdir(f"{path}/fs", 0o755)
        os.chmod(f"{path}/fs", 0o755)
        if parent is None:
            return
        # Leased: a layer that is being copied must not be removed meanwhile.
        with self.lease([parent]):
            source = os.open(f"{self.root}/{self._chain(parent)[0].directory}/fs", DIRECTORY)
            try:
                target = os.open(f"{path}/fs", DIRECTORY)
                try:
                    await self._jobs.run("tree.copy", {}, [source, target])
                finally:
                    os.close(target)
            finally:
                os.close(source)
