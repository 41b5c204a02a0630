"""Tables of the builder."""

SCRIPTS = [
    """
    -- What a step made: key is the digest of everything that it was made of.
    CREATE TABLE build_steps (
        key TEXT PRIMARY KEY,
        image TEXT NOT NULL,
        used INTEGER NOT NULL          -- seconds since the epoch
    );
    -- Directories of RUN --mount=type=cache; the bytes lie in build-cache/<directory>.
    CREATE TABLE build_mounts (
        directory TEXT PRIMARY KEY,
        id TEXT NOT NULL,
        created INTEGER NOT NULL,
        used INTEGER NOT NULL,
        uses INTEGER NOT NULL
    );
    """,
]
