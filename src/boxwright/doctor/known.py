"""What the database of a data root knows, read without writing: beside a running engine, or after one that is gone."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from boxwright.errdefs import System
from boxwright.network.endpoint import Endpoint


@dataclass
class Known:
    """Rows by what they stand for.  cgroups: container id → parent of its cgroup ("" for the engine's own)."""

    instance: str
    containers: set[str] = field(default_factory=set)
    cgroup_parents: set[str] = field(default_factory=set)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    addresses: list[tuple[str, int, str, str | None]] = field(default_factory=list)
    ports: list[tuple[str, int, str, str]] = field(default_factory=list)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    storage: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    intents: list[tuple[str, str]] = field(default_factory=list)


def read(data_root: str) -> Known | None:
    """None when no engine has been here; raises System when the database cannot be read."""
    try:
        with open(f"{data_root}/instance", encoding="ascii") as file:
            instance = file.read(256).split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    try:
        with closing(sqlite3.connect(f"file:{data_root}/boxwright.db?mode=ro", uri=True)) as db:
            return _read(db, instance)
    except sqlite3.Error as error:
        raise System(f"the database {data_root}/boxwright.db: {error}") from error


def _read(db: sqlite3.Connection, instance: str) -> Known:
    found = Known(instance)
    db.execute("BEGIN")  # one moment for all tables
    for id, document in db.execute("SELECT id, document FROM containers"):
        found.containers.add(id)
        wanted = msgspec.json.decode(document)
        host_config = wanted.get("host_config") or wanted.get("HostConfig") or {}
        found.cgroup_parents.add(host_config.get("CgroupParent") or "")
    found.endpoints = {
        id: Endpoint.from_row(document) for id, document in db.execute("SELECT id, document FROM network_endpoints")
    }
    found.addresses = db.execute("SELECT network, address, link, endpoint FROM network_addresses").fetchall()
    found.ports = db.execute("SELECT protocol, port, host_ip, endpoint FROM network_ports").fetchall()
    found.networks = {id: msgspec.json.decode(row) for id, row in db.execute("SELECT id, document FROM networks")}
    found.storage = {d: f"snapshot {k}" for k, d in db.execute("SELECT key, directory FROM snapshots")}
    found.storage |= {d: f"layer {k}" for k, d in db.execute("SELECT chain_id, directory FROM layers")}
    found.volumes = dict(db.execute("SELECT name, driver FROM volumes"))
    found.blobs = {digest for (digest,) in db.execute("SELECT digest FROM blobs")}
    found.intents = db.execute("SELECT kind, key FROM intents").fetchall()
    return found


@contextmanager
def owned(data_root: str) -> Iterator[bool]:
    """Be the data root's engine while the body runs; false when an engine is."""
    try:
        fd = os.open(f"{data_root}/lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
