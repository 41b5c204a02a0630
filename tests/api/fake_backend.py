"""An engine of plain functions behind the real API server: a few containers in a dict, streams that echo."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from boxwright import errdefs, types
from boxwright.api.backend import AttachQuery, CommitQuery, LogQuery, Stream

STDOUT, STDERR = 1, 2


def frame(stream: int, payload: bytes) -> bytes:
    """One frame of a multiplexed stream."""
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def _known(filters: dict[str, list[str]]) -> None:
    if "colour" in filters:
        raise errdefs.InvalidParameter("invalid filter 'colour'")


class FakeWaiter:
    """Answers once `exited` is set."""

    def __init__(self, exited: asyncio.Event) -> None:
        self.exited, self.closed = exited, False

    async def result(self) -> dict[str, Any]:
        await self.exited.wait()
        return {"StatusCode": 0, "Error": None}

    def close(self) -> None:
        self.closed = True


class FakeEvents:
    """Whatever `feed` puts in; None ends it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    def __aiter__(self) -> "FakeEvents":
        return self

    async def __anext__(self) -> dict[str, Any]:
        event = await self.queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        self.closed.set()


class FakeBackend:
    """`seen` lists the calls that changed something, as (verb, arguments)."""

    experimental = False

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.names = {"box"}
        self.exited = asyncio.Event()
        self.subscription = FakeEvents()
        self.waiters: list[FakeWaiter] = []
        self.gate = asyncio.Event()
        self.in_gate = asyncio.Event()
        self.stream_ended = asyncio.Event()
        self.log_ended = asyncio.Event()

    def _find(self, name: str) -> None:
        if name not in self.names:
            raise errdefs.NotFound(f"No such container: {name}")

    # Containers

    async def create(
        self,
        name: str | None,
        config: types.ContainerConfig,
        host_config: types.HostConfig,
        networking: types.NetworkingConfig,
        platform: str,
    ) -> dict[str, Any]:
        if not config.image:
            raise errdefs.InvalidParameter("no image specified")
        if config.image == "missing":
            raise errdefs.NotFound("No such image: missing:latest")
        self.seen.append(("create", name, config, host_config, networking, platform))
        return {"Id": "0" * 64, "Warnings": []}

    async def containers(self, all: bool, limit: int, size: bool, filters: Any) -> list[dict[str, Any]]:
        _known(filters)
        return [{"Id": name, "all": all, "limit": limit, "size": size, "filters": filters} for name in self.names]

    async def inspect(self, name: str, size: bool) -> dict[str, Any]:
        self._find(name)
        return {"Name": f"/{name}", "size": size}

    async def start(self, name: str, host_config: types.HostConfig | None) -> None:
        self._find(name)
        if name == "box":
            self.seen.append(("start", name, host_config))

    async def stop(self, name: str, signal: str | None, timeout: int | None) -> None:
        self._find(name)
        if signal == "SIGSTOPPED":
            raise errdefs.NotModified("already stopped")
        self.seen.append(("stop", name, signal, timeout))

    async def restart(self, name: str, signal: str | None, timeout: int | None) -> None:
        """Waits for the gate: what a slow mutation does when its client leaves."""
        self._find(name)
        self.in_gate.set()
        await self.gate.wait()
        self.seen.append(("restart", name, signal, timeout))

    async def kill(self, name: str, signal: str | None) -> None:
        self._find(name)
        if signal == "BUG":
            raise KeyError("nobody foresaw this")
        if signal == "EXEC":
            raise errdefs.StepError("exec: not found", exit_code=127)
        raise errdefs.Conflict(f"container {name} is not running")

    async def pause(self, name: str) -> None:
        self._find(name)
        self.seen.append(("pause", name))

    async def unpause(self, name: str) -> None:
        self._find(name)
        self.seen.append(("unpause", name))

    async def rename(self, name: str, new: str) -> None:
        self._find(name)
        if not new:
            raise errdefs.InvalidParameter("Neither old nor new names may be empty")
        self.seen.append(("rename", name, new))

    async def remove(self, name: str, force: bool, volumes: bool, link: bool) -> None:
        self._find(name)
        self.seen.append(("remove", name, force, volumes, link))

    def wait(self, name: str, condition: str) -> FakeWaiter:
        self._find(name)
        self.waiters.append(FakeWaiter(self.exited))
        return self.waiters[-1]

    async def top(self, name: str, ps_args: str) -> dict[str, Any]:
        self._find(name)
        return {"Titles": ps_args.split(), "Processes": []}

    async def stats(self, name: str, stream: bool, one_shot: bool):  # type: ignore[no-untyped-def]
        self._find(name)
        if name == "vanishing":
            return
        yield {"name": name, "one_shot": one_shot}
        if stream:
            await self.exited.wait()
            yield {"name": name, "last": True}

    async def update(self, name: str, wanted: types.UpdateRequest) -> dict[str, Any]:
        self._find(name)
        self.seen.append(("update", name, wanted))
        return {"Warnings": None}

    async def resize(self, name: str, height: int, width: int) -> None:
        self._find(name)
        self.seen.append(("resize", name, height, width))

    def tty(self, name: str) -> bool:
        self._find(name)
        return False

    async def logs(self, name: str, query: LogQuery):  # type: ignore[no-untyped-def]
        self._find(name)
        if query.tail == 13:
            raise errdefs.InvalidParameter("unlucky")
        if query.tail == 14:
            await self.exited.wait()  # for its file
        try:
            yield b""
            if query.tail != 0:
                yield frame(STDOUT, b"one\n")
                yield frame(STDERR, repr(tuple(query)).encode())
            if query.follow:
                await self.exited.wait()
                yield frame(STDOUT, b"last\n")
        finally:
            self.log_ended.set()

    async def attach(self, name: str, query: AttachQuery, stream: Stream) -> None:
        """Echoes the input, then says how the input ended."""
        try:
            self._find(name)
            await stream.open(True)
            stream.write(b"hello\n")
            while data := await stream.read(65536):
                stream.write(data)
                await stream.drain()
            stream.write(b"<eof>")
        finally:
            self.stream_ended.set()
            await stream.close()

    # Exec sessions

    async def exec_create(self, name: str, config: types.ExecConfig) -> dict[str, Any]:
        self._find(name)
        self.seen.append(("exec_create", name, config))
        return {"Id": "e" * 64}

    async def exec_start(self, exec_id: str, detach: bool, tty: bool, console_size: Any, stream: Stream | None) -> None:
        self.seen.append(("exec_start", exec_id, detach, tty, console_size))
        if exec_id == "busy":
            raise errdefs.Conflict("already running")
        if stream is not None:
            await self.attach("box", AttachQuery(True, True, True, True, False, ""), stream)

    def exec_inspect(self, exec_id: str) -> dict[str, Any]:
        return {"ID": exec_id}

    async def exec_kill(self, exec_id: str, signal: str | None) -> None:
        self.seen.append(("exec_kill", exec_id, signal))

    async def exec_resize(self, exec_id: str, height: int, width: int) -> None:
        self.seen.append(("exec_resize", exec_id, height, width))

    # Leases

    def lease_open(self, lease: str) -> tuple[str, object]:
        return lease or "1", self

    def lease_close(self, lease: str, connection: object) -> None:
        self.seen.append(("lease_close", lease))

    # Images

    async def changes(self, name: str) -> list[dict[str, Any]]:
        return [] if name == "unchanged" else [{"Path": "/a", "Kind": 1}]

    async def export(self, name: str) -> AsyncGenerator[bytes, None]:
        if name == "missing":
            raise errdefs.NotFound(f"No such container: {name}")
        yield b"first"
        if name == "broken":
            raise errdefs.System("the disk fails")
        yield b"second"

    async def commit(self, wanted: CommitQuery, config: types.ContainerConfig | None) -> str:
        self.seen.append(("commit", wanted, config))
        return "sha256:1"

    def images(self, all: bool, filters: Any, shared_size: bool, manifests: bool) -> list[dict[str, Any]]:
        return [{"Id": "sha256:1", "Size": 7, "filters": filters, "manifests": manifests}]

    def images_prune(self, filters: Any) -> dict[str, Any]:
        return {"ImagesDeleted": None, "SpaceReclaimed": 0, "filters": filters}

    async def images_save(self, names: list[str], platform: Any) -> AsyncGenerator[bytes, None]:
        yield f"{names} {platform}".encode()

    def image_inspect(self, ref: str, manifests: bool, platform: Any) -> dict[str, Any]:
        if ref == "missing":
            raise errdefs.NotFound(f"No such image: {ref}:latest")
        return {"ref": ref, "Size": 7}

    def image_history(self, ref: str) -> list[dict[str, Any]]:
        return [{"ref": ref}]

    def image_tag(self, ref: str, repo: str, tag: str) -> None:
        self.seen.append(("tag", ref, repo, tag))

    async def image_remove(self, ref: str, force: bool, noprune: bool) -> list[dict[str, Any]]:
        self.seen.append(("rmi", ref, force, noprune))
        return [{"Untagged": ref}]

    async def image_load(self, pieces: Any, quiet: bool, emit: Any) -> None:
        total, early = 0, True
        async for piece in pieces:
            if piece.startswith(b"not a tar"):
                raise errdefs.InvalidParameter("not an archive")
            total += len(piece)
            if early:
                emit({"status": "reading"})
                early = False
        if total == 5:
            raise errdefs.System("disk full")
        emit({"stream": f"{total} bytes\n"})

    async def image_pull(self, image: str, tag: str, platform: str, who: Any, emit: Any) -> None:
        if image == "slow":
            emit({"status": "begun"})
            self.seen.append(("pull begun",))
            try:
                await asyncio.Event().wait()
            finally:
                self.seen.append(("pull ended",))
        if image == "denied":
            raise errdefs.NotFound("pull access denied for denied")
        emit({"status": f"{image} {tag} {platform} {who.username}"})

    async def image_push(self, image: str, tag: str, everything: bool, platform: Any, who: Any, emit: Any) -> None:
        emit({"status": f"{image} {tag} {everything} {who.username}:{who.password} {platform}"})

    async def images_search(self, term: str, limit: int, filters: Any, who: Any) -> list[dict[str, Any]]:
        return [{"name": term, "limit": limit, "filters": filters}]

    async def login(self, who: Any) -> str:
        if who.password != "good":
            raise errdefs.Unauthorized("incorrect username or password")
        return "refresh"

    async def distribution_inspect(self, image: str, who: Any) -> dict[str, Any]:
        return {"Descriptor": {"digest": image}, "Platforms": []}

    async def image_import(
        self, source: Any, repo: str, tag: str, changes: Any, message: str, platform: str, emit: Any
    ) -> str:
        total = source if isinstance(source, str) else sum([len(piece) async for piece in source])
        emit({"status": f"{repo}:{tag} {changes} {total}"})
        return "sha256:2"

    # Volumes and networks

    async def volume_create(self, body: types.VolumeCreateRequest) -> dict[str, Any]:
        self.seen.append(("volume_create", body))
        return {"Name": body.name}

    async def volumes(self, filters: Any) -> dict[str, Any]:
        _known(filters)
        return {"Volumes": [], "Warnings": None}

    async def volume_inspect(self, name: str) -> dict[str, Any]:
        raise errdefs.NotFound(f"get {name}: no such volume")

    async def volume_remove(self, name: str, force: bool) -> None:
        self.seen.append(("volume_remove", name, force))

    async def volumes_prune(self, filters: Any) -> dict[str, Any]:
        return {"VolumesDeleted": [], "SpaceReclaimed": 0, "filters": filters}

    async def networks(self, filters: Any) -> list[dict[str, Any]]:
        return [{"Name": "bridge"}]

    async def network_inspect(self, name: str) -> dict[str, Any]:
        return {"Name": name}

    async def network_create(self, body: types.NetworkCreateRequest) -> dict[str, Any]:
        raise errdefs.NotImplemented_("user-defined networks")

    async def network_remove(self, name: str) -> None:
        raise errdefs.Forbidden(f"{name} is a pre-defined network and cannot be removed")

    async def network_connect(self, name: str, body: types.NetworkConnectRequest) -> None:
        raise errdefs.NotImplemented_("user-defined networks")

    async def network_disconnect(self, name: str, body: types.NetworkDisconnectRequest) -> None:
        raise errdefs.NotImplemented_("user-defined networks")

    async def networks_prune(self, filters: Any) -> dict[str, Any]:
        return {"NetworksDeleted": None}

    # The engine

    async def metrics(self) -> bytes:
        return b"up 1\n"

    async def path_stat(self, name: str, path: str) -> dict[str, Any]:
        return {"name": path, "size": 0, "mode": 0o644, "mtime": "1970-01-01T00:00:00Z", "linkTarget": ""}

    @contextlib.asynccontextmanager
    async def archive_read(self, name: str, path: str) -> AsyncIterator[tuple[dict[str, Any], AsyncIterator[bytes]]]:
        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(1024)

        yield await self.path_stat(name, path), pieces()

    async def archive_write(self, name: str, path: str, pieces: Any, keep_types: bool, as_user: bool) -> None:
        size = sum([len(piece) async for piece in pieces])
        self.seen.append(("archive_write", (name, path, size, keep_types, as_user)))

    async def containers_prune(self, filters: Any) -> dict[str, Any]:
        _known(filters)
        return {"ContainersDeleted": None, "SpaceReclaimed": 0}

    async def build(self, options: Any, pieces: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
        body = b"".join([piece async for piece in pieces])
        if options.target == "missing":
            raise errdefs.InvalidParameter("failed to reach build target missing in Dockerfile")
        yield {"stream": f"{len(body)} bytes\n"}
        yield {"stream": repr(options)}

    def build_cancel(self, build_id: str) -> None:
        self.seen.append(("build_cancel", build_id))

    async def build_prune(self, all: bool, filters: Any) -> dict[str, Any]:
        return {"CachesDeleted": None, "SpaceReclaimed": 0, "all": all, "filters": filters}

    async def disk_usage(self, kinds: Any) -> dict[str, Any]:
        return {"kinds": list(kinds)}

    async def info(self) -> dict[str, Any]:
        return {"ID": "fake"}

    async def version(self) -> dict[str, Any]:
        return {"ApiVersion": "1.51"}

    def events(self, filters: Any, since_ns: int | None, until_ns: int | None) -> FakeEvents:
        self.seen.append(("events", filters, since_ns, until_ns))
        return self.subscription
