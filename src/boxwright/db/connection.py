"""One SQLite connection, used on the event loop's thread; transactions, migrations, checkpoints off the loop.

A write costs 19 µs (4 KiB row, WAL, synchronous NORMAL), so it is not worth a thread; a checkpoint costs 5 ms and more,
so it runs on a second connection in a thread of its own.  NORMAL survives SIGKILL at any instruction; it may lose the
last transactions at a power cut, which DESIGN.md accepts.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from boxwright.errdefs import System

# Writes between two checkpoints.  Each reuse of the WAL costs one fsync on the writer's thread, so not too few; each
# write is a few pages, so the WAL stays within some 10 MiB.
CHECKPOINT_EVERY = 1000

Undo = Callable[[], None]


class Database:
    """The engine's database file.  Every method is for the thread that made the object."""

    def __init__(self, path: str) -> None:
        """Open or create `path`; raises System when it is no database or a disk error occurs."""
        self.path = path
        self._undo: list[Undo] | None = None
        self._after: list[Callable[[], object]] = []
        self._writes = 0
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, cached_statements=512)
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "wal_autocheckpoint=0"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (component TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT"
            )
        except sqlite3.Error as error:
            raise System(f"opening the database {path}: {error}") from error
        self._checkpoints = _Checkpointer(path)

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """Run one statement, in the open transaction or as one of its own.

        Raises sqlite3.IntegrityError when a constraint forbids it, System when the disk does (full, failing).
        """
        try:
            cursor = self._connection.execute(sql, parameters)
        except sqlite3.OperationalError as error:
            raise self._failed(error) from error
        if self._undo is None and cursor.rowcount > 0:
            self._wrote()
        return cursor

    def query(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one SELECT.  Raises System when the disk fails."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise self._failed(error) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: commits at the end, rolls back when the body raises.

        The body must not await: another task would write into the same transaction.  Nesting is refused, because an
        inner block that fails and is caught would otherwise leave half its writes in the outer one.
        """
        if self._undo is not None:
            raise System("a transaction is already open")
        self._connection.execute("BEGIN IMMEDIATE")
        self._undo = []
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.OperationalError):
                raise self._failed(error) from error
            raise
        self._undo = None
        self._wrote()
        after, self._after = self._after, []
        for work in after:
            work()

    def after_commit(self, work: Callable[[], object]) -> None:
        """Have `work` called when the open transaction is committed, outside of one at once; not when it fails.

        For what may only follow when the rows are gone for good, and writes others.
        """
        if self._undo is None:
            work()
        else:
            self._after.append(work)

    def on_rollback(self, undo: Undo) -> None:
        """Have `undo` called if the open transaction fails; outside of one, what was written stays: nothing to undo.

        For those who keep objects in front of their rows and must not believe what was never committed.
        """
        if self._undo is not None:
            self._undo.append(undo)

    @property
    def in_transaction(self) -> bool:
        """True inside the body of `transaction()`."""
        return self._undo is not None

    def migrate(self, component: str, scripts: Sequence[str]) -> None:
        """Bring `component`'s tables up to date: `scripts[n]` leads from version n to n + 1.

        Each script is one transaction.  Raises System when the file was written by a newer engine.
        """
        row = self._connection.execute("SELECT version FROM migrations WHERE component = ?", (component,)).fetchone()
        version = row[0] if row else 0
        if version > len(scripts):
            raise System(f"{self.path}: {component} has version {version}; this engine knows up to {len(scripts)}")
        for number, script in enumerate(scripts[version:], start=version + 1):
            with self.transaction():
                for statement in _statements(script):
                    self._connection.execute(statement)
                self._connection.execute(
                    "INSERT INTO migrations VALUES (?, ?)"
                    " ON CONFLICT (component) DO UPDATE SET version = excluded.version",
                    (component, number),
                )

    def close(self) -> None:
        """Stop the checkpoint thread, fold the WAL into the file and close it."""
        self._checkpoints.stop()
        self._connection.close()

    def _failed(self, error: sqlite3.Error) -> System:
        return System(f"the database {self.path}: {error}")

    def _roll_back(self) -> None:
        undo, self._undo = self._undo or [], None
        self._after = []
        if self._connection.in_transaction:  # a failed COMMIT (disk full) may have ended it already
            self._connection.execute("ROLLBACK")
        for step in reversed(undo):
            step()

    def _wrote(self) -> None:
        self._writes += 1
        if self._writes >= CHECKPOINT_EVERY:
            self._writes = 0
            self._checkpoints.wake()


def _statements(script: str) -> Iterator[str]:
    """The statements of a script (executescript would commit the transaction that it runs in)."""
    pending = ""
    for piece in script.split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            if pending.strip(" \n;"):
                yield pending
            pending = ""
    if pending.strip(" \n;"):
        raise System(f"incomplete SQL statement: {pending.strip()[:80]}")


class _Checkpointer:
    """Copies the WAL into the file from a thread; PASSIVE neither waits for the writer nor makes it wait."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._signal = threading.Semaphore(0)
        self._stopping = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no thread can be made now (a limit of processes): the next time will do
            self._thread = thread
        self._signal.release()

    def stop(self) -> None:
        self._stopping = True
        self._signal.release()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            while self._signal.acquire() and not self._stopping:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            connection.close()
