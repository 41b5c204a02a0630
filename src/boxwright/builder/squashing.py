"""`docker build --squash`: what the steps of the last stage have made becomes one layer above the stage's base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from boxwright.builder import steps
from boxwright.images import committing, spool
from boxwright.specs.image import History, encode_config

if TYPE_CHECKING:
    from boxwright.builder.steps import Work
    from boxwright.images.image import Image


async def squash(work: Work, image: Image, base: Image | None) -> Image:
    """The same files and the same configuration; of what was deleted on the way nothing is left.

    base: None for a stage from scratch.  The history keeps its entries, which have no layers any more, and ends with
    one that has, as dockerd's.  Raises as `committing.add` does.
    """
    eng = work.eng
    with spool.unnamed(eng.config.path("tmp")) as archive:
        if image.chain_ids:
            args = {
                "view": eng.snapshotter.view(image.chain_ids),
                "base": eng.snapshotter.view(base.chain_ids) if base and base.chain_ids else None,
                "latest": work.epoch,
            }
            await eng.jobs.run("tree.merge", args, [archive])
        identifier = await committing.add(
            eng.images,
            archive,
            base,
            lambda diff_ids, empty: _config(work, image, base, diff_ids, empty),
            child=False,
        )
    return work.hold(eng.images.load_row(identifier))


def _config(work: Work, image: Image, base: Image | None, diff_ids: list[str], empty: bool) -> bytes:
    parsed = image.parsed
    created = steps.moment(work)
    below = len(base.parsed.history) if base else 0
    merged = [msgspec.structs.replace(entry, empty_layer=True) for entry in parsed.history[below:]]
    comment = f"merge {image.id} to {base.id}" if base else f"create new from {image.id}"
    return encode_config(
        msgspec.structs.replace(
            parsed,
            created=created,
            rootfs=msgspec.structs.replace(parsed.rootfs, diff_ids=diff_ids),
            history=[*parsed.history[:below], *merged, History(created=created, comment=comment, empty_layer=empty)],
        )
    )
