"""The layers that exist, by chain id, and who keeps them: images, snapshots, layers above, and leases.

A chain id names a layer together with everything below it (OCI image-spec, "Layer ChainID").
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from boxwright.db.connection import Database
from boxwright.errdefs import NotFound

# The kernel refuses an overlay with more (OVL_MAX_STACK).
MOST_LAYERS = 500


class Layer(NamedTuple):
    """One row: `directory` is relative to the snapshotter's root, `size` the sum of the file sizes in bytes.

    archive: length of the uncompressed archive in bytes, or -1 when there is no record of it (see record.py).
    """

    chain_id: str
    directory: str
    diff_id: str
    parent: str | None
    size: int
    archive: int = -1


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain id of each layer, base first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else diff_id)
    return chain


class LayerTable:
    """Rows of `layers`, and leases: counts in memory of those who are about to depend on a layer.

    A crash drops the leases, and what they alone kept is collected at the next start.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._leases: Counter[str] = Counter()

    def get(self, chain_id: str) -> Layer:
        """Raises NotFound."""
        rows = self._db.query("SELECT * FROM layers WHERE chain_id = ?", (chain_id,))
        if not rows:
            raise NotFound(f"layer {chain_id} does not exist")
        return Layer(*rows[0])

    def __contains__(self, chain_id: str) -> bool:
        return bool(self._db.query("SELECT 1 FROM layers WHERE chain_id = ?", (chain_id,)))

    def all(self) -> list[Layer]:
        """Every layer, in no order."""
        return [Layer(*row) for row in self._db.query("SELECT * FROM layers")]

    def insert(self, layer: Layer) -> None:
        """The layer's bytes are in place: make it exist."""
        self._db.execute("INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?)", layer)

    def delete(self, chain_id: str) -> None:
        """Forget the row; the caller discards the bytes afterwards."""
        self._db.execute("DELETE FROM layers WHERE chain_id = ?", (chain_id,))

    def above(self, chain_id: str) -> bool:
        """Whether a layer or a snapshot stands on this one, or a lease holds it."""
        return bool(
            self._leases[chain_id]
            or self._db.query(
                "SELECT 1 FROM layers WHERE parent = ? UNION ALL SELECT 1 FROM snapshots WHERE base = ? LIMIT 1",
                (chain_id, chain_id),
            )
        )

    @contextmanager
    def lease(self, chain: Sequence[str]) -> Iterator[None]:
        """Keep these layers, those that exist and those that will, while the body runs."""
        self._leases.update(chain)
        try:
            yield
        finally:
            self._leases.subtract(chain)
            self._leases += Counter()
