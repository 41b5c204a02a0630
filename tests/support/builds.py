"""Builds through the docker CLI without BuildKit, and through docker-py."""

import contextlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import APIError

from support.engine import Engine

# Content of a file, a symbolic link's target, or a whole member.
Files = Mapping[str, "bytes | str | tarfile.TarInfo"]


def archive(files: Files, dockerfile: str | None = None) -> bytes:
    """A context: text and bytes are files of mode 0644, "-> x" is a symbolic link, a name that ends with / a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in {**({} if dockerfile is None else {"Dockerfile": dockerfile}), **files}.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode, info.mtime = 0o644, 1_700_000_000
            data = content.encode() if isinstance(content, str) else content
            if name.endswith("/"):
                info.type, info.mode, data = tarfile.DIRTYPE, 0o755, b""
            elif data.startswith(b"-> "):
                info.type, info.linkname, data = tarfile.SYMTYPE, data[3:].decode(), b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Built:
    """What a build said; `image` is "" when it failed, `error` when it did not."""

    image: str
    said: str
    error: str


def by_cli(engine: Engine, context: bytes, *options: str) -> Built:
    """`docker build` of a context on its standard input."""
    ran = engine.docker("build", *options, "-", stdin=context, env={"DOCKER_BUILDKIT": "0"})
    if ran.code:
        return Built("", ran.out, ran.err.strip().splitlines()[-1])
    return Built(ran.out.rpartition("Successfully built ")[2].split()[0], ran.out, "")


def by_docker_py(engine: Engine, context: bytes, **options: Any) -> Built:
    """docker-py's build of the same."""
    with contextlib.closing(docker.APIClient(base_url=engine.host, version="auto", timeout=60)) as client:
        said, image, error = "", "", ""
        try:
            for message in client.build(
                fileobj=io.BytesIO(context), custom_context=True, decode=True, rm=True, **options
            ):
                said += message.get("stream", "")
                image = message.get("aux", {}).get("ID", image)
                error = message.get("error", error)
        except APIError as problem:
            error = problem.explanation
    return Built("" if error else image, said, error)


def config(engine: Engine, image: str) -> dict[str, Any]:
    """The configuration of an image, as inspect shows it."""
    answer = engine.api("GET", f"/images/{image}/json")
    assert answer.status == 200, answer.raw
    found: dict[str, Any] = json.loads(answer.raw)
    return found
