"""The volume store: which volumes exist, what they are called, and who has them mounted.

A local volume is a directory and a row: the directory comes first and goes first, because what people keep in volumes
must survive the loss of the row.  A directory without a row is adopted at the next start if there is something in it.
A volume of another driver is what the driver says it is: the row is the intent to have it, and comes first.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from boxwright.confined import Jobs
from boxwright.db.connection import Database
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, System
from boxwright.plugins import Refused, WrongKind
from boxwright.trees.measure import usage
from boxwright.trees.trash import Trash
from boxwright.volumes.external import External, Externals, Known
from boxwright.volumes.local import Local, in_thread

log = logging.getLogger(__name__)

ANONYMOUS = "com.docker.volume.anonymous"

Body = dict[str, Any]
Bodies = list[Body]
Filters = dict[str, list[str]]
_LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS = frozenset({"all", "label", "label!"})
_TRUE, _FALSE = frozenset({"true", "1"}), frozenset({"false", "0"})


class Publish(Protocol):
    """The event bus's `publish`."""

    def __call__(self, type: str, action: str, id: str, attributes: dict[str, str], /) -> object: ...


class Volume(msgspec.Struct):
    """One row.  anonymous: made by a container, without a name of its own."""

    name: str
    driver: str
    options: dict[str, str] | None
    labels: dict[str, str] | None
    anonymous: bool
    created: str

    @property
    def plain(self) -> bool:
        """A directory and nothing more."""
        return self.driver == Local.name and not self.options


Volumes = list[Volume]
Found = tuple[Volume, Known | None]
Founds = list[Found]
Texts = list[str]


class VolumeStore:
    """Methods are for the loop's thread."""

    def __init__(
        self,
        db: Database,
        data_root: str,
        jobs: Jobs,
        in_use: Callable[[str], Sequence[str]],
        publish: Publish,
    ) -> None:
        """in_use: name → ids of the containers that have the volume, running or not."""
        self._db = db
        self._jobs = jobs
        self._in_use = in_use
        self._publish = publish
        self.trash = Trash(f"{data_root}/tmp")
        self._local = Local(data_root, self.trash)
        self._externals = Externals()
        self._locks: dict[str, tuple[asyncio.Lock, set[object]]] = {}
        self._stale: list[tuple[str, str]] = []

    # -- finding -------------------------------------------------------------------------------------------------------

    @property
    def drivers(self) -> Sequence[str]:
        """Names of the drivers that have been used."""
        return [self._local.name, *self._externals.names]

    async def get(self, name: str) -> Body:
        """`GET /volumes/x`.  Raises NotFound("get x: no such volume"), System for a driver that does not answer."""
        volume = self._find(name)
        if volume is None:
            found = await self._of_any_driver(name)
        elif volume.driver == self._local.name:
            return self._body(volume)
        else:
            found = volume, await self._looked_up(volume, "get")
        if found is None or found[1] is None:
            raise NotFound(f"get {name}: no such volume")
        body = await self._shown(*found)
        return {**body, "Status": found[1].status} if found[1].status is not None else body

    async def list(self, filters: Filters | None = None) -> Body:
        """`GET /volumes`, by name.  Raises InvalidParameter for a filter that does not exist."""
        filters = filters or {}
        _check_filters(filters, _LIST_FILTERS)
        dangling = _boolean("dangling", filters)
        found, asked = [], set(filters.get("driver", []))
        volumes, warnings = await self._everything(asked)
        for volume, known in volumes:
            names, drivers = filters.get("name", []), filters.get("driver", [])
            if names and not any(text in volume.name for text in names):
                continue
            if drivers and volume.driver not in drivers:
                continue
            if not all(_labelled(volume, text) for text in filters.get("label", [])):
                continue
            if dangling is not None and dangling == bool(self._in_use(volume.name)):
                continue
            found.append(await self._shown(volume, known) if known else self._body(volume))
        return {"Volumes": found, "Warnings": warnings or None}

    async def usage(self) -> Bodies:
        """Every local volume without a file system of its own, with UsageData, for `system df`."""
        bodies = []
        for volume in self._rows():
            if not volume.plain:
                continue
            size, _ = await asyncio.to_thread(_size, self._local.path(volume.name))
            references = len(self._in_use(volume.name))
            bodies.append({**self._body(volume), "UsageData": {"Size": size, "RefCount": references}})
        return bodies

    # -- changing ------------------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str | None,
        driver: str = "",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        anonymous: bool = False,
    ) -> Body:
        """`POST /volumes/create`; one that exists already is returned as it is.  driver "": whichever has it, or local.

        Raises InvalidParameter for its name or options, NotFound for its driver, Conflict when another driver has one
        of this name, System for a driver that fails; with Docker's texts.
        """
        if not name:
            name, anonymous = os.urandom(32).hex(), True
        async with self._locked(name):
            try:
                found = await self._existing(name, driver, anonymous)
                if found is None:
                    if anonymous:
                        labels = {ANONYMOUS: "", **(labels or {})}
                    volume = Volume(name, driver or Local.name, options or None, labels or None, anonymous, _now())
                    found = await self._make(volume)
                    self._publish("volume", "create", name, {"driver": volume.driver})
            except Error as error:
                raise type(error)(f"create {name}: {error}") from error
        return await self._shown(*found)

    async def _existing(self, name: str, driver: str, anonymous: bool) -> "Found | None":
        volume = self._find(name)
        if volume is None:
            return await self._of_any_driver(name) if not driver and not anonymous else None
        if driver not in ("", Local.name, volume.driver):
            await self._externals.find(driver)
        known = await self._known_or_conflict(volume) if volume.driver != Local.name else None
        if volume.driver != Local.name and known is None:
            if self._mounts(name):
                raise Conflict(
                    f"found references to volume '{name}' in driver '{volume.driver}' but the volume was not found in"
                    " the driver -- you may need to remove containers referencing this volume or force remove the"
                    " volume to re-create it: volume name must be unique"
                )
            self._forget(name)
            return None
        if driver not in ("", volume.driver):
            raise Conflict(f"driver '{volume.driver}' already has volume '{name}': volume name must be unique")
        return volume, known

    async def _known_or_conflict(self, volume: Volume) -> Known | None:
        try:
            return await self._externals.get(volume.driver).get(volume.name)
        except Error as error:
            raise Conflict(
                f"found reference to volume '{volume.name}' in driver '{volume.driver}', but got an error while"
                f" checking the driver: {error}: volume name must be unique"
            ) from error

    async def _make(self, volume: Volume) -> "Found":
        if volume.driver == Local.name:
            self._local.check_name(volume.name)
            self._local.check_options(volume.options or {})
            self._local.make(volume.name)
            self._insert(volume)
            return volume, None
        driver = await self._externals.find(volume.driver)
        known = await driver.get(volume.name)
        self._insert(volume)
        try:
            if known is None:
                await driver.create(volume.name, volume.options)
                known = await driver.get(volume.name)
            if known is None:
                raise System(f"the volume driver {volume.driver} has made it, and does not know it")
        except BaseException:
            self._forget(volume.name)
            raise
        return volume, known

    async def remove(self, name: str, force: bool = False) -> None:
        """`DELETE /volumes/x`.  force: no error when there is none, or when its driver does not remove it.

        Raises NotFound("get x: no such volume"), Conflict("remove x: volume is in use - [id]"), System.
        """
        async with self._locked(name):
            volume = self._find(name)
            if volume is None and (found := await self._of_any_driver(name)):
                volume = found[0]
            if volume is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            users = self._in_use(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{' '.join(users)}]")
            if volume.driver == Local.name:
                self._local.remove(name)
            else:
                await self._remove_external(volume, force)
            self._forget(name)
        self._publish("volume", "destroy", name, {"driver": volume.driver})

    async def _remove_external(self, volume: Volume, force: bool) -> None:
        driver = self._externals.get(volume.driver)
        try:
            # What an engine that died, or a plugin that was away, has left mounted would keep the volume busy.
            await self._unmount_all(driver, volume.name, self._mounts(volume.name))
            try:
                await driver.remove(volume.name)
            except Refused:
                if await driver.get(volume.name) is not None:
                    raise
        except Error as error:
            if not force:
                raise System(f"remove {volume.name}: {error}") from error
            log.warning("volume %s is forgotten, its driver did not remove it: %s", volume.name, error)

    def _forget(self, name: str) -> None:
        self._db.execute("DELETE FROM volumes WHERE name = ?", (name,))

    async def prune(self, filters: Filters | None = None) -> Body:
        """`POST /volumes/prune`: anonymous volumes that nobody has; with the filter all=true, named ones too."""
        filters = filters or {}
        _check_filters(filters, _PRUNE_FILTERS)
        everything = _boolean("all", filters)
        removed, reclaimed = [], 0
        for volume in self._rows():
            unwanted = (volume.anonymous or everything) and volume.plain
            labelled = all(_labelled(volume, text) for text in filters.get("label", []))
            excluded = any(_labelled(volume, text) for text in filters.get("label!", []))
            if not unwanted or not labelled or excluded or self._in_use(volume.name):
                continue
            size, _ = await asyncio.to_thread(_size, self._local.path(volume.name))
            if self._in_use(volume.name) or self._find(volume.name) is None:
                continue  # taken, or removed by another, while its size was summed up
            self._local.remove(volume.name)
            self._forget(volume.name)
            removed.append(volume.name)
            reclaimed += size
        self._publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return {"VolumesDeleted": removed or None, "SpaceReclaimed": reclaimed}

    # -- use -----------------------------------------------------------------------------------------------------------

    async def mount(self, name: str, container: str, destination: str = "", rw: bool = True) -> str:
        """Make the volume usable for a container, and return the path of its files.

        A volume with a file system of its own is mounted by its first user.  destination and rw: where and how the
        container has it, for the event.  Raises NotFound, System.
        """
        volume = self._row(name, "get")
        path = self._local.path(name) if volume.plain else await self._mount(volume, container)
        self._publish(
            "volume",
            "mount",
            name,
            {
                "container": container,
                "destination": destination,
                "driver": volume.driver,
                "propagation": "",
                "read/write": str(rw).lower(),
            },
        )
        return path

    async def unmount(self, name: str, container: str) -> None:
        """The container uses the volume no longer; no error when it did not.  Raises System: it stays written down."""
        volume = self._find(name)
        if volume is None:
            return
        if not volume.plain:
            await self._unmount(volume, container)
        self._publish("volume", "unmount", name, {"driver": volume.driver, "container": container})

    async def borrow(self, name: str, undo: AsyncExitStack) -> str:
        """Have the volume's files mounted until `undo` is closed, and return their path; nobody is told."""
        volume = self._row(name, "get")
        if volume.plain:
            return self._local.path(name)
        user = f"copy-{os.urandom(8).hex()}"  # no container: an engine that comes back takes it off the list
        undo.push_async_callback(self._unmount, volume, user)
        return await self._mount(volume, user)

    async def _mount(self, volume: Volume, user: str) -> str:
        # Intent first: who is written down here is unmounted for when it is gone, whatever happens to us.
        name = volume.name
        async with self._locked(name):
            self._row(name, "get")  # it may have been removed meanwhile
            if volume.driver == Local.name:
                self._db.execute("INSERT INTO volume_users VALUES (?, ?) ON CONFLICT DO NOTHING", (name, user))
                await in_thread(self._local.mount, name, volume.options or {})
                return self._local.path(name)
            id = os.urandom(32).hex()
            self._db.execute("INSERT INTO volume_mounts VALUES (?, ?, ?)", (id, name, user))
            return await self._externals.get(volume.driver).mount(name, id)

    async def _unmount(self, volume: Volume, user: str) -> None:
        name = volume.name
        async with self._locked(name):
            if volume.driver != Local.name:
                await self._unmount_all(self._externals.get(volume.driver), name, self._mounts(name, user))
                return
            self._db.execute("DELETE FROM volume_users WHERE name = ? AND container = ?", (name, user))
            if self._find(name) is not None and not self._users(name):
                await in_thread(self._local.unmount, name)

    async def _unmount_all(self, driver: External, name: str, ids: Iterable[str]) -> None:
        for id in ids:
            await driver.unmount(name, id)
            self._db.execute("DELETE FROM volume_mounts WHERE id = ?", (id,))

    async def copy_up(self, name: str, view: dict[str, Any], path: str, subpath: str = "") -> None:
        """Fill an empty volume, or its directory `subpath`, with what the image has at `path`; nothing happens when it
        is not empty.

        view: a read-only Mount value of the image.  Raises System, and StepError for a subpath that leads outside.
        """
        volume = self._row(name, "get")
        if (volume.options or {}).get("type") == "tmpfs" and volume.driver == Local.name:
            return  # gone before its first user comes
        async with AsyncExitStack() as undo:
            target = await self.borrow(name, undo)
            if volume.plain and not subpath and os.listdir(target):
                return
            # The file system may be on another machine, which takes its time.
            fd = _open(target) if volume.plain else await in_thread(_open, target)
            undo.callback(os.close, fd)
            args = {"view": view, "path": path, "volume": target, "subpath": subpath}
            await self._jobs.run("volume.copy_up", args, [fd])

    def reconcile(self, containers: Sequence[str] | set[str]) -> None:
        """At engine start.  containers: ids of those that run.  What has to be said to plugins is left to `recover`."""
        for name, container in self._db.query("SELECT name, container FROM volume_users"):
            if container not in containers:
                self._db.execute("DELETE FROM volume_users WHERE name = ? AND container = ?", (name, container))
        mounts = self._db.query("SELECT id, name, container FROM volume_mounts")
        self._stale = [(id, name) for id, name, container in mounts if container not in containers]
        there = set(self._local.names())
        for volume in self._rows():
            if volume.driver != Local.name:
                continue
            if volume.name not in there:
                self._forget(volume.name)
            elif volume.options and not self._users(volume.name):
                self._local.unmount(volume.name)
        known = {volume.name for volume in self._rows() if volume.driver == Local.name}
        for name in there - known:
            if not self._local.prune_empty(name) and self._find(name) is None:
                self._insert(Volume(name, self._local.name, None, None, False, _now()))

    async def recover(self) -> None:
        """After `reconcile`: tell the plugins which mounts nobody has any more.

        One that does not answer is told when the volume is removed, or by the next engine.
        """
        stale, self._stale = self._stale, []
        for id, name in stale:
            async with self._locked(name):
                volume = self._find(name)
                if volume is None or id not in self._mounts(name):
                    continue
                try:
                    await self._unmount_all(self._externals.get(volume.driver), name, [id])
                except Error as error:
                    log.warning("volume %s stays mounted, its driver does not unmount it: %s", name, error)

    def close(self) -> None:
        """Finish deleting."""
        self.trash.close()

    # -- rows ----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        """Be the only one who makes, mounts, unmounts or removes this volume."""
        lock, waiting = self._locks.setdefault(name, (asyncio.Lock(), set()))
        me = object()
        waiting.add(me)
        try:
            async with lock:
                yield
        finally:
            waiting.remove(me)
            if not waiting:
                del self._locks[name]

    def _users(self, name: str) -> bool:
        return bool(self._db.query("SELECT 1 FROM volume_users WHERE name = ? LIMIT 1", (name,)))

    def _mounts(self, name: str, user: str | None = None) -> Sequence[str]:
        """Ids of the mounts of an external volume, of all users or of one."""
        rows = self._db.query("SELECT id, container FROM volume_mounts WHERE name = ? ORDER BY rowid", (name,))
        return [id for id, container in rows if user in (None, container)]

    def _insert(self, volume: Volume) -> None:
        options, labels = msgspec.json.encode(volume.options).decode(), msgspec.json.encode(volume.labels).decode()
        self._db.execute(
            "INSERT INTO volumes VALUES (?, ?, ?, ?, ?, ?)",
            (volume.name, volume.driver, options, labels, int(volume.anonymous), volume.created),
        )

    def _find(self, name: str) -> Volume | None:
        rows = self._db.query("SELECT * FROM volumes WHERE name = ?", (name,))
        return _volume(*rows[0]) if rows else None

    def _row(self, name: str, verb: str) -> Volume:
        volume = self._find(name)
        if volume is None:
            raise NotFound(f"{verb} {name}: no such volume")
        return volume

    def _rows(self) -> "Volumes":
        return [_volume(*row) for row in self._db.query("SELECT * FROM volumes ORDER BY name")]

    # -- volumes of other drivers --------------------------------------------------------------------------------------

    async def _everything(self, asked: set[str]) -> "tuple[Founds, Texts]":
        """The volumes of all drivers, by name, and which of them did not answer.

        What the database knows of a driver that does not answer is shown; otherwise a driver's list is what counts.
        """
        rows = {volume.name: volume for volume in self._rows()}
        found: dict[str, Found] = {name: (row, None) for name, row in rows.items() if row.driver == Local.name}
        drivers = []
        if asked != {Local.name}:
            drivers = await self._externals.all({row.driver for row in rows.values()} - {Local.name})
        warnings = []
        for driver, answer in zip(drivers, await asyncio.gather(*map(_listed, drivers)), strict=True):
            own = {name: (row, None) for name, row in rows.items() if row.driver == driver.name}
            if isinstance(answer, Error):
                warnings.append(f"list {driver.name}: {answer}")
                found |= own
                continue
            for known in answer:
                if known.name not in rows or known.name in own:
                    row = rows.get(known.name) or _unrecorded(driver.name, known)
                    found.setdefault(known.name, (row, known))
        return [found[name] for name in sorted(found)], warnings

    async def _of_any_driver(self, name: str) -> "Found | None":
        """A volume that some plugin has without our having made it; it is written down, so that it can be used."""
        for driver in await self._externals.all(set()):
            try:
                known = await driver.get(name)
            except Error:
                continue  # one that does not answer has nothing to offer
            if known is not None:
                volume = _unrecorded(driver.name, known)
                if self._find(name) is None:
                    self._insert(volume)
                return volume, known
        return None

    async def _looked_up(self, volume: Volume, verb: str) -> Known | None:
        try:
            return await self._externals.get(volume.driver).get(volume.name)
        except Error as error:
            raise System(
                f'{verb} {volume.name}: error while checking if volume "{volume.name}" exists in driver'
                f' "{volume.driver}": {error}'
            ) from error

    async def _shown(self, volume: Volume, known: Known | None) -> Body:
        body = self._body(volume)
        if volume.driver != Local.name:
            body["Mountpoint"] = known.mountpoint if known else ""
            body["CreatedAt"] = (known.created if known else "") or volume.created
            body["Scope"] = await self._externals.get(volume.driver).scope()
        return body

    def _body(self, volume: Volume) -> Body:
        return {
            "CreatedAt": volume.created,
            "Driver": volume.driver,
            "Labels": volume.labels,
            "Mountpoint": self._local.path(volume.name) if volume.driver == Local.name else "",
            "Name": volume.name,
            "Options": volume.options,
            "Scope": "local",
        }


def _volume(name: str, driver: str, options: str, labels: str, anonymous: int, created: str) -> Volume:
    return Volume(name, driver, msgspec.json.decode(options), msgspec.json.decode(labels), bool(anonymous), created)


def _unrecorded(driver: str, known: Known) -> Volume:
    return Volume(known.name, driver, None, None, False, known.created)


async def _listed(driver: External) -> "list[Known] | Error":
    try:
        return await driver.list()
    except WrongKind:
        return []  # a plugin for something else, which has a socket in the same directory
    except Error as error:
        return error


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _size(path: str) -> tuple[int, int]:
    try:
        return usage(path)
    except OSError:
        return 0, 0


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _labelled(volume: Volume, text: str) -> bool:
    key, equals, value = text.partition("=")
    labels = volume.labels or {}
    return key in labels and (not equals or labels[key] == value)


def _check_filters(filters: Filters, accepted: frozenset[str]) -> None:
    for name in filters:
        if name not in accepted:
            raise InvalidParameter(f"invalid filter '{name}'")


def _boolean(name: str, filters: Filters) -> bool | None:
    values = filters.get(name)
    if not values:
        return None
    given = {value.lower() for value in values}
    if given <= _TRUE:
        return True
    if given <= _FALSE:
        return False
    raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
