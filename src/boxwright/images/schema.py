"""Tables of the image store."""

SCRIPTS = [
    """
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        top TEXT NOT NULL,
        parent TEXT NOT NULL,
        created INTEGER NOT NULL,
        size INTEGER NOT NULL,
        tagged TEXT NOT NULL
    ) STRICT;
    CREATE INDEX images_by_top ON images (top);
    CREATE INDEX images_by_parent ON images (parent);
    CREATE TABLE image_names (
        name TEXT NOT NULL,
        tag TEXT NOT NULL,
        digest TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES images (id),
        PRIMARY KEY (name, tag, digest)
    ) STRICT;
    CREATE INDEX image_names_by_image ON image_names (image);
    """,
    # Compressed forms of layers that repositories (normalised names) are known to have.
    """
    CREATE TABLE layer_origins (
        diff_id TEXT NOT NULL,
        repository TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL,
        media_type TEXT NOT NULL,
        UNIQUE (diff_id, repository, digest)
    ) STRICT;
    """,
    # Manifests that images came with; a manifest names one configuration, and so one image.
    """
    CREATE TABLE image_manifests (
        digest TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id),
        media_type TEXT NOT NULL
    ) STRICT;
    CREATE INDEX image_manifests_by_image ON image_manifests (image);
    """,
    # The index that an image's manifest was chosen from, and referrers of both with their blobs.
    """
    CREATE TABLE image_attachments (
        image TEXT NOT NULL REFERENCES images (id),
        subject TEXT NOT NULL,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        UNIQUE (image, subject, digest)
    ) STRICT;
    CREATE INDEX image_attachments_by_digest ON image_attachments (digest);
    """,
]
