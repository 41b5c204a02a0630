"""Blobs by digest: image configs and manifests, as the bytes they were received as.

    content/blobs/sha256/<hex>

Content first, by rename, then the row; a file without a row is swept at the next start.
"""

import hashlib
import os
import re

from boxwright.db.connection import Database
from boxwright.errdefs import InvalidParameter, NotFound, System
from boxwright.trees.trash import Trash

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check_digest(digest: object) -> str:
    """`digest` if it is a well-formed sha256 digest.  Raises InvalidParameter with the OCI library's texts."""
    if not isinstance(digest, str) or ":" not in digest:
        raise InvalidParameter("invalid checksum digest format")
    algorithm, _, value = digest.partition(":")
    if algorithm not in ("sha256",):
        raise InvalidParameter("unsupported digest algorithm")
    if not _DIGEST.fullmatch(digest):
        raise InvalidParameter("invalid checksum digest " + ("length" if len(value) != 64 else "format"))
    return digest


def digest_of(data: bytes) -> str:
    """The sha256 digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class ContentStore:
    """Small blobs (a few MiB at most), read and written whole."""

    def __init__(self, data_root: str, db: Database, trash: Trash) -> None:
        self._root = f"{data_root}/content/blobs/sha256"
        os.makedirs(self._root, 0o710, exist_ok=True)
        self._db = db
        self._trash = trash

    def put(self, data: bytes) -> str:
        """Store `data` and return its digest."""
        digest = digest_of(data)
        if digest not in self:
            staged, path = self._trash.place("blob"), self._path(digest)
            try:
                with open(staged, "xb") as file:
                    file.write(data)
                os.rename(staged, path)
                self._db.execute("INSERT INTO blobs VALUES (?, ?)", (digest, len(data)))
            except BaseException:
                self._trash.discard(staged)
                self._trash.discard(path)
                raise
        return digest

    def get(self, digest: str) -> bytes:
        """The blob's bytes, verified.  Raises NotFound, and System when the disk changed them."""
        try:
            with open(self._path(digest), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise NotFound(f"content digest {digest}: not found") from None
        if digest_of(data) != digest:
            raise System(f"content digest {digest}: the bytes on disk are others")
        return data

    def __contains__(self, digest: str) -> bool:
        return bool(self._db.query("SELECT 1 FROM blobs WHERE digest = ?", (digest,)))

    def remove(self, digest: str) -> None:
        """Forget the blob; no error when there is none."""
        self._db.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
        self._trash.discard(self._path(digest))

    def reconcile(self, keep: set[str]) -> None:
        """At engine start: remove blobs that are not in `keep`, and files without a row."""
        for (digest,) in self._db.query("SELECT digest FROM blobs"):
            if digest not in keep:
                self.remove(digest)
        for name in os.listdir(self._root):
            if f"sha256:{name}" not in self:
                self._trash.discard(f"{self._root}/{name}")

    def _path(self, digest: str) -> str:
        return f"{self._root}/{check_digest(digest)[7:]}"
