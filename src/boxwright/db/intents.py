"""Intents: what is about to be made or unmade outside SQLite, written before the first step and deleted after the last.

An engine that comes back after SIGKILL asks for the `pending` ones and finishes or undoes each.  `begin` and `finish`
belong into the transaction that also writes the rows they speak of.
"""

from typing import Any, NamedTuple

import msgspec

from boxwright.db.connection import Database


class Intent(NamedTuple):
    """One unfinished operation: `kind` says which, `key` on what, `payload` every planned name."""

    id: int
    kind: str
    key: str
    payload: dict[str, Any]


def begin(db: Database, kind: str, key: str, payload: dict[str, Any]) -> int:
    """Write the intent and return its id; `payload` is JSON."""
    cursor = db.execute(
        "INSERT INTO intents (kind, key, payload) VALUES (?, ?, ?)", (kind, key, msgspec.json.encode(payload))
    )
    return int(cursor.lastrowid or 0)


def finish(db: Database, intent: int) -> None:
    """The operation is complete, or completely undone.  Once for an intent: its number may be given again."""
    db.execute("DELETE FROM intents WHERE id = ?", (intent,))


def pending(db: Database, kind: str | None = None) -> list[Intent]:
    """The unfinished operations (of one kind), oldest first."""
    rows = db.query("SELECT id, kind, key, payload FROM intents WHERE ? IS NULL OR kind = ? ORDER BY id", (kind, kind))
    return [Intent(number, name, key, msgspec.json.decode(payload)) for number, name, key, payload in rows]
