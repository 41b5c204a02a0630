"""Referrers: what is about an image, beside it in the registry, comes with a pull and goes with a push.

    OCI 1.1     GET /v2/x/referrers/<digest>, or the tag sha256-<hex>, an index: manifests whose `subject` is the digest
    buildx      manifests of the image's own index, for no platform: vnd.docker.reference.digest names the image's

None of them is needed to run the image, so none of them can make a pull fail.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from boxwright.errdefs import Error, InvalidParameter
from boxwright.images import spool
from boxwright.images.attachments import Attachment
from boxwright.images.reference import DEFAULT_DOMAIN, Reference
from boxwright.specs import image as spec
from boxwright.specs.image import Descriptor, Manifest
from boxwright.storage.content import digest_of

from . import manifests, uploads
from .client import LARGEST_DOCUMENT, Registry
from .errors import Refused, Unreachable
from .http import Answer
from .manifests import Resolved

if TYPE_CHECKING:
    from .distribution import Distribution
    from .push import Target

REFERENCE = "vnd.docker.reference.digest"
# Of one image: manifests, and bytes of them and of their blobs.
MOST = 50
LARGEST = 16 << 20
PATIENCE = 10.0  # seconds that a pull gives to all of this
# An index with more manifests than this is not put together again elsewhere.
MOST_MANIFESTS = 100
_WRONG = (Refused, Unreachable, Error)


# -- pull -------------------------------------------------------------------------------------------------------------


class Kept:
    """What one pull finds beside its image."""

    def __init__(self, dist: "Distribution", registry: Registry, name: Reference) -> None:
        self._dist, self._registry, self._repository = dist, registry, name.path
        # Docker Hub counts each manifest that is fetched, and lets few be fetched in an hour.
        self._counted = name.domain == DEFAULT_DOMAIN
        self.found: list[Attachment] = []
        self._count, self._left = MOST, LARGEST

    async def collect(self, resolved: Resolved) -> None:
        """Fill `found`.  What is kept already is not fetched again, what cannot be read in time is left out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._collect(resolved)

    async def _collect(self, resolved: Resolved) -> None:
        digest = resolved.document.digest
        wanted: list[tuple[str, str]] = []
        index = resolved.source
        if index is not None:
            self.found.append(Attachment(digest, index.digest, index.media_type, index.data))
        if self._counted:
            return
        if index is not None:
            entries = index.manifest.manifests
            wanted += [(digest, entry.digest) for entry in entries if entry.annotations.get(REFERENCE) == digest]
        subjects = [digest, *([index.digest] if index else [])]
        for subject, listed in zip(subjects, await asyncio.gather(*map(self._listed, subjects)), strict=True):
            wanted += [(subject, each) for each in listed]
        for subject, each in dict.fromkeys(wanted):
            if self._count and not self._dist.store.attachments.has(subject, each):
                self._count -= 1
                await self._one(subject, each)

    async def _listed(self, subject: str) -> list[str]:
        """The digests of what the registry says is about `subject`."""
        scope = manifests.pull_scope(self._repository)
        for path in (f"referrers/{subject}", f"manifests/{subject.replace(':', '-')}"):
            try:
                url = self._registry.url(f"{self._repository}/{path}")
                answer = await self._registry.call(
                    "GET", url, scope, {"Accept": spec.OCI_INDEX}, what="the list of referrers", tries=1
                )
                listed = spec.decode_manifest(answer.body)
            except (*_WRONG, spec.Invalid):
                continue
            return [entry.digest for entry in listed.manifests]
        return []

    async def _one(self, subject: str, digest: str) -> None:
        """Fetch a referrer and its blobs."""
        try:
            document = await manifests.fetch_any(self._registry, self._repository, digest)
            described = document.manifest.subject
            if described is not None and described.digest != subject:
                return
            got = [Attachment(subject, digest, document.media_type, document.data)]
            for blob in blobs_of(document.manifest):
                if not 0 <= blob.size <= min(LARGEST_DOCUMENT, self._left):
                    return
                got.append(Attachment(digest, blob.digest, "", await self._blob(blob)))
            size = sum(len(each.data) for each in got)
            if size <= self._left:
                self._left -= size
                self.found += got
        except _WRONG:
            return

    async def _blob(self, blob: Descriptor) -> bytes:
        url = self._registry.url(f"{self._repository}/blobs/{blob.digest}")
        scope = manifests.pull_scope(self._repository)
        answer = await self._registry.call("GET", url, scope, what="a blob of a referrer", tries=1)
        if digest_of(answer.body) != blob.digest:
            raise InvalidParameter(f"a blob of a referrer has not the digest {blob.digest}")
        return answer.body


def blobs_of(manifest: Manifest) -> list[Descriptor]:
    """What a manifest names, each once."""
    named = [*([manifest.config] if manifest.config.digest else []), *manifest.layers]
    return list({blob.digest: blob for blob in named}.values())


# -- push -------------------------------------------------------------------------------------------------------------


async def push(target: "Target", image: str, subject: str) -> None:
    """Send what is kept about the manifest or index `subject`, which the repository has.

    What the registry does not take is told, and left out.
    """
    attachments = target.dist.store.attachments
    for each in reversed(attachments.of(image, subject)):
        if each.is_index or not each.media_type:
            continue
        try:
            for blob in attachments.of(image, each.digest):
                await _blob(target, blob)
            await _manifest(target, subject, each)
        except _WRONG as error:
            target.emit({"status": f"{each.digest}: a referrer of {subject} is left out: {error}"})


async def index_for(target: "Target", image: str, digest: str) -> Attachment | None:
    """The index that the manifest `digest` was chosen from, if the repository has everything that it names."""
    for each in target.dist.store.attachments.of(image, digest):
        if not each.is_index:
            continue
        named = {entry.digest for entry in spec.decode_manifest(each.data).manifests}
        if len(named) > MOST_MANIFESTS:
            continue
        if all(await asyncio.gather(*(_has(target, one) for one in named))):
            return each
    return None


async def _has(target: "Target", digest: str) -> bool:
    headers = {"Accept": manifests.ACCEPT}
    url = target.url(f"manifests/{digest}")
    try:
        answer = await target.registry.call("HEAD", url, target.scopes, headers, ok=(200, 404))
    except Refused:
        return False
    return answer.status == 200


async def _blob(target: "Target", blob: Attachment) -> None:
    if await target.has(blob.digest):
        return
    with spool.unnamed(target.dist.store.spool.directory) as fd:
        spool.write(fd, [blob.data], 0)
        await uploads.upload(target, uploads.Blob(fd, blob.digest, len(blob.data)), lambda position: None)


async def _manifest(target: "Target", subject: str, referrer: Attachment) -> None:
    answer = await put(target, referrer.digest, referrer.media_type, referrer.data)
    parsed = spec.decode_manifest(referrer.data)
    if parsed.subject is None or answer.headers.get("OCI-Subject"):
        return
    # The registry keeps no list of its own: the tag is the list.
    tag = subject.replace(":", "-")
    try:
        listed = await manifests.fetch_any(target.registry, target.path, tag)
        data = listed.data if listed.is_index else b""
    except (Refused, Unreachable, Error):
        data = b""
    entry = {
        "mediaType": referrer.media_type,
        "digest": referrer.digest,
        "size": len(referrer.data),
        "artifactType": parsed.artifact_type or parsed.config.media_type,
        "annotations": parsed.annotations,
    }
    document = spec.with_manifest(data, {name: value for name, value in entry.items() if value})
    if document != data:
        await put(target, tag, spec.OCI_INDEX, document)


async def put(target: "Target", name: str, media_type: str, data: bytes) -> Answer:
    """Make a manifest or an index be what the tag or digest `name` stands for."""
    return await target.registry.call(
        "PUT",
        target.url(f"manifests/{name}"),
        target.scopes,
        {"Content-Type": media_type},
        lambda: data,
        ok=(200, 201, 202),
    )
