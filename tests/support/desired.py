"""An engine for the desired side: real store, database and verbs; images, volumes and snapshots from memory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from boxwright.engine import create, mounts
from boxwright.engine.store import Container
from boxwright.errdefs import Conflict, InvalidParameter, NotFound
from boxwright.images.image import Image
from boxwright.specs.image import ImageConfig
from boxwright.trees.trash import Trash
from boxwright.types import ContainerConfig, HostConfig, NetworkingConfig
from boxwright.types.lenient import convert
from support.life import FakeSnapshotter, Life


class FakeImages:
    """Images by name; `add` makes one."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.held: list[str] = []

    def add(self, name: str, chain: list[str], **config: Any) -> Image:
        document = {
            "architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": chain},
        }  # fmt: skip
        parsed = msgspec.convert(document, ImageConfig)
        image = Image(f"sha256:{len(self.images):064x}", parsed, chain, size=1000, repo_tags=[f"{name}:latest"])
        self.images[name] = image
        return image

    def find(self, ref: str) -> Image | None:
        ref = ref.removesuffix(":latest")
        return self.images.get(ref) or next((i for i in self.images.values() if i.id == ref), None)

    def all(self) -> list[Image]:
        return list(self.images.values())

    def children(self, id: str) -> list[str]:
        return [image.id for image in self.images.values() if image.parent == id]

    def get(self, ref: str) -> Image:
        found = self.find(ref)
        if found is None:
            raise NotFound(f"No such image: {ref}:latest")
        return found

    @contextlib.contextmanager
    def hold(self, id: str) -> Iterator[None]:
        self.held.append(id)
        try:
            yield
        finally:
            self.held.remove(id)


class FakeVolumes:
    """Volumes by name."""

    drivers = ["local"]

    def __init__(self, life: Life) -> None:
        self.life = life
        self.volumes: dict[str, dict[str, Any]] = {}
        self.mounted: list[tuple[str, str]] = []
        self.copied: list[tuple[str, str]] = []

    async def create(
        self,
        name: str | None,
        driver: str,
        options: dict[str, str] | None,
        labels: dict[str, str] | None,
        anonymous: bool = False,
    ) -> dict[str, Any]:
        if driver not in ("", "local"):
            raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
        name = name or os.urandom(32).hex()
        if "/" in name:
            raise InvalidParameter(f"create {name}: bad name")
        made = {"Name": name, "Mountpoint": f"/volumes/{name}/_data", "Driver": "local", "Labels": labels or {}}
        return self.volumes.setdefault(name, made)

    async def remove(self, name: str, force: bool) -> None:
        if name not in self.volumes:
            raise NotFound(f"no such volume: {name}")
        if mounts.users_of(self.life.eng, name):
            raise Conflict("in use")
        del self.volumes[name]

    async def mount(self, name: str, user: str, destination: str = "", rw: bool = True) -> str:
        self.mounted.append((name, user))
        return f"/volumes/{name}/_data"

    async def unmount(self, name: str, user: str) -> None:
        with contextlib.suppress(ValueError):
            self.mounted.remove((name, user))

    async def copy_up(self, name: str, view: dict[str, Any], path: str, subpath: str = "") -> None:
        self.copied.append((name, path))


class Snapshots(FakeSnapshotter):
    """Remembers which snapshots there are; `error` is raised by the next `prepare`."""

    name = "overlay2"

    def status(self) -> list[list[str]]:
        return [["Backing Filesystem", "fake"]]

    def __init__(self) -> None:
        self.keys: dict[str, list[str]] = {}
        self.error: Exception | None = None

    def record(self, key: str) -> None:
        assert key in self.keys

    async def prepare(self, key: str, chain_ids: list[str], record: bool = True) -> None:
        if self.error is not None:
            raise self.error
        self.keys[key] = list(chain_ids)

    def view(self, chain_ids: list[str]) -> dict[str, Any]:
        return {"type": "bind", "source": "/", "readonly": True, "lock": None}

    def exists(self, key: str) -> bool:
        return key in self.keys

    def remove(self, key: str) -> None:
        self.keys.pop(key, None)

    async def usage(self, key: str) -> tuple[int, int]:
        return 24, 2

    def describe(self, key: str) -> dict[str, Any]:
        return {"Name": "overlay2", "Data": {"UpperDir": "/x"}}


class Desired(Life):
    """A `Life` that can also create and remove, with the images `busybox` and `app` (a layer above it)."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.images, self.volumes, self.snapshots = FakeImages(), FakeVolumes(self), Snapshots()
        self.eng.images = self.images  # type: ignore[assignment]
        self.eng.volumes = self.volumes  # type: ignore[assignment]
        self.eng.snapshotter = self.snapshots  # type: ignore[assignment]
        self.network.warnings = list  # type: ignore[attr-defined]
        self.eng.trash = Trash(str(root / "tmp"))
        os.makedirs(self.eng.config.path("containers"), exist_ok=True)
        busybox = self.images.add("busybox", ["sha256:a"], Cmd=["sh"], Env=["PATH=/bin"])
        app = self.images.add(
            "app", ["sha256:a", "sha256:b"], Entrypoint=["/app"], Cmd=["serve"], Env=["PATH=/bin", "MODE=prod"],
            ExposedPorts={"80/tcp": {}}, Volumes={"/data": {}}, Labels={"maker": "us"}, WorkingDir="/srv",
            User="1000", StopSignal="SIGINT",
        )  # fmt: skip
        app.parent = busybox.id

    async def make(self, name: str | None = None, body: dict[str, Any] | None = None) -> Container:
        """Create from an API body (Image defaults to busybox) and return the container."""
        answer = await self.ask(name, body)
        return self.eng.store.get(answer["Id"])

    async def ask(self, name: str | None = None, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create from an API body and return the answer."""
        fields = {"Image": "busybox", **(body or {})}
        host_config = convert(fields.pop("HostConfig", {}), HostConfig)
        networking = convert(fields.pop("NetworkingConfig", {}), NetworkingConfig)
        return await create.create(self.eng, name, convert(fields, ContainerConfig), host_config, networking, "")

    def close(self) -> None:
        """End the thread of the trash."""
        self.eng.trash.close()
