"""Archives of images as `docker save` and others write them, and what is wrong with some."""

import asyncio
import json
from typing import Any

from boxwright.images.image import host_architecture
from boxwright.storage.content import digest_of
from support.stores import Stores, stream
from support.tars import directory, member, pack

BASE = pack(directory("bin"), member("bin/sh", content=b"#!base"))
TOP = pack(member("top", content=b"top"))
ARCHITECTURE = host_architecture()


def config(*layers: bytes, **fields: Any) -> bytes:
    document = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "created": "2024-01-02T03:04:05.123456789Z",
        "config": {"Cmd": ["sh"], "Env": ["A=b"], "Labels": {"kind": "test"}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))],
        **fields,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def files(*items: tuple[str, bytes]) -> bytes:
    return pack(*(member(name, content=content) for name, content in items))


def docker(*images: tuple[list[str] | None, bytes, list[bytes]]) -> bytes:
    """A docker-archive: (names, configuration, layers)."""
    items, manifest = [], []
    for number, (names, document, layers) in enumerate(images):
        items.append((f"{number}.json", document))
        paths = []
        for index, layer in enumerate(layers):
            items.append((f"{number}-{index}/layer.tar", layer))
            paths.append(items[-1][0])
        manifest.append({"Config": f"{number}.json", "RepoTags": names, "Layers": paths})
    return files(*items, ("manifest.json", json.dumps(manifest).encode()))


def blob(data: bytes) -> tuple[str, bytes]:
    return "blobs/sha256/" + digest_of(data)[7:], data


def descriptor(data: bytes, kind: str = "", **fields: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data), **fields}


def layout(index: dict[str, Any], *blobs: bytes) -> bytes:
    return files(
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        ("index.json", json.dumps(index).encode()),
        *(blob(data) for data in blobs),
    )


def manifest(document: bytes, *layers: bytes) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "config": descriptor(document, "application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers],
        }
    ).encode()


def load(made: Stores, archive: bytes, quiet: bool = True) -> tuple[list[str], list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    return list(asyncio.run(made.images.load(stream(archive), quiet, said.append))), said


SIMPLE = docker((["app:1"], config(BASE, TOP), [BASE, TOP]))
