"""The image store: which images exist, and what they are called.

An image is a row and its configuration, a blob; its layers are the snapshotter's.  Names are rows of their own.  Blob
and layers come first and the rows last, in one transaction, so that an image that exists is whole.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar

from boxwright.confined import Jobs
from boxwright.db.connection import Database
from boxwright.errdefs import InvalidParameter, NotFound, System
from boxwright.images import committing, hostfs, importing, inspect, listing, load, prune, reference, removal, save
from boxwright.images.attachments import Attachment, Attachments
from boxwright.images.image import Image, check_platform
from boxwright.images.originals import Originals
from boxwright.images.reference import Reference
from boxwright.specs import image as spec
from boxwright.storage.content import ContentStore, digest_of
from boxwright.storage.layers import chain_ids
from boxwright.storage.snapshotter import Snapshotter
from boxwright.trees.trash import Trash

T = TypeVar("T")

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_CACHED = 1024  # images, and what they were asked for by, kept in memory
_LARGEST_CACHED = 128 << 10  # bytes of configuration: larger ones are hostile or rare

Body = dict[str, Any]
Rows = list[Body]
Names = list[str]
Emit = Callable[[Body], None]
InUse = Callable[[str], Sequence[tuple[str, bool]]]


class Publish(Protocol):
    """The event bus's `publish`."""

    def __call__(self, type: str, action: str, id: str, attributes: dict[str, str], /) -> object: ...


class ImageStore:
    """Methods are for the loop's thread; only `load`, `import_`, `commit` and the stream of `save` take time."""

    def __init__(
        self,
        db: Database,
        content: ContentStore,
        snapshotter: Snapshotter,
        jobs: Jobs,
        data_root: str,
        publish: Publish,
        *,
        hostfs: bool = False,
        private: Sequence[str] = (),
    ) -> None:
        """hostfs: offer the host's own root as an image.  private: more paths that it must not show."""
        self.db = db
        self.content = content
        self.snapshotter = snapshotter
        self.jobs = jobs
        self.publish = publish
        self.originals = Originals(db, content)
        self.attachments = Attachments(db, content)
        self.spool = Trash(f"{data_root}/tmp")
        self._hostfs = hostfs
        self._private = [data_root, *private]
        self._held: Counter[str] = Counter()
        # Found by id, and by whatever was asked for; emptied by every change.
        self._images: OrderedDict[str, Image] = OrderedDict()
        self._asked: OrderedDict[str, str] = OrderedDict()
        snapshotter.needed = self._is_top

    # -- finding -------------------------------------------------------------------------------------------------------

    def get(self, text: str) -> Image:
        """The image called `text`: a name, a name with a digest, an id or a unique beginning of one.

        Raises NotFound("No such image: x:latest"), InvalidParameter("invalid reference format").
        """
        known = self._asked.get(text)
        if known is not None:
            return self.load_row(known)
        parsed = reference.parse_any(text)
        if isinstance(parsed, Reference):
            if self._hostfs and parsed.with_default_tag() == hostfs.REFERENCE:
                return hostfs.image(self._private)
            found = self.named(parsed)
            if found is not None:
                _remember(self._asked, text, found)
                return self.load_row(found)
        identifier = self._by_prefix(text)
        if identifier is None:
            shown = parsed if isinstance(parsed, str) else str(parsed.with_default_tag())
            raise NotFound(f"No such image: {shown}")
        _remember(self._asked, text, identifier)
        return self.load_row(identifier)

    def find(self, text: str) -> Image | None:
        """As `get`, but None for what is not there or is no reference."""
        try:
            return self.get(text)
        except (NotFound, InvalidParameter):
            return None

    def load_row(self, identifier: str) -> Image:
        """The image with this whole id.  Raises NotFound."""
        image = self._images.get(identifier)
        if image is None:
            rows = self.db.query("SELECT parent, created, size, tagged FROM images WHERE id = ?", (identifier,))
            if not rows:
                raise NotFound(f"No such image: {identifier}")
            data = self.content.get(identifier)
            image = self._read(identifier, spec.decode_config(data), *rows[0])
            if len(data) <= _LARGEST_CACHED:
                _remember(self._images, identifier, image)
        return image

    def _read(
        self, identifier: str, config: spec.ImageConfig, parent: str, created: int, size: int, tagged: str
    ) -> Image:
        names = self.names(identifier)
        return Image(
            identifier,
            config,
            chain_ids(config.rootfs.diff_ids),
            size=size,
            created=created,
            parent=parent,
            tagged=tagged,
            repo_tags=[str(name) for name in names if not name.digest],
            repo_digests=[str(name) for name in names if name.digest],
        )

    def all(self) -> list[Image]:
        """Every image, in no order."""
        return [self.load_row(identifier) for (identifier,) in self.db.query("SELECT id FROM images")]

    def names(self, identifier: str) -> list[Reference]:
        """What the image is called, tags and digests."""
        rows = self.db.query(
            "SELECT name, tag, digest FROM image_names WHERE image = ? ORDER BY name, tag, digest", (identifier,)
        )
        return [Reference.of(name, tag, digest) for name, tag, digest in rows]

    def children(self, identifier: str) -> list[str]:
        """Ids of the images that were made out of this one, on this host."""
        return [row[0] for row in self.db.query("SELECT id FROM images WHERE parent = ?", (identifier,))]

    def repository(self, name: str) -> Sequence[tuple[Reference, str]]:
        """The tags of a repository (normalised name), and the ids of their images."""
        rows = self.db.query("SELECT tag, image FROM image_names WHERE name = ? AND tag != '' ORDER BY tag", (name,))
        return [(Reference.of(name, tag, ""), image) for tag, image in rows]

    def named(self, wanted: Reference) -> str | None:
        """The id of the image with this name, if there is one."""
        tag, digest = ("", wanted.digest) if wanted.digest else (wanted.with_default_tag().tag, "")
        rows = self.db.query(
            "SELECT image FROM image_names WHERE name = ? AND tag = ? AND digest = ?", (wanted.name, tag, digest)
        )
        return rows[0][0] if rows else None

    def _by_prefix(self, text: str) -> str | None:
        match = _ID.fullmatch(text)
        if match is None:
            return None
        start = f"sha256:{match[1]}"
        rows = self.db.query("SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", (start, start + "g"))
        return rows[0][0] if len(rows) == 1 else None

    # -- showing -------------------------------------------------------------------------------------------------------

    def list(
        self,
        all: bool = False,
        filters: dict[str, list[str]] | None = None,
        shared_size: bool = False,
        manifests: bool = False,
    ) -> Rows:
        """`GET /images/json`.  Raises InvalidParameter for a filter that does not exist."""
        return listing.images(self, all, filters or {}, shared_size, manifests)

    def inspect(self, text: str, manifests: bool = False, platform: Body | None = None) -> Body:
        """`GET /images/x/json`.  platform: as OCI's JSON has it.  Raises as `get` and `check_platform` do."""
        found = self.get(text)
        if platform is not None:
            check_platform(found, platform)
        body = inspect.image(self, found)
        return {**body, "Manifests": inspect.manifests(self, found)} if manifests else body

    def history(self, text: str) -> Rows:
        """`GET /images/x/history`.  Raises as `get` does."""
        return inspect.history(self, self.get(text))

    # -- changing ------------------------------------------------------------------------------------------------------

    def add(
        self, config: bytes, names: Sequence[Reference], parent: str = "", manifest: tuple[str, bytes] | None = None
    ) -> str:
        """Make an image out of its configuration; its layers exist and are leased by the caller.  Returns the id.

        A name that another image has is taken from it.  manifest: what it came with, media type and bytes.
        """
        parsed = spec.decode_config(config)
        chain = chain_ids(parsed.rootfs.diff_ids)
        size = sum(self.snapshotter.layer_size(layer) for layer in chain)
        identifier = self.content.put(config)
        original = ""
        surplus: Names = []
        try:
            original = self.content.put(manifest[1]) if manifest else ""
            with self.db.transaction():
                self.db.execute(
                    "INSERT INTO images VALUES (?, ?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
                    (identifier, chain[-1] if chain else "", parent, spec.seconds(parsed.created), size),
                )
                for name in names:
                    self._set_name(name, identifier)
                if manifest:
                    self.originals.keep(identifier, manifest[0], original)
                    surplus = self.originals.surplus(identifier)
                    self.originals.drop(surplus)
        except BaseException:
            with suppress(System):  # then the next start finds them
                self._drop_blobs([identifier, *([original] if original else [])])
            raise
        self._changed()
        self._drop_blobs(surplus)
        return identifier

    def attach(self, identifier: str, found: Iterable[Attachment]) -> None:
        """Keep what came beside the image; not if it was removed meanwhile."""
        found = list(found)
        if not self.db.query("SELECT 1 FROM images WHERE id = ?", (identifier,)):
            return
        try:
            for each in found:
                self.content.put(each.data)
            with self.db.transaction():
                surplus = self.attachments.keep(identifier, found)
        except BaseException:
            with suppress(System):
                self._drop_blobs([digest_of(each.data) for each in found])
            raise
        self._drop_blobs(surplus)

    def tag(self, text: str, repo: str, tag: str = "") -> None:
        """`POST /images/x/tag`.  Raises as `get` does, and InvalidParameter for a name that cannot be."""
        target = reference.parse(repo)
        if target.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        target = target._replace(tag=reference.parse_tag(tag) if tag else target.with_default_tag().tag)
        image = self.get(text)
        if image.mounts or image.masked_paths or target == hostfs.REFERENCE:
            raise InvalidParameter(f"{hostfs.NAME} is the name of a built-in image")
        with self.db.transaction():
            self._set_name(target, image.id)
        self._changed()
        self.announce("tag", image, str(target))

    def remove(self, text: str, force: bool, noprune: bool, in_use: InUse) -> Sequence[dict[str, str]]:
        """`DELETE /images/x`.  in_use: image id → its containers, (id, running).

        Raises as `get` does, and Conflict.
        """
        return removal.remove(self, text, force, noprune, in_use)

    def prune(self, filters: dict[str, Names], in_use: InUse) -> Body:
        """`POST /images/prune`.  Raises InvalidParameter for a filter that does not exist."""
        return prune.prune(self, filters, in_use)

    def save(self, names: Sequence[str], platform: Body | None = None) -> AsyncGenerator[bytes, None]:
        """`GET /images/get`: the images as one archive, see `save.py`.  platform: as OCI's JSON has it.

        Raises NotFound, InvalidParameter, System.
        """
        return save.save(self, names, platform)

    async def commit(
        self,
        stream: AsyncIterator[bytes],
        parent: Image,
        wanted: committing.Wanted,
        name: Reference | None,
    ) -> str:
        """`POST /commit`: an image of a layer's archive above `parent`; returns its id.  See `committing.py`."""
        return await committing.commit(self, stream, parent, wanted, name)

    def forget(self, image: Image) -> Sequence[str]:
        """Delete the row of an image that has no names any more, its blob and what no other image needs of its layers.

        Returns the chain ids of the layers that went, topmost first.
        """
        originals = self.originals.digests(image.id)
        blobs = [image.id, *originals, *self.attachments.digests(image.id)]
        with self.db.transaction():
            self.originals.drop(originals)
            self.attachments.drop(image.id)
            self.db.execute("DELETE FROM images WHERE id = ?", (image.id,))
        self._changed()
        self._drop_blobs(blobs)
        return self.snapshotter.release_layer(image.chain_ids[-1]) if image.chain_ids else []

    def also_called(self, identifier: str, name: Reference) -> None:
        """Give the image one more name, of a repository that has it now; not if it was removed meanwhile."""
        with self.db.transaction():
            if not self.db.query("SELECT 1 FROM images WHERE id = ?", (identifier,)):
                return
            self._set_name(name, identifier)
        self._changed()

    def unname(self, name: Reference) -> None:
        """Take a name away."""
        self.db.execute(
            "DELETE FROM image_names WHERE name = ? AND tag = ? AND digest = ?", (name.name, name.tag, name.digest)
        )
        self._changed()

    def _drop_blobs(self, digests: Sequence[str]) -> None:
        """Remove blobs, but those that are something else as well: a stranger's bytes may be both."""
        for digest in digests:
            query = (
                "SELECT 1 FROM images WHERE id = ? UNION SELECT 1 FROM image_manifests WHERE digest = ?"
                " UNION SELECT 1 FROM image_attachments WHERE digest = ?"
            )
            if not self.db.query(query, (digest, digest, digest)):
                self.content.remove(digest)

    def _changed(self) -> None:
        self._images.clear()
        self._asked.clear()

    def announce(self, action: str, image: Image, name: str) -> None:
        """Tell the bus; the attributes are the image's labels and its name."""
        self.publish("image", action, image.id, {**image.labels, "name": name})

    async def load(self, stream: AsyncIterator[bytes], quiet: bool, emit: Emit) -> Sequence[str]:
        """`POST /images/load`: read an archive of images; returns their ids.  See `load.py`."""
        return await load.load(self, stream, quiet, emit)

    async def import_(
        self,
        stream: AsyncIterator[bytes],
        repo: str = "",
        tag: str = "",
        changes: Sequence[str] = (),
        message: str = "",
        platform: str = "",
        emit: Emit | None = None,
    ) -> str:
        """`POST /images/create?fromSrc=-`: make an image of one file system archive; returns its id."""
        return await importing.import_(self, stream, repo, tag, changes, message, platform, emit)

    @contextmanager
    def hold(self, identifier: str) -> Iterator[None]:
        """Keep the image while the body runs: what is about to use it is not written down yet."""
        self._held[identifier] += 1
        try:
            yield
        finally:
            self._held[identifier] -= 1
            self._held += Counter()

    @contextmanager
    def reading(self, images: Iterable[Image]) -> Iterator[None]:
        """Keep the layers of the images while the body runs, whatever becomes of the images.

        Whoever removes one meanwhile meets no conflict; layers that only the body still needed go after it.
        """
        chains = [image.chain_ids for image in images]
        try:
            with ExitStack() as leases:
                for chain in chains:
                    leases.enter_context(self.snapshotter.lease(chain))
                yield
        finally:
            for chain in chains:
                self.collect(chain)

    def held(self, identifier: str) -> bool:
        """Whether somebody is about to use the image."""
        return bool(self._held[identifier])

    def collect(self, chain: Sequence[str]) -> None:
        """Remove the layers of a chain (base first) that nothing needs."""
        for chain_id in reversed(chain):
            self.snapshotter.release_layer(chain_id)

    def reconcile(self) -> None:
        """At engine start, after the snapshotter's: remove blobs and layers that no image needs."""
        images = {row[0] for row in self.db.query("SELECT id FROM images")}
        self.content.reconcile(images | self.originals.all() | self.attachments.all())
        for (chain_id,) in self.db.query(
            "SELECT chain_id FROM layers WHERE chain_id NOT IN (SELECT parent FROM layers WHERE parent IS NOT NULL)"
        ):
            self.snapshotter.release_layer(chain_id)

    def close(self) -> None:
        """Finish deleting what was spooled."""
        self.spool.close()

    def _is_top(self, chain_id: str) -> bool:
        return bool(self.db.query("SELECT 1 FROM images WHERE top = ? LIMIT 1", (chain_id,)))

    def _set_name(self, name: Reference, identifier: str) -> None:
        self.db.execute(
            "INSERT INTO image_names VALUES (?, ?, ?, ?)"
            " ON CONFLICT (name, tag, digest) DO UPDATE SET image = excluded.image",
            (name.name, name.tag, name.digest, identifier),
        )
        tagged = spec.this_moment()
        self.db.execute("UPDATE images SET tagged = ? WHERE id = ?", (tagged, identifier))


def _remember(cache: OrderedDict[str, T], key: str, value: T) -> None:
    cache[key] = value
    if len(cache) > _CACHED:
        cache.popitem(last=False)
