"""The overlay driver: a layer is a directory of its own, mounted below the ones above it by whoever starts a container.

    snapshots/overlay/<number>/fs                  a layer
    snapshots/overlay/<key[:12]>/{fs,work,lock}    a snapshot
    snapshots/overlay/mount-points/fs              below all layers of every snapshot

Deleted files are character devices 0:0, emptied directories carry trusted.overlay.opaque: the kernel's own format.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from boxwright.confined import Jobs
from boxwright.db.connection import Database
from boxwright.errdefs import InvalidParameter
from boxwright.storage.directories import Directories
from boxwright.storage.layers import MOST_LAYERS
from boxwright.storage.mountpoints import make_mount_points
from boxwright.storage.snapshotter import HOSTFS, HOSTFS_SIZE, Mount, Source, Unpacked
from boxwright.trees.trash import Trash

_PARAMETERS = "/sys/module/overlay/parameters"
MOUNT_POINTS = "mount-points"  # no number of a layer and no key of a snapshot


class Overlay(Directories):
    """`Snapshotter` on overlayfs.  Layers are unpacked independently of each other."""

    name = "overlay2"
    independent = True
    folder = "overlay"

    def __init__(self, data_root: str, db: Database, jobs: Jobs, trash: Trash | None = None) -> None:
        super().__init__(data_root, db, jobs, trash)
        self._off = _switched_off()
        make_mount_points(f"{self.root}/{MOUNT_POINTS}", self.trash.place("mount-points"))
        self._kept = {MOUNT_POINTS}

    async def unpack(
        self, source: Source, parent: str | None, progress: Callable[[int], None] | None = None
    ) -> Unpacked:
        path = self.trash.place("layer")
        try:
            os.makedirs(f"{path}/fs", 0o755)
            return await self._apply(path, source, False, progress)
        except BaseException:
            self.trash.discard(path)
            raise

    async def complete(self, unpacked: Unpacked, parent: str | None) -> None:
        if not unpacked.deletions and (parent is None or not unpacked.implied):
            return
        layer = os.open(f"{unpacked.path}/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            view = None if parent is None else self.view([parent])
            args = {"view": view, "implied": unpacked.implied, "deletions": unpacked.deletions}
            await self._jobs.run("layer.adopt", args, [layer])
        finally:
            os.close(layer)

    async def prepare(self, key: str, chain_ids: Sequence[str], record: bool = True) -> None:
        directory, base = self._reserve(key, chain_ids)
        path = f"{self.root}/{directory}"
        os.mkdir(path, 0o710)
        try:
            for name, mode in (("fs", 0o755), ("work", 0o700)):
                os.mkdir(f"{path}/{name}", mode)
                os.chmod(f"{path}/{name}", mode)  # whatever the umask is: `fs` is the container's root directory
            os.close(os.open(f"{path}/lock", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._made(key, directory, base, record)
        except BaseException:
            self.trash.discard(path)
            raise

    def mount(self, key: str, volatile: bool = False) -> Mount:
        directory, base = self._snapshot(key)
        path = f"{self.root}/{directory}"
        lock = f"{path}/lock"
        if base == HOSTFS:
            return {"type": "hostfs", "lower": "/", "size": HOSTFS_SIZE, "options": list(self._off), "lock": lock}
        if not base:  # an overlay needs a lower layer; without one the upper is all there is
            return {"type": "bind", "source": f"{path}/fs", "readonly": False, "lock": lock}
        options = list(self._off)
        if volatile:
            options.append("volatile")
        return {
            "type": "overlay",
            "lower": self._with_mount_points(self._lower(base)),
            "upper": f"{path}/fs",
            "work": f"{path}/work",
            "options": options,
            "lock": lock,
        }

    def parts(self, key: str) -> tuple[str, Mount | None, Mount]:
        directory, base = self._snapshot(key)
        if base == HOSTFS:
            raise InvalidParameter("the files of a container of hostfs are in its memory only: they cannot be read")
        upper = f"{self.root}/{directory}/fs"
        lower = self._lower(base) if base else []
        # A second overlay above the same upper directory would be one writer too many; below an overlay that only
        # reads, it is a layer like any other, also while a container writes to it.
        return (
            upper,
            self._read_only(lower) if lower else None,
            self._read_only(self._with_mount_points([upper, *lower]) if lower else [upper]),
        )

    def view(self, chain_ids: Sequence[str]) -> Mount:
        return self._read_only(self._lower(chain_ids[-1]))

    def _read_only(self, lower: list[str]) -> Mount:
        if len(lower) == 1:
            return {"type": "bind", "source": lower[0], "readonly": True, "lock": None}
        return {"type": "overlay", "lower": lower, "options": list(self._off), "lock": None}

    def describe(self, key: str) -> dict[str, Any]:
        if key in self.layers:
            upper, *lower = self._lower(key)
            data = {"UpperDir": upper}
        else:
            directory, base = self._snapshot(key)
            lower = ["/"] if base == HOSTFS else self._lower(base) if base else []
            data = {"UpperDir": f"{self.root}/{directory}/fs", "WorkDir": f"{self.root}/{directory}/work"}
        if lower:
            data["LowerDir"] = ":".join(lower)
        return {"Name": self.name, "Data": data}

    def _with_mount_points(self, layers: list[str]) -> list[str]:
        """Where the kernel takes no layer more, init makes the mount points."""
        return [*layers, f"{self.root}/{MOUNT_POINTS}/fs"] if len(layers) < MOST_LAYERS else layers

    def _lower(self, chain_id: str) -> list[str]:
        return [f"{self.root}/{layer.directory}/fs" for layer in self._chain(chain_id)]


def supported(data_root: str) -> bool:
    """Whether an overlay with its upper directory below `data_root` can be mounted by this process."""
    from boxwright.libcontainer.rootfs import make_rootfs

    trash = Trash(f"{data_root}/tmp")
    probe = trash.place("probe")
    names = {name: f"{probe}/{name}" for name in ("lower", "upper", "work")}
    try:
        for path in names.values():
            os.makedirs(path)
        value = {**names, "type": "overlay", "lower": [names["lower"]], "options": [], "lock": None}
        for fd in make_rootfs(value):
            if fd is not None and fd >= 0:
                os.close(fd)
    except Exception:
        # Whatever it was, containers would fail the same way.
        return False
    else:
        return True
    finally:
        trash.discard(probe)
        trash.close()


def _switched_off() -> list[str]:
    """Switch off what distributions switch on and the snapshot's format cannot carry.

    redirect_dir and metacopy leave uppers that are no longer a plain difference; index refuses a lower shared by many.
    """
    options = []
    for name in ("index", "metacopy", "redirect_dir"):
        try:
            with open(f"{_PARAMETERS}/{name}") as file:
                if file.read(2).strip() in ("Y", "on"):
                    options.append(f"{name}=off")
        except OSError:
            continue
    return options
