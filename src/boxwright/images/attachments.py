"""What a pulled image brings along: the index that it was chosen from, and its referrers: signatures, attestations, ….

They are kept as they came, so that whoever pushes the image on under the same manifest can push them, too.  Each is
about a manifest or an index, its subject; of a referrer the blobs that it names are kept as well.
"""

from collections.abc import Iterable
from typing import NamedTuple

from boxwright.db.connection import Database
from boxwright.errdefs import NotFound
from boxwright.specs import image as spec
from boxwright.storage.content import ContentStore

# Rows of one image; the latest are kept.
MOST = 300


class Attachment(NamedTuple):
    """A document or a blob.  media_type: of a manifest or an index; "" a blob that the manifest `subject` names."""

    subject: str
    digest: str
    media_type: str
    data: bytes

    @property
    def is_index(self) -> bool:
        """Whether it is the index that the manifest `subject` was chosen from."""
        return self.media_type in spec.INDEXES


class Attachments:
    """The table of them; the bytes are blobs.  For the loop's thread."""

    def __init__(self, db: Database, content: ContentStore) -> None:
        self._db, self._content = db, content

    def keep(self, image: str, found: Iterable[Attachment]) -> list[str]:
        """Keep these of an image; in the caller's transaction, when their bytes are blobs already.

        Returns digests that are kept no longer; the caller removes the blobs that nothing needs any more.
        """
        for each in found:
            key = (image, each.subject, each.digest)
            self._db.execute("DELETE FROM image_attachments WHERE image = ? AND subject = ? AND digest = ?", key)
            self._db.execute("INSERT INTO image_attachments VALUES (?, ?, ?, ?)", (*key, each.media_type))
        query = "SELECT rowid, digest FROM image_attachments WHERE image = ? ORDER BY rowid DESC"
        surplus = self._db.query(query, (image,))[MOST:]
        for rowid, _ in surplus:
            self._db.execute("DELETE FROM image_attachments WHERE rowid = ?", (rowid,))
        return [digest for _, digest in surplus]

    def of(self, image: str, subject: str) -> list[Attachment]:
        """What is kept of the image about `subject`, the latest first."""
        query = "SELECT digest, media_type FROM image_attachments WHERE image = ? AND subject = ? ORDER BY rowid DESC"
        found = []
        for digest, media_type in self._db.query(query, (image, subject)):
            try:
                found.append(Attachment(subject, digest, media_type, self._content.get(digest)))
            except NotFound:
                continue
        return found

    def has(self, subject: str, digest: str) -> bool:
        """Whether an image has this about `subject`."""
        query = "SELECT 1 FROM image_attachments WHERE subject = ? AND digest = ? LIMIT 1"
        return bool(self._db.query(query, (subject, digest)))

    def digests(self, image: str) -> list[str]:
        """Of all that is kept of the image."""
        query = "SELECT DISTINCT digest FROM image_attachments WHERE image = ?"
        return [digest for (digest,) in self._db.query(query, (image,))]

    def drop(self, image: str) -> None:
        """Forget those of an image; the caller removes the blobs that nothing needs any more."""
        self._db.execute("DELETE FROM image_attachments WHERE image = ?", (image,))

    def all(self) -> set[str]:
        """The digests of every image's."""
        return {digest for (digest,) in self._db.query("SELECT DISTINCT digest FROM image_attachments")}
