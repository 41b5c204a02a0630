"""Where layers come from: the compressed blobs that registries are known to have of them.

A layer that was pulled, or pushed once, need not be packed and sent again: a registry is asked for its blob, or told to
mount it from another of its repositories.  Only hints: a registry may have deleted what a row says.
"""

from typing import NamedTuple

from boxwright.db.connection import Database
from boxwright.specs.image import Descriptor

# Of one layer; the latest are the likeliest to be there still.
MOST = 20


class Origin(NamedTuple):
    """`repository` (normalised name) had the layer as this blob."""

    repository: str
    digest: str
    size: int
    media_type: str

    @property
    def domain(self) -> str:
        """The registry."""
        return self.repository.partition("/")[0]

    @property
    def path(self) -> str:
        """The repository as its registry calls it."""
        return self.repository.partition("/")[2]


class Origins:
    """The table of them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def remember(self, diff_id: str, repository: str, blob: Descriptor) -> None:
        """`repository` has the layer as `blob`."""
        self._db.execute(
            "INSERT INTO layer_origins VALUES (?, ?, ?, ?, ?) ON CONFLICT (diff_id, repository, digest) DO NOTHING",
            (diff_id, repository, blob.digest, blob.size, blob.media_type),
        )

    def forget(self, diff_id: str, origin: Origin) -> None:
        """The registry has it no longer."""
        self._db.execute(
            "DELETE FROM layer_origins WHERE diff_id = ? AND repository = ? AND digest = ?",
            (diff_id, origin.repository, origin.digest),
        )

    def of(self, diff_id: str, domain: str) -> list[Origin]:
        """What is known of a layer in a registry, the latest first."""
        rows = self._db.query(
            "SELECT repository, digest, size, media_type FROM layer_origins"
            " WHERE diff_id = ? AND repository >= ? AND repository < ? ORDER BY rowid DESC LIMIT ?",
            (diff_id, f"{domain}/", f"{domain}0", MOST),
        )
        return [Origin(*row) for row in rows]

    def sweep(self) -> None:
        """At engine start: forget layers that are not here any more."""
        self._db.execute("DELETE FROM layer_origins WHERE diff_id NOT IN (SELECT diff_id FROM layers)")
