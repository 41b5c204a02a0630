"""The container store: objects in front of two rows each, looked up by full id, then exact name, then unique prefix.

Write first, then believe: `replace` and `change` write the new value and only then put it on the object, and take it
off again when the transaction around them fails.  Everything runs on the loop's thread, so reading needs no lock:
inspect and list never wait.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from boxwright.db.connection import Database
from boxwright.engine import clock
from boxwright.engine.graphdb import ROOT, Graph, NameTaken
from boxwright.engine.live import Live
from boxwright.engine.mountpoint import MountPoint
from boxwright.engine.state import Operation, State, Status, check
from boxwright.engine.truncindex import AmbiguousPrefix, TruncIndex
from boxwright.errdefs import Conflict, InvalidParameter, NotFound, System
from boxwright.types.container import ContainerConfig, HostConfig
from boxwright.types.network import EndpointSettings

if TYPE_CHECKING:
    from boxwright.execdriver import Running

log = logging.getLogger(__name__)

SCRIPTS: list[str] = [
    """
    CREATE TABLE containers (id TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE container_states (
        id TEXT PRIMARY KEY REFERENCES containers (id) ON DELETE CASCADE,
        document BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE container_timelines (
        id TEXT PRIMARY KEY REFERENCES containers (id) ON DELETE CASCADE,
        document BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
]


class Record(msgspec.Struct, kw_only=True):
    """The desired side of a container: what create decided and rename, update and the first start may change.

    name: without the leading "/".  created: RFC 3339.  image: "sha256:…".  networks: wishes by network name.
    before_update: what `docker update` replaces, while it is under way.
    image_mounts, image_masked: OCI mounts and masked paths that the image itself asks for (hostfs does).
    """

    id: str
    name: str
    created: str
    image: str
    path: str
    args: list[str]
    config: ContainerConfig
    host_config: HostConfig
    networks: dict[str, EndpointSettings] = msgspec.field(default_factory=dict)
    mounts: list[MountPoint] = msgspec.field(default_factory=list)
    storage_driver: str = ""
    image_mounts: list[dict[str, Any]] = msgspec.field(default_factory=list)
    image_masked: list[str] = msgspec.field(default_factory=list)
    before_update: HostConfig | None = None


class Container:
    """One container.  `record` and `state` are persisted; the rest lives as long as this engine.

    running: the execution driver's handle while the init exists, else None.
    endpoints: the network controller's endpoint of each network, by network name, while connected.
    exec_ids: ids of its exec sessions.  live: waiters and clients of this life.
    created_ns: creation time, nanoseconds since the epoch.
    """

    __slots__ = (
        "__weakref__",
        "created_ns",
        "endpoints",
        "exec_ids",
        "gone",
        "live",
        "lock",
        "record",
        "running",
        "state",
    )

    def __init__(self, record: Record, state: State) -> None:
        self.record = record
        self.state = state
        self.lock = asyncio.Lock()
        self.running: Running | None = None
        self.endpoints: dict[str, Any] = {}
        self.exec_ids: list[str] = []
        self.live = Live()
        self.created_ns = clock.nanoseconds(record.created)
        self.gone = False

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.record.id

    @property
    def name(self) -> str:
        """The name without the leading "/"."""
        return self.record.name

    @property
    def config(self) -> ContainerConfig:
        """The configuration, merged with the image's."""
        return self.record.config

    @property
    def host_config(self) -> HostConfig:
        """What the container gets from this host."""
        return self.record.host_config


class Store:
    """All containers of the engine."""

    def __init__(self, db: Database, graph: Graph) -> None:
        self._db = db
        self.graph = graph
        self._containers: dict[str, Container] = {}
        self._index = TruncIndex()
        self._encoder = msgspec.json.Encoder()

    def load(self) -> None:
        """Read every container at engine start."""
        record_of, state_of = msgspec.json.Decoder(Record), msgspec.json.Decoder(State)
        rows = self._db.query("SELECT c.document, s.document FROM containers c JOIN container_states s USING (id)")
        for record, state in rows:
            self._believe(Container(record_of.decode(record), state_of.decode(state)))

    def __iter__(self) -> Iterator[Container]:
        """Every container, in no order; a snapshot, so the body may add and delete."""
        return iter(list(self._containers.values()))

    def __len__(self) -> int:
        return len(self._containers)

    def get(self, ref: str) -> Container:
        """By full id, then exact name (a leading "/" is allowed, "/parent/alias" is a link), then unique id prefix.

        Raises InvalidParameter (empty, ambiguous) or NotFound, with Docker's texts.
        """
        if not ref:
            raise InvalidParameter(f'invalid name or ID supplied: "{ref}"')
        found = self.find(ref)
        if found is None:
            raise NotFound(f"No such container: {ref}")
        return found

    def find(self, ref: str) -> Container | None:
        """As `get`, but None for what is not there."""
        if (found := self._containers.get(ref)) is not None:
            return found
        entity = self.graph.find(ref)
        if entity is not None and entity != ROOT:
            return self._containers.get(entity)
        try:
            id = self._index.get(ref)
        except AmbiguousPrefix:
            raise InvalidParameter(f"Multiple IDs found with provided prefix: {ref}") from None
        return self._containers[id] if id and ref else None

    def by_id(self, id: str) -> Container | None:
        """The container with exactly this id."""
        return self._containers.get(id)

    def add(self, record: Record, state: State) -> Container:
        """Write a new container and its name, unless `reserve` has; inside the transaction that writes all else of it.

        Raises Conflict when the name is taken.
        """
        if self.graph.find(f"/{record.name}") != record.id:
            self.reserve(record.name, record.id)
        container = Container(record, state)
        self._db.execute("INSERT INTO containers VALUES (?, ?)", (record.id, self._encoder.encode(record)))
        self._db.execute("INSERT INTO container_states VALUES (?, ?)", (record.id, self._encoder.encode(state)))
        self._believe(container)
        self._db.on_rollback(lambda: self._forget(container))
        return container

    def reserve(self, name: str, id: str) -> None:
        """Lead "/name" to `id`; raises Conflict with Docker's text when it leads elsewhere."""
        try:
            self.graph.set(f"/{name}", id)
        except NameTaken as taken:
            raise name_conflict(name, taken.holder) from None

    def replace(self, container: Container, **fields: Any) -> None:
        """Change fields of the container's record."""
        old = container.record
        new = msgspec.structs.replace(old, **fields)
        self._db.execute("UPDATE containers SET document = ? WHERE id = ?", (self._encoder.encode(new), new.id))
        container.record = new
        self._db.on_rollback(lambda: setattr(container, "record", old))

    def change(self, container: Container, timeline: list[list[Any]] | None = None, **fields: Any) -> State:
        """Change fields of the container's state and return it; a status that the table forbids raises Conflict.

        timeline: the steps of the last start; they are many and seldom asked for, so they are not kept in memory.
        """
        old = container.state
        new = msgspec.structs.replace(old, **fields)
        check(container.name, old.status, new.status)
        self._db.execute(
            "UPDATE container_states SET document = ? WHERE id = ?", (self._encoder.encode(new), container.id)
        )
        if timeline is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO container_timelines VALUES (?, ?)",
                (container.id, self._encoder.encode(timeline)),
            )
        container.state = new
        self._db.on_rollback(lambda: setattr(container, "state", old))
        return new

    def settle(self, container: Container, timeline: list[list[Any]] | None = None, **fields: Any) -> State:
        """`change` for what has happened and cannot be refused: believed also when it cannot be written (a full disk).

        The next change writes it too; an engine that comes before finds the older state, as after a crash.
        """
        try:
            with self._db.transaction():
                return self.change(container, timeline, **fields)
        except System as error:
            log.warning("container %s: its state could not be written: %s", container.id, error)
        check(container.name, container.state.status, fields.get("status", container.state.status))
        container.state = msgspec.structs.replace(container.state, **fields)
        return container.state

    def timeline(self, container: Container) -> list[list[Any]]:
        """The steps of the container's last start, `[name, start_ns, end_ns, detail]`; [] before the first."""
        rows = self._db.query("SELECT document FROM container_timelines WHERE id = ?", (container.id,))
        steps: list[list[Any]] = msgspec.json.decode(rows[0][0]) if rows else []
        return steps

    def delete(self, container: Container) -> None:
        """Delete the container's rows, its name and its links."""
        self._db.execute("DELETE FROM containers WHERE id = ?", (container.id,))
        self.graph.purge(container.id)
        self._forget(container)
        self._db.on_rollback(lambda: self._believe(container))

    @asynccontextmanager
    async def claim(
        self, container: Container, operation: Operation | None, in_any_case: bool = False, **fields: Any
    ) -> AsyncIterator[State]:
        """Wait for the operation that is under way, then claim the container for `operation` until the block ends.

        The operation is written before the body runs, `fields` of the state with it, and cleared after it; with None
        the body writes it itself, in the transaction of its intent.  in_any_case: the body runs also when it cannot be
        written; an engine that dies meanwhile leaves nobody who goes on with it.  The body decides first, with what it
        finds (another verb may have come before), and does its I/O after.  Raises Conflict when the container is
        being removed and NotFound when it is gone.
        """
        if container.state.operation is Operation.REMOVING:
            raise being_removed(container)
        async with container.lock:
            if container.gone:
                raise NotFound(f"No such container: {container.id}")
            state = container.state
            if operation is not None:
                state = (self.settle if in_any_case else self.change)(container, operation=operation, **fields)
            try:
                yield state
            finally:
                if not container.gone and container.state.operation is not Operation.NONE:
                    self.settle(container, operation=Operation.NONE)

    def names(self, container: Container) -> list[str]:
        """Every path that leads to the container, its own name first: "/db", "/web/db" (a link alias)."""
        found = [f"/{container.name}"]
        for parent, alias in self.graph.parents(container.id):
            if parent != ROOT and (holder := self._containers.get(parent)):
                found.append(f"/{holder.name}/{alias}")
        return found

    def with_status(self, *statuses: Status) -> list[Container]:
        """The containers in one of `statuses`."""
        return [c for c in self._containers.values() if c.state.status in statuses]

    def _believe(self, container: Container) -> None:
        container.gone = False
        self._containers[container.id] = container
        self._index.add(container.id)

    def _forget(self, container: Container) -> None:
        container.gone = True
        self._containers.pop(container.id, None)
        self._index.discard(container.id)


def name_conflict(name: str, holder: str) -> Conflict:
    """The error for a name that is in use, in the words that clients match on."""
    return Conflict(
        f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


def being_removed(container: Container) -> Conflict:
    """The error for a second removal, and for verbs that come while the first runs."""
    return Conflict(f"removal of container {container.id} is already in progress")
