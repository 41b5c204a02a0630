import os
import sqlite3
import threading
from pathlib import Path

import pytest

from boxwright.db import connection, intents, schema
from boxwright.db.connection import Database
from boxwright.errdefs import System

TABLE = ["CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER) STRICT;"]


@pytest.fixture
def db(tmp_path: Path):
    db = Database(str(tmp_path / "x.db"))
    db.migrate("db", schema.SCRIPTS)
    db.migrate("test", TABLE)
    yield db
    db.close()


def rows(db: Database) -> dict[str, int]:
    return dict(db.query("SELECT k, v FROM t"))


def test_pragmas(db: Database) -> None:
    assert db.query("PRAGMA journal_mode") == [("wal",)]
    assert db.query("PRAGMA synchronous") == [(1,)]
    assert db.query("PRAGMA foreign_keys") == [(1,)]


def test_what_follows_a_commit_runs_after_it_and_not_after_a_failure(db: Database) -> None:
    steps: list[bool] = []
    db.after_commit(lambda: steps.append(db.in_transaction))
    assert steps == [False]
    with db.transaction():
        db.execute("INSERT INTO t VALUES ('first', 1)")
        # It writes in a transaction of its own.
        db.after_commit(lambda: steps.append(db.execute("INSERT INTO t VALUES ('second', 2)").rowcount == 1))
        assert steps == [False]
    assert steps == [False, True] and rows(db) == {"first": 1, "second": 2}
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.after_commit(lambda: steps.append(True))
        raise ZeroDivisionError
    with db.transaction():
        db.execute("INSERT INTO t VALUES ('third', 3)")
    assert steps == [False, True]


def test_a_transaction_is_all_or_nothing_and_runs_the_undo_steps_backwards(db: Database) -> None:
    steps: list[str] = []
    with db.transaction():
        db.execute("INSERT INTO t VALUES ('kept', 1)")
        db.on_rollback(lambda: steps.append("never"))
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.execute("INSERT INTO t VALUES ('lost', 1)")
        db.on_rollback(lambda: steps.append("first"))
        db.on_rollback(lambda: steps.append("second"))
        raise ZeroDivisionError
    assert rows(db) == {"kept": 1}
    assert steps == ["second", "first"]
    assert not db.in_transaction


def test_nested_transactions_are_refused_and_the_outer_one_goes_on(db: Database) -> None:
    with db.transaction():
        db.execute("INSERT INTO t VALUES ('a', 1)")
        with pytest.raises(System), db.transaction():
            pass
        db.execute("INSERT INTO t VALUES ('b', 2)")
    assert rows(db) == {"a": 1, "b": 2}


def test_a_failed_commit_leaves_a_usable_connection(db: Database) -> None:
    db.execute("CREATE TABLE child (p TEXT REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), db.transaction():
        db.execute("INSERT INTO child VALUES ('missing')")
    with db.transaction():
        db.execute("INSERT INTO t VALUES ('a', 1)")
    assert rows(db) == {"a": 1}
    assert db.query("SELECT * FROM child") == []


def test_a_full_disk_is_an_error_of_the_host_and_changes_nothing(db: Database) -> None:
    (pages,) = db.query("PRAGMA page_count")[0]
    db.execute(f"PRAGMA max_page_count = {pages + 1}")
    big = "x" * 1_000_000
    with pytest.raises(System, match=r"x\.db: database or disk is full"), db.transaction():
        db.execute("INSERT INTO t VALUES ('small', 1)")
        db.execute("INSERT INTO t VALUES (?, 1)", (big,))
    with pytest.raises(System, match="full"):
        db.execute("INSERT INTO t VALUES (?, 1)", (big,))
    assert rows(db) == {} and not db.in_transaction
    db.execute("PRAGMA max_page_count = 1073741823")
    db.execute("INSERT INTO t VALUES (?, 1)", (big,))
    assert rows(db) == {big: 1}


def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    path = str(tmp_path / "m.db")
    scripts = ["CREATE TABLE a (x TEXT DEFAULT ';'); INSERT INTO a VALUES ('one;two');"]
    db = Database(path)
    db.migrate("part", scripts)
    db.migrate("part", scripts)
    assert db.query("SELECT x FROM a") == [("one;two",)]
    db.close()
    db = Database(path)
    db.migrate("part", [*scripts, "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 7"])
    assert db.query("SELECT x, y FROM a") == [("one;two", 7)]
    with pytest.raises(System, match="part has version 2"):
        db.migrate("part", scripts)
    db.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    db = Database(str(tmp_path / "m.db"))
    with pytest.raises(System, match="nowhere"):
        db.migrate("part", ["CREATE TABLE a (x TEXT); INSERT INTO nowhere VALUES (1);"])
    assert db.query("SELECT name FROM sqlite_master WHERE name = 'a'") == []
    db.migrate("part", ["CREATE TABLE a (x TEXT);"])
    db.close()


def test_what_is_no_database_is_reported_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database file at all, but long enough to be looked at" * 20)
    with pytest.raises(System, match=r"x\.db"):
        Database(str(path))


def test_committed_rows_survive_a_kill(tmp_path: Path) -> None:
    """A process that ends without closing anything is as good as one that got SIGKILL."""
    path = str(tmp_path / "k.db")
    pid = os.fork()
    if pid == 0:
        db = Database(path)
        db.migrate("test", TABLE)
        with db.transaction():
            db.execute("INSERT INTO t VALUES ('committed', 1)")
        db._connection.execute("BEGIN IMMEDIATE")
        db._connection.execute("INSERT INTO t VALUES ('open', 1)")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    db = Database(path)
    assert rows(db) == {"committed": 1}
    db.close()


def test_checkpoints_run_in_a_thread_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CHECKPOINT_EVERY", 10)
    path = tmp_path / "c.db"
    db = Database(str(path))
    db.migrate("test", TABLE)
    for number in range(100):
        db.execute("INSERT INTO t VALUES (?, ?)", (str(number), number))
    assert any(thread.name == "checkpoint" for thread in threading.enumerate())
    db.close()
    # Everything is in the file itself, and no thread is left.
    assert not any(thread.name == "checkpoint" for thread in threading.enumerate())
    alone = sqlite3.connect(path)
    assert alone.execute("SELECT count(*) FROM t").fetchone() == (100,)
    alone.close()


def test_intents_are_there_until_they_are_finished(db: Database) -> None:
    first = intents.begin(db, "make", "a", {"link": "bw0"})
    second = intents.begin(db, "unmake", "b", {})
    assert [(i.kind, i.key, i.payload) for i in intents.pending(db)] == [
        ("make", "a", {"link": "bw0"}),
        ("unmake", "b", {}),
    ]
    assert [i.id for i in intents.pending(db, "unmake")] == [second]
    intents.finish(db, first)
    assert [i.id for i in intents.pending(db)] == [second]


def test_an_intent_goes_with_its_transaction(db: Database) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction():
        intents.begin(db, "make", "a", {})
        raise ZeroDivisionError
    assert intents.pending(db) == []
