"""The real backend: every verb of the API as a call of the engine's functions."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import TYPE_CHECKING

from boxwright import types
from boxwright.builder import leftovers
from boxwright.engine import (
    attach,
    commit,
    copy,
    create,
    diskusage,
    exec,
    files,
    info,
    inspect,
    listing,
    logs,
    pause,
    prune,
    remove,
    rename,
    resize,
    start,
    stats,
    stop,
    top,
    update,
    wait,
)
from boxwright.images import importing
from boxwright.images.distribution.auth import Credentials
from boxwright.types.build import BuildOptions

from .backend import Archive, AttachQuery, CommitQuery, Emit, Events, Filters, Json, LogQuery, Pieces, Stream, Waiter

if TYPE_CHECKING:
    from boxwright.builder.builder import Builder
    from boxwright.engine.engine import Engine


class EngineBackend:
    """`Backend` over an `Engine`."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        engine.spawn(leftovers.recover(engine))

    @cached_property
    def _builder(self) -> "Builder":
        """Imported when somebody builds (1 MiB, 30 ms)."""
        from boxwright.builder.builder import Builder

        return Builder(self._engine)

    @property
    def experimental(self) -> bool:
        """What clients ask before they send options that dockerd calls experimental."""
        return self._engine.config.experimental

    # Containers

    async def create(
        self,
        name: str | None,
        config: types.ContainerConfig,
        host_config: types.HostConfig,
        networking: types.NetworkingConfig,
        platform: str,
    ) -> Json:
        return await create.create(self._engine, name, config, host_config, networking, platform)

    async def containers(self, all: bool, limit: int, size: bool, filters: Filters) -> list[Json]:
        return await listing.containers(self._engine, all, limit, size, filters)

    async def inspect(self, name: str, size: bool) -> Json:
        return await inspect.inspect(self._engine, name, size)

    async def start(self, name: str, host_config: types.HostConfig | None) -> None:
        await start.start(self._engine, name, host_config)

    async def stop(self, name: str, signal: str | None, timeout: int | None) -> None:
        await stop.stop(self._engine, name, signal, timeout)

    async def restart(self, name: str, signal: str | None, timeout: int | None) -> None:
        await stop.restart(self._engine, name, signal, timeout)

    async def kill(self, name: str, signal: str | None) -> None:
        await stop.kill(self._engine, name, signal)

    async def pause(self, name: str) -> None:
        await pause.pause(self._engine, name)

    async def unpause(self, name: str) -> None:
        await pause.unpause(self._engine, name)

    async def rename(self, name: str, new: str) -> None:
        await rename.rename(self._engine, name, new)

    async def remove(self, name: str, force: bool, volumes: bool, link: bool) -> None:
        await remove.remove(self._engine, name, force, volumes, link)

    def wait(self, name: str, condition: str) -> Waiter:
        return wait.wait(self._engine, name, condition)

    def stats(self, name: str, stream: bool, one_shot: bool) -> AsyncGenerator[Json, None]:
        return stats.stats(self._engine, name, stream, one_shot)

    async def update(self, name: str, wanted: types.UpdateRequest) -> Json:
        return await update.update(self._engine, name, wanted)

    async def top(self, name: str, ps_args: str) -> Json:
        return await top.top(self._engine, name, ps_args)

    async def resize(self, name: str, height: int, width: int) -> None:
        await resize.resize(self._engine, name, height, width)

    def tty(self, name: str) -> bool:
        return self._engine.store.get(name).config.tty

    def logs(self, name: str, query: LogQuery) -> Pieces:
        return logs.logs(self._engine, name, logs.LogOptions(**query._asdict()))

    async def attach(self, name: str, query: AttachQuery, stream: Stream) -> None:
        await attach.attach(self._engine, name, attach.AttachOptions(**query._asdict()), stream)

    async def path_stat(self, name: str, path: str) -> Json:
        return await copy.stat(self._engine, name, path)

    def archive_read(self, name: str, path: str) -> AbstractAsyncContextManager[tuple[Json, Pieces]]:
        return copy.read(self._engine, name, path)

    async def archive_write(self, name: str, path: str, pieces: Pieces, keep_types: bool, as_user: bool) -> None:
        await copy.write(self._engine, name, path, pieces, keep_types, as_user)

    async def containers_prune(self, filters: Filters) -> Json:
        return await prune.containers(self._engine, filters)

    # Exec sessions

    async def exec_create(self, name: str, config: types.ExecConfig) -> Json:
        return await exec.create(self._engine, name, config)

    async def exec_start(
        self, exec_id: str, detach: bool, tty: bool, console_size: tuple[int, int] | None, stream: Stream | None
    ) -> None:
        await exec.start(self._engine, exec_id, detach, tty, console_size, stream)

    def exec_inspect(self, exec_id: str) -> Json:
        return exec.inspect(self._engine, exec_id)

    async def exec_kill(self, exec_id: str, signal: str | None) -> None:
        await exec.kill(self._engine, exec_id, signal)

    async def exec_resize(self, exec_id: str, height: int, width: int) -> None:
        await exec.resize(self._engine, exec_id, height, width)

    # Leases

    def lease_open(self, lease: str) -> tuple[str, object]:
        return self._engine.owners.open(lease)

    def lease_close(self, lease: str, connection: object) -> None:
        self._engine.owners.close(lease, connection)

    # Images

    async def changes(self, name: str) -> list[Json]:
        return await files.changes(self._engine, name)

    def export(self, name: str) -> Archive:
        return files.export(self._engine, name)

    async def commit(self, wanted: CommitQuery, config: types.ContainerConfig | None) -> str:
        return await commit.commit(self._engine, commit.Commit(**wanted._asdict(), config=config))

    def images(self, all: bool, filters: Filters, shared_size: bool, manifests: bool) -> list[Json]:
        return self._engine.images.list(all, filters, shared_size, manifests)

    def images_prune(self, filters: Filters) -> Json:
        return self._engine.images.prune(filters, self._engine.image_users)

    def images_save(self, names: list[str], platform: Json | None) -> Archive:
        return self._engine.images.save(names, platform)

    def image_inspect(self, ref: str, manifests: bool, platform: Json | None) -> Json:
        return self._engine.images.inspect(ref, manifests, platform)

    def image_history(self, ref: str) -> list[Json]:
        return self._engine.images.history(ref)

    def image_tag(self, ref: str, repo: str, tag: str) -> None:
        self._engine.images.tag(ref, repo, tag)

    async def image_remove(self, ref: str, force: bool, noprune: bool) -> Sequence[Json]:
        return self._engine.images.remove(ref, force, noprune, self._engine.image_users)

    async def image_load(self, pieces: Pieces, quiet: bool, emit: Emit) -> None:
        await self._engine.images.load(pieces, quiet, emit)

    async def image_import(
        self, source: Pieces | str, repo: str, tag: str, changes: list[str], message: str, platform: str, emit: Emit
    ) -> str:
        """source: an archive, or the URL of one."""
        store = self._engine.images
        if isinstance(source, str):
            return await importing.import_url(store, source, repo, tag, changes, message, platform, emit)
        return await store.import_(source, repo, tag, changes, message, platform, emit)

    async def image_pull(self, image: str, tag: str, platform: str, who: Credentials, emit: Emit) -> None:
        await self._engine.distribution.pull(image, tag, platform, who, emit)

    async def image_push(
        self, image: str, tag: str, everything: bool, platform: Json | None, who: Credentials, emit: Emit
    ) -> None:
        await self._engine.distribution.push(image, tag, everything, platform, who, emit)

    async def images_search(self, term: str, limit: int, filters: Filters, who: Credentials) -> list[Json]:
        return await self._engine.distribution.search(term, limit, filters, who)

    async def login(self, who: Credentials) -> str:
        return await self._engine.distribution.login(who)

    async def distribution_inspect(self, image: str, who: Credentials) -> Json:
        return await self._engine.distribution.inspect(image, who)

    def build(self, options: BuildOptions, pieces: Pieces) -> AsyncGenerator[Json, None]:
        return self._builder.build(options, pieces)

    def build_cancel(self, build_id: str) -> None:
        self._builder.cancel(build_id)

    async def build_prune(self, all: bool, filters: Filters) -> Json:
        return await self._builder.prune(all, filters)

    # Volumes and networks

    async def volume_create(self, body: types.VolumeCreateRequest) -> Json:
        return await self._engine.volumes.create(
            body.name or None, body.driver, body.driver_opts or {}, body.labels or {}
        )

    async def volumes(self, filters: Filters) -> Json:
        return await self._engine.volumes.list(filters)

    async def volume_inspect(self, name: str) -> Json:
        return await self._engine.volumes.get(name)

    async def volume_remove(self, name: str, force: bool) -> None:
        await self._engine.volumes.remove(name, force)

    async def volumes_prune(self, filters: Filters) -> Json:
        return await self._engine.volumes.prune(filters)

    async def networks(self, filters: Filters) -> list[Json]:
        return self._engine.network.networks(filters)

    async def network_inspect(self, name: str) -> Json:
        return self._engine.network.inspect(name)

    async def network_create(self, body: types.NetworkCreateRequest) -> Json:
        return await self._engine.network.create(body)

    async def network_remove(self, name: str) -> None:
        await self._engine.network.remove(name)

    async def network_connect(self, name: str, body: types.NetworkConnectRequest) -> None:
        await self._engine.network.connect_container(name, body.container, body.endpoint_config)

    async def network_disconnect(self, name: str, body: types.NetworkDisconnectRequest) -> None:
        await self._engine.network.disconnect_container(name, body.container, body.force)

    async def networks_prune(self, filters: Filters) -> Json:
        return self._engine.network.prune(filters)

    # The engine

    async def disk_usage(self, kinds: Sequence[str]) -> Json:
        cache = await self._builder.usage() if "build-cache" in kinds else []
        return await diskusage.disk_usage(self._engine, kinds, cache)

    async def info(self) -> Json:
        return info.info(self._engine)

    async def metrics(self) -> bytes:
        # prometheus_client comes with it, which an engine that nobody scrapes does not need.
        from boxwright.engine import metrics

        return await metrics.exposition(self._engine)

    async def version(self) -> Json:
        return info.version(self._engine)

    def events(self, filters: Filters, since_ns: int | None, until_ns: int | None) -> Events:
        return self._engine.bus.subscribe(filters, since_ns, until_ns)
