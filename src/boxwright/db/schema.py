"""Tables of the database layer itself."""

SCRIPTS: list[str] = [
    """
    CREATE TABLE intents (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        payload BLOB NOT NULL
    ) STRICT;
    """,
]
