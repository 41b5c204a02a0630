"""The name graph: entities, and edges between them that carry names.

The root entity is "0".  A container's name is the edge from the root to it ("/web"); a link alias is an edge from the
container that links to the one linked ("/web/db" is what web knows as db).  A parent's edges have different names: the
unique index is what makes a name taken.  Rows only, no cache: a look-up is an index search of a few microseconds.
"""

import sqlite3

from boxwright.db.connection import Database

ROOT = "0"

SCRIPTS: list[str] = [
    """
    CREATE TABLE entities (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE edges (
        parent TEXT NOT NULL REFERENCES entities (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        entity TEXT NOT NULL REFERENCES entities (id) ON DELETE CASCADE,
        PRIMARY KEY (parent, name)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX edges_by_entity ON edges (entity);
    INSERT INTO entities VALUES ('0');
    """,
]


class NameTaken(Exception):
    """The parent already has an edge of that name; `holder` is the entity that it leads to."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(path)
        self.path, self.holder = path, holder


class Graph:
    """Paths to entities.  A path is "/" plus edge names joined by "/"; names hold no "/"."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def find(self, path: str) -> str | None:
        """The entity at `path` ("/" is the root), or None."""
        entity = ROOT
        if not path.isascii():
            return None  # no name is, and lone surrogates of a URL cannot even be asked for
        for name in _names(path):
            rows = self._db.query("SELECT entity FROM edges WHERE parent = ? AND name = ?", (entity, name))
            if not rows:
                return None
            entity = rows[0][0]
        return entity

    def set(self, path: str, entity: str) -> None:
        """Lead `path` to `entity`, which is made when it is new.

        Raises NameTaken when the path leads elsewhere, KeyError when its parent does not exist.
        """
        parent, name = self._split(path)
        self._db.execute("INSERT INTO entities VALUES (?) ON CONFLICT DO NOTHING", (entity,))
        try:
            self._db.execute("INSERT INTO edges VALUES (?, ?, ?)", (parent, name, entity))
        except sqlite3.IntegrityError:
            holder = self.find(path)
            if holder != entity:
                raise NameTaken(path, holder or "") from None

    def remove(self, path: str) -> bool:
        """Delete the last edge of `path`; the entity stays.  False when there is no such path."""
        names = _names(path)
        parent = self.find("/" + "/".join(names[:-1])) if names else None
        if parent is None:
            return False
        return self._db.execute("DELETE FROM edges WHERE parent = ? AND name = ?", (parent, names[-1])).rowcount > 0

    def rename(self, old: str, new: str) -> None:
        """Move the edge `old` to `new`; what hangs below the entity moves with it.

        Raises KeyError when `old` or the parent of `new` does not exist, NameTaken when `new` does.
        """
        entity = self.find(old)
        if entity is None or entity == ROOT:
            raise KeyError(old)
        if (holder := self.find(new)) is not None:
            raise NameTaken(new, holder)
        parent, name = self._split(new)
        old_parent, old_name = self._split(old)
        self._db.execute(
            "UPDATE edges SET parent = ?, name = ? WHERE parent = ? AND name = ?", (parent, name, old_parent, old_name)
        )

    def purge(self, entity: str) -> None:
        """Delete the entity with every edge from it and to it."""
        if entity != ROOT:
            self._db.execute("DELETE FROM entities WHERE id = ?", (entity,))

    def children(self, entity: str) -> dict[str, str]:
        """Edge name → entity, of the edges that start at `entity`, in order of name."""
        return dict(self._db.query("SELECT name, entity FROM edges WHERE parent = ? ORDER BY name", (entity,)))

    def parents(self, entity: str) -> list[tuple[str, str]]:
        """(parent, edge name) of the edges that end at `entity`."""
        return self._db.query("SELECT parent, name FROM edges WHERE entity = ? ORDER BY parent, name", (entity,))

    def aliases(self) -> list[tuple[str, str, str]]:
        """(parent, name, entity) of every edge that does not start at the root: all links, in one query."""
        return self._db.query("SELECT parent, name, entity FROM edges WHERE parent <> ?", (ROOT,))

    def _split(self, path: str) -> tuple[str, str]:
        names = _names(path)
        if not names:
            raise KeyError(path)
        parent = self.find("/" + "/".join(names[:-1]))
        if parent is None:
            raise KeyError(path)
        return parent, names[-1]


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]
