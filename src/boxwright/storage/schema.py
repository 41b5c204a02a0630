"""Tables of the content store and the snapshotters.  A row is written last: what has no row does not exist."""

SCRIPTS = [
    """
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY,
        size INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE layers (
        chain_id TEXT PRIMARY KEY,
        directory TEXT NOT NULL UNIQUE,
        diff_id TEXT NOT NULL,
        parent TEXT REFERENCES layers (chain_id),
        size INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX layers_by_parent ON layers (parent);
    CREATE TABLE snapshots (
        key TEXT PRIMARY KEY,
        directory TEXT NOT NULL UNIQUE,
        base TEXT NOT NULL
    ) STRICT;
    CREATE INDEX snapshots_by_base ON snapshots (base);
    """,
    # Length of the layer's archive; -1 for layers that have no record to make it from.
    "ALTER TABLE layers ADD COLUMN archive INTEGER NOT NULL DEFAULT -1;",
]
