"""`GET /system/df`: what images, containers and volumes take on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boxwright.engine import listing

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine


async def disk_usage(eng: Engine, kinds: Sequence[str], build_cache: list[dict[str, Any]]) -> dict[str, Any]:
    """The body, with only the parts that `kinds` names: container, image, volume, build-cache.

    build_cache: the records of the builder.
    LayersSize counts each layer once, bytes.  Of an image, Size = SharedSize + what only it has.
    """
    body: dict[str, Any] = {}
    if "image" in kinds:
        users = Counter(container.record.image for container in eng.store)
        images = eng.images.list(True, {}, True)
        body["Images"] = [{**image, "Containers": users[image["Id"]]} for image in images]
        body["LayersSize"] = _layers_size(eng)
    if "container" in kinds:
        body["Containers"] = await listing.containers(eng, True, 0, True, {})
    if "volume" in kinds:
        body["Volumes"] = await eng.volumes.usage()
    if "build-cache" in kinds:
        body["BuildCache"] = build_cache
    return body


def _layers_size(eng: Engine) -> int:
    layers = {chain_id for image in eng.images.all() for chain_id in image.chain_ids}
    return sum(eng.snapshotter.layer_size(chain_id) for chain_id in layers)
