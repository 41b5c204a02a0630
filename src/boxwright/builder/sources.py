"""Where files and bases come from: images that are here, and stages that have been built."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from boxwright.builder.dockerfile import stages
from boxwright.errdefs import Error, InvalidParameter, NotFound
from boxwright.images import reference
from boxwright.images.distribution import auth, platforms
from boxwright.specs.image import Platform

if TYPE_CHECKING:
    from boxwright.builder.output import Voice
    from boxwright.builder.steps import Work
    from boxwright.images.image import Image

SCRATCH = "scratch"
_HUB = "https://index.docker.io/v1/"  # what clients call Docker's own registry


async def image(work: Work, name: str, platform: str, voice: Voice) -> Image:
    """The image that a base names, pulled when it is not here for the platform, or the request says so.

    Raises NotFound, InvalidParameter (platform), and what a pull raises.
    """
    wanted = platforms.parse(platform) if platform else None
    found = None if work.options.pull else work.eng.images.find(name)
    if found is None or not _is_for(found, wanted):
        there = found
        try:
            await _pull(work, name, platform, voice)
        except Error:
            if there is None:
                raise
        found = work.eng.images.get(name)
    if not _is_for(found, wanted):
        raise NotFound(
            f"image with reference {name} was found but its platform ({platforms.text(_platform(found))}) "
            f"does not match the specified platform ({platform})"
        )
    return work.hold(found)


def _platform(found: Image) -> Platform:
    return platforms.normalised(
        Platform(architecture=found.architecture, os=found.os or "linux", variant=found.parsed.variant)
    )


def _is_for(found: Image, wanted: Platform | None) -> bool:
    return wanted is None or platforms.rank(wanted, _platform(found)) is not None


async def _pull(work: Work, name: str, platform: str, voice: Voice) -> None:
    """Pull, and tell its progress."""
    ref = reference.parse(name).with_default_tag()  # a name alone would be all tags of the repository
    key = _HUB if ref.domain == reference.DEFAULT_DOMAIN else ref.domain
    who = auth.credentials(work.options.registries.get(key))
    said: list[dict[str, Any]] = []
    more = asyncio.Event()

    def emit(message: dict[str, Any]) -> None:
        said.append(message)
        more.set()

    pull = asyncio.ensure_future(work.eng.distribution.pull(str(ref), "", platform, who, emit))
    pull.add_done_callback(lambda _: more.set())
    try:
        while said or not pull.done():
            await more.wait()
            more.clear()
            while said:
                await voice.tell(said.pop(0))
        await pull
    finally:
        pull.cancel()
        await asyncio.wait([pull])


async def tree(work: Work, before: int, name: str, voice: Voice) -> dict[str, Any] | None:
    """What a job sees as the files of the stage or image `name`; None when it has none.

    before: the number of the stage that asks.  Raises NotFound.
    """
    number = stages.lookup(work.dockerfile.stages, before, name)
    if number is None and name.isascii() and name.isdigit():  # which the id of an image might begin with
        what = "refers to current build stage" if name.lstrip("0") == str(before or "") else "index out of bounds"
        raise InvalidParameter(f"invalid from flag value {name}: {what}")
    if number is not None:
        found = work.results[number].image
    else:
        try:
            found = await image(work, name, work.options.platform, voice)
        except Error as error:
            raise type(error)(f"invalid from flag value {name}: {error}") from None
    if found is None or not found.chain_ids:
        return None
    return work.eng.snapshotter.view(found.chain_ids)
