"""The engine's dealings with registries: one value that holds what all of them share."""

import os
from contextlib import aclosing
from typing import Any

from boxwright.config import Settings
from boxwright.errdefs import InvalidParameter
from boxwright.images import reference
from boxwright.images.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN, Reference
from boxwright.images.store import ImageStore

from . import client, errors, hosts, manifests, pull, push, search
from .auth import Credentials
from .http import Http
from .messages import Emit
from .origins import Origins
from .shared import Shared, Slots


class Distribution:
    """Methods are for the loop's thread; all of them take time, and all of them can be cancelled."""

    def __init__(self, store: ImageStore, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.http = Http()
        self.origins = Origins(store.db)
        self.layers = Shared()
        self.downloads = Slots(lambda: settings.max_concurrent_downloads)
        self.uploads = Slots(lambda: settings.max_concurrent_uploads)
        # Those that keep up with a slow download do not keep the processors busy: there is room for others.
        self.unpacks = Slots(lambda: settings.max_concurrent_downloads + (os.cpu_count() or 1))

    async def pull(self, image: str, tag: str, platform: str, who: Credentials, emit: Emit) -> None:
        """`POST /images/create?fromImage=…`; tag: a tag, a digest, or "".  Raises errdefs."""
        await pull.pull(self, target(image, tag), platform, who, emit)

    async def push(
        self, image: str, tag: str, everything: bool, platform: dict[str, Any] | None, who: Credentials, emit: Emit
    ) -> None:
        """`POST /images/x/push`; everything: all tags of the repository; platform: what it has to be for.

        Raises errdefs.
        """
        ref = reference.parse(image)
        if tag:
            ref = ref._replace(tag=reference.parse_tag(tag))
        await push.push(self, ref, everything, who, platform, emit)

    async def login(self, who: Credentials) -> str:
        """`POST /auth`: check the credentials; returns an identity token, or "".  Raises errdefs."""
        domain = _domain(who.server_address)
        with errors.pushing():
            async with aclosing(client.connect(self.http, self.settings, domain, who)) as found:
                return await (await anext(found)).login()

    async def inspect(self, image: str, who: Credentials) -> dict[str, Any]:
        """`GET /distribution/x/json`: what a registry has under a name.  Raises errdefs."""
        ref = reference.parse(image).with_default_tag()
        with errors.pulling(ref):
            async with aclosing(client.connect(self.http, self.settings, ref.domain, who)) as found:
                registry = await anext(found)
            document = await manifests.fetch(registry, ref.path, ref.digest or ref.tag)
            platforms = await manifests.platforms_of(registry, ref.path, document)
        return {
            "Descriptor": {
                "mediaType": document.media_type,
                "digest": document.digest,
                "size": len(document.data),
            },
            "Platforms": [
                {"architecture": one.architecture, "os": one.os} | ({"variant": one.variant} if one.variant else {})
                for one in platforms
            ],
        }

    async def search(
        self, term: str, limit: int, filters: dict[str, list[str]], who: Credentials
    ) -> list[dict[str, Any]]:
        """`GET /images/search`.  Raises errdefs; NotImplemented_ for a registry that has no search."""
        domain, wanted = search.split(term)
        limit = search.check(limit, filters)
        with errors.pushing():
            if domain == DEFAULT_DOMAIN:
                index = await client.bare(self.http, self.settings, LEGACY_DOMAIN)
                return await search.search(index, wanted, limit, filters)
            async with aclosing(client.connect(self.http, self.settings, domain, who)) as found:
                return await search.search(await anext(found), wanted, limit, filters)

    async def close(self) -> None:
        """Close the connections."""
        await self.http.close()


def target(image: str, tag: str) -> Reference:
    """What `fromImage` and `tag` name together.  Raises InvalidParameter."""
    ref = reference.parse(image)
    if tag and ":" in tag:
        return reference.parse(f"{ref.name}@{tag}")
    return ref._replace(tag=reference.parse_tag(tag), digest="") if tag else ref


def _domain(address: str) -> str:
    """The registry of a `serveraddress`: a host, or the URL of one.  Raises InvalidParameter."""
    if not address or address == hosts.HUB_INDEX:
        return DEFAULT_DOMAIN
    host = address.partition("://")[2] if "://" in address else address
    host = host.partition("/")[0]
    if host in (LEGACY_DOMAIN, hosts.HUB, DEFAULT_DOMAIN):
        return DEFAULT_DOMAIN
    try:
        return reference.parse(f"{host}/x").domain if host else DEFAULT_DOMAIN
    except InvalidParameter:
        raise InvalidParameter(f"invalid registry: {address[:200]}") from None
