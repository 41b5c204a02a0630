"""Manifests that images came with, byte for byte: whoever pushes an image on under the same one keeps its digest.

A manifest names compressed blobs, which are not kept here.  So it is of use where a registry has these blobs, or where
packing the layers makes the same ones again.
"""

from typing import NamedTuple

from boxwright.db.connection import Database
from boxwright.errdefs import NotFound
from boxwright.specs import image as spec
from boxwright.storage.content import ContentStore

# Of one image; some registries convert, others sign.  The latest are kept.
MOST = 4


class Original(NamedTuple):
    """A manifest as it was received; `layers` base first, as many as the image has."""

    media_type: str
    data: bytes
    layers: list[spec.Descriptor]


class Originals:
    """The table of them; the bytes are blobs.  For the loop's thread."""

    def __init__(self, db: Database, content: ContentStore) -> None:
        self._db, self._content = db, content

    def keep(self, image: str, media_type: str, digest: str) -> None:
        """The blob `digest` is a manifest of the image; in the caller's transaction."""
        self._db.execute("DELETE FROM image_manifests WHERE digest = ?", (digest,))
        self._db.execute("INSERT INTO image_manifests VALUES (?, ?, ?)", (digest, image, media_type))

    def of(self, image: str, preferred: list[str]) -> Original | None:
        """The image's manifest: one whose digest is among the `preferred` if there is one, or the latest."""
        rows = self._rows(image)
        rows.sort(key=lambda row: row[0] not in preferred)
        for digest, media_type in rows:
            try:
                data = self._content.get(digest)
                manifest = spec.decode_manifest(data)
            except (NotFound, spec.Invalid):
                continue
            return Original(media_type, data, manifest.layers)
        return None

    def surplus(self, image: str) -> list[str]:
        """Digests beyond the number that is kept."""
        return [digest for digest, _ in self._rows(image)[MOST:]]

    def drop(self, digests: list[str]) -> None:
        """Forget these; the caller removes the blobs that nothing needs any more."""
        for digest in digests:
            self._db.execute("DELETE FROM image_manifests WHERE digest = ?", (digest,))

    def digests(self, image: str) -> list[str]:
        """Of all that are kept of the image."""
        return [digest for digest, _ in self._rows(image)]

    def all(self) -> set[str]:
        """The digests of every image's."""
        return {digest for (digest,) in self._db.query("SELECT digest FROM image_manifests")}

    def _rows(self, image: str) -> list[tuple[str, str]]:
        query = "SELECT digest, media_type FROM image_manifests WHERE image = ? ORDER BY rowid DESC"
        return [(digest, media_type) for digest, media_type in self._db.query(query, (image,))]
