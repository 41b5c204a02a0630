"""`docker image inspect` and `docker history`."""

from typing import TYPE_CHECKING, Any

import msgspec

from boxwright.images import save
from boxwright.images.image import Image
from boxwright.specs import image as spec
from boxwright.storage.content import digest_of
from boxwright.storage.snapshotter import HOSTFS

if TYPE_CHECKING:
    from boxwright.images.store import ImageStore

_ZERO_TIME = "0001-01-01T00:00:00Z"


def image(store: "ImageStore", found: Image) -> dict[str, Any]:
    """The body of `GET /images/x/json`, as of API 1.44."""
    config = found.parsed
    body: dict[str, Any] = {
        "Id": found.id,
        "RepoTags": found.repo_tags,
        "RepoDigests": found.repo_digests,
        "Parent": found.parent,
        "Comment": config.comment or (config.history[-1].comment if config.history else ""),
        "Created": config.created or _ZERO_TIME,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": defaults(config.config),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": found.size,
        "GraphDriver": {"Name": store.snapshotter.name, "Data": {}},
        "RootFS": {"Type": config.rootfs.type or "layers"},
        "Metadata": {"LastTagTime": found.tagged or _ZERO_TIME},
    }
    if config.variant:
        body["Variant"] = config.variant
    if config.os_version:
        body["OsVersion"] = config.os_version
    if config.rootfs.diff_ids:
        body["RootFS"]["Layers"] = config.rootfs.diff_ids
        body["GraphDriver"] = store.snapshotter.describe(found.chain_ids[-1])
    return body


def defaults(config: spec.Defaults) -> dict[str, Any]:
    """`Config` in the shape that clients before API 1.50 expect: their fields are there when they are empty, too."""
    shown: dict[str, Any] = {
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": None,
        "Cmd": None,
        "Image": "",
        "Volumes": None,
        "WorkingDir": "",
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": None,
    }
    shown.update(msgspec.to_builtins(config))
    return shown


def history(store: "ImageStore", found: Image) -> list[dict[str, Any]]:
    """The body of `GET /images/x/history`: newest step first; the sizes are those of the steps' layers."""
    steps = found.parsed.history
    layers = [chain_id for chain_id in found.chain_ids if chain_id != HOSTFS]
    sizes = iter([store.snapshotter.layer_size(chain_id) for chain_id in layers])
    rows: list[dict[str, Any]] = [
        {
            "Id": "<missing>",
            "Created": spec.seconds(step.created),
            "CreatedBy": step.created_by,
            "Tags": None,
            "Size": 0 if step.empty_layer else next(sizes, 0),
            "Comment": step.comment,
        }
        for step in steps
    ]
    rows.reverse()
    current: Image | None = found
    for row in rows:  # the images that were made on this host on the way to it have ids of their own
        if current is None:
            break
        row["Id"] = current.id
        row["Tags"] = current.repo_tags or None
        current = store.find(current.parent) if current.parent else None
    return rows


def manifests(store: "ImageStore", found: Image) -> list[dict[str, Any]]:
    """`Manifests`: the one manifest of an image, as `docker save` writes it; none while its layers have no record."""
    if HOSTFS in found.chain_ids:
        return []
    sizes = {chain_id: store.snapshotter.archive_size(chain_id) for chain_id in found.chain_ids}
    if min(sizes.values(), default=0) < 0:
        return []
    config = store.content.get(found.id)
    document = save.manifest(found, config, sizes)
    content = len(document) + len(config) + sum(sizes.values())
    platform = {"architecture": found.architecture, "os": found.os}
    if found.parsed.variant:
        platform["variant"] = found.parsed.variant
    return [
        {
            "ID": digest_of(document),
            "Descriptor": {"mediaType": spec.OCI_MANIFEST, "digest": digest_of(document), "size": len(document)},
            "Available": True,
            "Size": {"Content": content, "Total": content + found.size},
            "Kind": "image",
            "ImageData": {"Platform": platform, "Containers": [], "Size": {"Unpacked": found.size}},
        }
    ]
