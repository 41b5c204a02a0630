"""`docker images`: the list and its filters."""

import re
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from boxwright.errdefs import InvalidParameter
from boxwright.images import inspect
from boxwright.images.image import Image
from boxwright.images.reference import Reference
from boxwright.specs.image import seconds

if TYPE_CHECKING:
    from boxwright.images.store import ImageStore

Filters = dict[str, list[str]]
_ACCEPTED = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})
_TRUE, _FALSE = frozenset({"true", "1"}), frozenset({"false", "0"})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def images(
    store: "ImageStore", all: bool, filters: Filters, shared_size: bool, manifests: bool
) -> list[dict[str, Any]]:
    """The body of `GET /images/json`, newest first.

    all: intermediate images too.  filters: name → values.  manifests: with the manifest of each image.
    Raises InvalidParameter, NotFound for an image in a filter.
    """
    for name in filters:
        if name not in _ACCEPTED:
            raise InvalidParameter(f"invalid filter '{name}'")
    dangling = boolean("dangling", filters.get("dangling", []))
    tests = checks(store, filters)
    patterns = [_pattern(text) for text in filters.get("reference", [])]
    found = [image for image in store.all() if all_pass(tests, image)]
    shared = _shared(store, found) if shared_size else {}
    rows = []
    for image in found:
        names = [name for name in store.names(image.id) if not patterns or _matches(name, patterns)]
        tags = [str(name) for name in names if not name.digest]
        digests = [str(name) for name in names if name.digest]
        if not names:
            intermediate = bool(store.children(image.id)) and not all
            if patterns or intermediate or dangling is False:
                continue
        elif dangling and tags:
            continue
        rows.append(_row(image, tags, digests, shared.get(image.id, -1)))
        if manifests:
            rows[-1]["Manifests"] = inspect.manifests(store, image)
    return sorted(rows, key=lambda row: -row["Created"])


def all_pass(tests: list[Callable[[Image], bool]], image: Image) -> bool:
    """Whether every test accepts the image."""
    return all(test(image) for test in tests)


def _row(image: Image, tags: list[str], digests: list[str], shared: int) -> dict[str, Any]:
    return {
        "Containers": -1,
        "Created": image.created,
        "Id": image.id,
        "Labels": image.parsed.config.labels,
        "ParentId": image.parent,
        "RepoDigests": digests,
        "RepoTags": tags,
        "SharedSize": shared,
        "Size": image.size,
    }


def _shared(store: "ImageStore", found: list[Image]) -> dict[str, int]:
    """Bytes of each image's layers that another image has too."""
    users = Counter(chain_id for image in store.all() for chain_id in set(image.chain_ids))
    return {
        image.id: sum(store.snapshotter.layer_size(layer) for layer in image.chain_ids if users[layer] > 1)
        for image in found
    }


def checks(store: "ImageStore", filters: Filters) -> list[Callable[[Image], bool]]:
    """What the filters before, since, until and label ask of an image.  Raises InvalidParameter, NotFound."""
    tests: list[Callable[[Image], bool]] = []
    for text in filters.get("before", []):
        limit = store.get(text).created
        tests.append(lambda image, limit=limit: image.created < limit)  # type: ignore[misc]
    for text in filters.get("since", []):
        limit = store.get(text).created
        tests.append(lambda image, limit=limit: image.created > limit)  # type: ignore[misc]
    for text in filters.get("until", []):
        moment = moment_of(text)
        tests.append(lambda image, moment=moment: image.created < moment)  # type: ignore[misc]
    for text in filters.get("label", []):
        tests.append(lambda image, text=text: _labelled(image, text))  # type: ignore[misc]
    for text in filters.get("label!", []):
        tests.append(lambda image, text=text: not _labelled(image, text))  # type: ignore[misc]
    return tests


def moment_of(text: str) -> float:
    """A time in a filter, as seconds since the epoch: a Unix time, a duration that has passed ("1h30m"), or RFC 3339.

    Raises InvalidParameter.
    """
    try:
        return float(text)
    except ValueError:
        pass
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time() - sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InvalidParameter(f"invalid filter 'until={text}'") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return float(seconds(moment.isoformat()))


def _labelled(image: Image, text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in image.labels and (not equals or image.labels[key] == value)


def boolean(name: str, values: list[str]) -> bool | None:
    """The value of a filter that is true or false, None when it is not given.  Raises InvalidParameter."""
    if not values:
        return None
    given = {value.lower() for value in values}
    if given <= _TRUE:
        return True
    if given <= _FALSE:
        return False
    raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")


def _matches(name: Reference, patterns: list[re.Pattern[str]]) -> bool:
    return any(pattern.fullmatch(str(name)) or pattern.fullmatch(name.familiar_name) for pattern in patterns)


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    """A shell pattern in which neither * nor ? matches a slash (Go's path.Match).  Raises InvalidParameter."""
    parts, position = [], 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "*":
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[":
            end = text.find("]", position + 1)
            if end < 0:
                raise InvalidParameter(f"invalid filter 'reference={text}': syntax error in pattern")
            inside = text[position:end]
            negated = inside.startswith("^")
            parts.append(f"[{'^' if negated else ''}{re.escape(inside[negated:]).replace(chr(92) + '-', '-')}]")
            position = end + 1
        elif character == "\\" and position < len(text):
            parts.append(re.escape(text[position]))
            position += 1
        else:
            parts.append(re.escape(character))
    # Runs of stars would make the matcher try every way to divide the text among them.
    pattern = re.sub(r"(?:\[\^/\]\*)+", "[^/]*", "".join(parts))
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error:
        raise InvalidParameter(f"invalid filter 'reference={text}': syntax error in pattern") from None
