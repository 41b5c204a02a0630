"""A small registry in a thread: it serves what tests put into it, and misbehaves as they say."""

import asyncio
import gzip
import hashlib
import json
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
Hook = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class HostileRegistry:
    """blobs by digest; manifests by (repository, tag or digest): media type and bytes.

    hook: asked first about every request; None goes on as usual.  seen: (method, path, headers) of all requests.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.hook: Hook | None = None
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self.address = ""
        self._thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._serve()))

    def __enter__(self) -> "HostileRegistry":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self.loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    # -- what is in it -------------------------------------------------------------------------------------------------

    def blob(self, data: bytes) -> str:
        self.blobs[digest(data)] = data
        return digest(data)

    def manifest(self, repository: str, tag: str, document: Any, media_type: str = DOCKER) -> str:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        for name in (tag, digest(data)):
            self.manifests[repository, name] = (media_type, data)
        return digest(data)

    def image(self, repository: str, tag: str, layers: list[bytes], **changes: Any) -> str:
        """An image of uncompressed archives; `changes` are made to its configuration.  Returns its manifest's digest."""
        document = described(self, layers, **changes)
        return self.manifest(repository, tag, document)

    def count(self, method: str, part: str) -> int:
        """How many requests there were whose path has `part` in it."""
        return sum(1 for verb, path, _ in self.seen if verb == method and part in path)

    # -- answers -------------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path_qs, dict(request.headers)))
        if self.hook is not None and (answer := await self.hook(request)) is not None:
            return answer
        path = request.path
        if path == "/v2/":
            return web.json_response({})
        repository, _, rest = path.removeprefix("/v2/").rpartition("/blobs/")
        if repository:
            return await self._blobs(request, repository, rest)
        repository, _, name = path.removeprefix("/v2/").rpartition("/manifests/")
        if not repository:
            return failure(404, "NAME_UNKNOWN", "repository name not known to registry")
        if request.method == "PUT":
            data = await request.read()
            self.manifest(repository, name, data, request.content_type)
            return web.Response(status=201, headers={"Docker-Content-Digest": digest(data)})
        found = self.manifests.get((repository, name))
        if found is None:
            return failure(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return web.Response(body=found[1], headers={"Content-Type": found[0]})

    async def _blobs(self, request: web.Request, repository: str, rest: str) -> web.StreamResponse:
        if not rest.startswith("uploads/"):
            data = self.blobs.get(rest)
            if data is None:
                return failure(404, "BLOB_UNKNOWN", "blob unknown to registry")
            return ranged(request, data)
        session = rest.removeprefix("uploads/")
        location = f"/v2/{repository}/blobs/uploads/"
        if request.method == "POST":
            session = os.urandom(8).hex()
            self.uploads[session] = bytearray()
            return web.Response(status=202, headers={"Location": location + session, "Range": "0-0"})
        upload = self.uploads.get(session)
        if upload is None:
            return failure(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if request.method in ("PATCH", "PUT"):
            start = int(request.headers.get("Content-Range", f"{len(upload)}-").partition("-")[0])
            if start != len(upload):
                return failure(416, "BLOB_UPLOAD_INVALID", "not the next range")
            async for piece in request.content.iter_any():
                upload += piece
        if request.method == "PUT":
            del self.uploads[session]
            wanted = request.query["digest"]
            if digest(bytes(upload)) != wanted:
                return failure(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            self.blobs[wanted] = bytes(upload)
            return web.Response(status=201, headers={"Location": f"/v2/{repository}/blobs/{wanted}"})
        status = 202 if request.method == "PATCH" else 204
        taken = f"0-{max(0, len(upload) - 1)}"
        return web.Response(status=status, headers={"Location": location + session, "Range": taken})


def described(registry: HostileRegistry, layers: list[bytes], **changes: Any) -> dict[str, Any]:
    """Put the blobs of an image into the registry; returns its manifest."""
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **changes,
    }
    data = json.dumps(config).encode()
    packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    return {
        "schemaVersion": 2,
        "mediaType": DOCKER,
        "config": {"mediaType": DOCKER_CONFIG, "size": len(data), "digest": registry.blob(data)},
        "layers": [{"mediaType": DOCKER_LAYER, "size": len(p), "digest": registry.blob(p)} for p in packed],
    }


def ranged(request: web.Request, data: bytes) -> web.Response:
    """The blob, or the part of it that is asked for."""
    asked = request.headers.get("Range", "")
    if not asked:
        return web.Response(body=data)
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    return web.Response(status=206, body=data[start:], headers=headers)


def failure(status: int, code: str, message: str, **headers: str) -> web.Response:
    """An error as the specification has it."""
    body = {"errors": [{"code": code, "message": message}]}
    return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def broken(request: web.Request, data: bytes, length: int) -> web.StreamResponse:
    """Promise `data`, and end the connection after `length` bytes of it."""
    response = web.StreamResponse(headers={"Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[:length])
    assert request.transport is not None
    request.transport.close()
    return response
