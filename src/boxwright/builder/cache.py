"""The cache of steps: (image below, instruction with the digest of what it copies, configuration) → image.

With `--cache-from` only what those images were made by counts: an image of ours that one of them stands on, or the next
step of one whose history begins like ours.
"""

import hashlib
import time
from collections.abc import Sequence

import msgspec

from boxwright.builder.state import State
from boxwright.db.connection import Database
from boxwright.images.distribution import platforms
from boxwright.images.image import Image
from boxwright.images.store import ImageStore

# Steps that are remembered; the longest unused are forgotten.
_MOST = 20_000


def trim(db: Database) -> None:
    """Forget the steps that have been unused for longest, and those whose image is gone."""
    with db.transaction():
        db.execute("DELETE FROM build_steps WHERE image NOT IN (SELECT id FROM images)")
        db.execute(
            "DELETE FROM build_steps WHERE key IN (SELECT key FROM build_steps ORDER BY used DESC LIMIT -1 OFFSET ?)",
            (_MOST,),
        )


class Step:
    """What is about to be made: what the history says of it, and what its result depends on besides."""

    __slots__ = ("created_by", "extra", "state")

    def __init__(self, state: State, created_by: str, extra: Sequence[str] = ()) -> None:
        self.state, self.created_by, self.extra = state, created_by, list(extra)

    @property
    def key(self) -> str:
        """The digest of everything that the result depends on."""
        state = self.state
        parts = [
            state.image.id if state.image else platforms.text(state.platform),
            self.created_by,
            msgspec.json.encode(state.config).decode(),
            state.author,
            *self.extra,
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


class Cache:
    """The table, and the images of `--cache-from` of one build."""

    def __init__(
        self, db: Database, images: ImageStore, sources: Sequence[Image] = (), restricted: bool = False
    ) -> None:
        """sources: the images of --cache-from that are here.  restricted: whether there was one."""
        self._db, self._images, self._sources, self._restricted = db, images, sources, restricted

    def find(self, step: Step) -> Image | None:
        """The image that the step made before, if it is still there."""
        rows = self._db.query("SELECT image FROM build_steps WHERE key = ?", (step.key,))
        image = self._images.find(rows[0][0]) if rows else None
        if image is None or (self._restricted and not any(self._stands_on(source, image) for source in self._sources)):
            return None
        self._db.execute("UPDATE build_steps SET used = ? WHERE key = ?", (int(time.time()), step.key))
        return image

    def find_layer(self, step: Step) -> list[str] | None:
        """The diff ids after this step in an image of `--cache-from` whose history begins like ours."""
        below = step.state.image
        history = below.parsed.history if below else []
        diff_ids = below.parsed.rootfs.diff_ids if below else []
        for source in self._sources:
            theirs = source.parsed.history
            if len(theirs) <= len(history) or theirs[len(history)].created_by != step.created_by:
                continue
            same = all(
                (ours.created_by, ours.empty_layer) == (other.created_by, other.empty_layer)
                for ours, other in zip(history, theirs, strict=False)
            )
            count = len(diff_ids) + (not theirs[len(history)].empty_layer)
            found = source.parsed.rootfs.diff_ids[:count]
            if same and found[: len(diff_ids)] == diff_ids and len(found) == count:
                return found
        return None

    def remember(self, key: str, image: str) -> None:
        """The step with this key has made the image."""
        self._db.execute("INSERT OR REPLACE INTO build_steps VALUES (?, ?, ?)", (key, image, int(time.time())))

    def _stands_on(self, source: Image, image: Image) -> bool:
        current: Image | None = source
        while current is not None:
            if current.id == image.id:
                return True
            current = self._images.find(current.parent) if current.parent else None
        return False
