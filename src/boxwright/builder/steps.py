"""One step: found in the cache, or made: an image with one entry of history, and perhaps one layer, more."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from boxwright.builder.arguments import EPOCH, Global
from boxwright.errdefs import InvalidParameter
from boxwright.images import committing
from boxwright.images.image import Image
from boxwright.specs.image import History, Platform, encode_config, this_moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.builder.cache import Cache, Step
    from boxwright.builder.cache_mounts import CacheMounts
    from boxwright.builder.context import Context
    from boxwright.builder.dockerfile.stages import Dockerfile
    from boxwright.builder.output import Voice
    from boxwright.builder.state import State
    from boxwright.engine.engine import Engine
    from boxwright.types.build import BuildOptions


class Work(NamedTuple):
    """What the steps of one build share.  results: the states of stages that are built, by number.

    epoch: every time in the images is this, seconds since the epoch, or None.  kept: what is held until the end.
    target: what the image is for.
    """

    eng: Engine
    options: BuildOptions
    dockerfile: Dockerfile
    arguments: Global
    context: Context
    cache: Cache
    caches: CacheMounts
    results: dict[int, State]
    epoch: int | None
    kept: ExitStack
    target: Platform

    def hold(self, image: Image) -> Image:
        """Nobody removes the image before the build ends."""
        self.kept.enter_context(self.eng.images.hold(image.id))
        return image


def epoch(given: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH of the request.  Raises InvalidParameter."""
    text = given.get(EPOCH, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InvalidParameter(f"invalid {EPOCH}: {text[:100]}")
    return int(text)


async def from_cache(work: Work, step: Step, voice: Voice) -> bool:
    """Go on with the image that the step has made before; false when there is none."""
    if work.options.no_cache:
        return False
    state = step.state
    image = work.cache.find(step)
    if image is None:
        layers = work.cache.find_layer(step)
        if layers is None:
            return False
        # The image of --cache-from, which is held, keeps the layers.
        empty = len(layers) == (len(state.image.parsed.rootfs.diff_ids) if state.image else 0)
        config = _config(work, step, layers, empty)
        image = work.eng.images.load_row(work.eng.images.add(config, [], state.image.id if state.image else ""))
        work.cache.remember(step.key, image.id)
    state.image = work.hold(image)
    await voice.say(" ---> Using cache\n")
    return True


async def make(work: Work, step: Step, archive: int | None) -> None:
    """Go on with a new image.  archive: the layer's, a regular file, or None.  Raises as `committing.add` does."""
    state = step.state
    key = step.key
    identifier = await committing.add(
        work.eng.images, archive, state.image, lambda diff_ids, empty: _config(work, step, diff_ids, empty)
    )
    state.image = work.hold(work.eng.images.load_row(identifier))
    work.cache.remember(key, identifier)


def now(work: Work) -> int:
    """The time that files are made at, seconds since the epoch."""
    return int(time.time()) if work.epoch is None else work.epoch


def empty(work: Work, state: State) -> bytes:
    """An image of no files: what the first RUN of a stage from scratch runs in."""
    return encode_config(msgspec.structs.replace(state.parsed, created=moment(work), config=state.config))


def moment(work: Work) -> str:
    """When an image is made, as its configuration says it."""
    if work.epoch is None:
        return this_moment()
    return datetime.fromtimestamp(work.epoch, UTC).isoformat().replace("+00:00", "Z")


def _config(work: Work, step: Step, diff_ids: list[str], empty: bool) -> bytes:
    state = step.state
    entry = History(created=moment(work), created_by=step.created_by, author=state.author, empty_layer=empty)
    return committing.above(
        state.parsed, msgspec.structs.replace(state.config, hostname="", domainname=""), diff_ids, entry
    )
