"""Tables of the volume store."""

SCRIPTS = [
    """
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        driver TEXT NOT NULL,
        options TEXT NOT NULL,
        labels TEXT NOT NULL,
        anonymous INTEGER NOT NULL,
        created TEXT NOT NULL
    ) STRICT;
    CREATE TABLE volume_users (
        name TEXT NOT NULL REFERENCES volumes (name) ON DELETE CASCADE,
        container TEXT NOT NULL,
        PRIMARY KEY (name, container)
    ) STRICT;
    """,
    """
    CREATE TABLE volume_mounts (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL REFERENCES volumes (name) ON DELETE CASCADE,
        container TEXT NOT NULL
    ) STRICT;
    """,
]
