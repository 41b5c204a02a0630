"""`docker search`: the search of Docker Hub's first API, which some other registries have, too."""

from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from boxwright.errdefs import InvalidParameter, NotImplemented_
from boxwright.images.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

from .client import Registry
from .errors import Refused

MOST, USUAL = 100, 25
_FILTERS = ("is-automated", "is-official", "stars")


class _Found(Struct):
    name: str = ""
    description: str | None = ""
    star_count: int | None = 0
    is_official: bool | None = False
    is_automated: bool | None = False


class _Answer(Struct):
    results: list[_Found] | None = None


def split(term: str) -> tuple[str, str]:
    """(registry, term) of "[REGISTRY/]TERM".  Raises InvalidParameter."""
    if "://" in term:
        raise InvalidParameter(f"invalid repository name: repository name ({term}) should not have a scheme")
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        domain, term = (DEFAULT_DOMAIN if first == LEGACY_DOMAIN else first), rest
    else:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN:
        term = term.removeprefix("library/")
    return domain, term


def check(limit: int, filters: dict[str, list[str]]) -> int:
    """How many results are wanted.  Raises InvalidParameter."""
    for name in filters:
        if name not in _FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")
    for name in ("is-automated", "is-official"):
        if any(value.lower() not in ("true", "false", "1", "0") for value in filters.get(name, [])):
            raise InvalidParameter(f"invalid filter '{name}={filters[name][0]}'")
    for value in filters.get("stars", []):
        if not value.isdigit() or len(value) > 9:
            raise InvalidParameter(f"invalid filter 'stars={value}'")
    if limit == 0:
        return USUAL
    if not 1 <= limit <= MOST:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, {MOST}]")
    return limit


async def search(registry: Registry, term: str, limit: int, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Raises Refused, Unreachable, NotImplemented_ for a registry that has no search."""
    url = f"{registry.endpoint.base}/v1/search?{urlencode({'q': term, 'n': limit})}"
    try:
        answer = await registry.call("GET", url, [], what="the search's result")
        found = msgspec.json.decode(answer.body, type=_Answer).results or []
    except Refused as error:
        if error.status not in (404, 405):
            raise
        raise NotImplemented_(f"the registry {registry.endpoint.host} has no search") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NotImplemented_(f"the registry {registry.endpoint.host} has no search: {error}") from None
    return [_shown(one) for one in found[:limit] if _wanted(one, filters)]


def _wanted(found: _Found, filters: dict[str, list[str]]) -> bool:
    for name, value in (("is-official", found.is_official), ("is-automated", found.is_automated)):
        asked = [text.lower() in ("true", "1") for text in filters.get(name, [])]
        if asked and bool(value) not in asked:
            return False
    return all((found.star_count or 0) >= int(text) for text in filters.get("stars", []))


def _shown(found: _Found) -> dict[str, Any]:
    return {
        "name": found.name,
        "description": found.description or "",
        "star_count": found.star_count or 0,
        "is_official": bool(found.is_official),
        "is_automated": bool(found.is_automated),
    }
