"""The build context: the client's archive, or what a URL or a Git repository gives, unpacked into a directory that only
jobs look into.
"""

import os
import posixpath
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from typing import NamedTuple

from boxwright.builder import repository
from boxwright.builder.arguments import KEEP_GIT_DIR
from boxwright.builder.dockerfile.lines import LARGEST
from boxwright.engine.engine import Engine
from boxwright.errdefs import InvalidParameter
from boxwright.images import download, spool
from boxwright.storage import compression, ignore
from boxwright.types.build import BuildOptions

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TAR_MAGIC = slice(257, 262)


class Context(NamedTuple):
    """The directory: `fd` for jobs, `path` for what is made beside it."""

    path: str
    fd: int


async def receive(
    eng: Engine, pieces: AsyncIterator[bytes], options: BuildOptions, undo: AsyncExitStack
) -> tuple[Context, bytes]:
    """The context and its Dockerfile; `undo` takes both away.

    Raises InvalidParameter (archive, repository, no Dockerfile), TooLarge, NotImplemented_ (SSH), System (the server).
    """
    with ExitStack() as files:
        dockerfile = files.enter_context(spool.unnamed(eng.config.path("tmp")))
        context = directory(eng, undo)
        finish = {"dockerfile": _inside(options.dockerfile), "ignored": "Dockerfile"}
        if repository.is_repository(options.remote, context=True):
            wanted = repository.parse(options.remote)
            keep = options.build_args.get(KEEP_GIT_DIR) in ("1", "true")
            # What a client that clones would have left out before it sends.
            finish["ignored"] = "all"
            found = await repository.fetch(
                eng, wanted._replace(keep=wanted.keep or keep), context.fd, finish, [dockerfile], files
            )
        else:
            archive = files.enter_context(spool.unnamed(eng.config.path("tmp")))
            if options.remote:
                fetched = await download.fetch(options.remote, archive)
                if not _is_archive(archive):
                    return context, _small(archive, fetched.size)
            else:
                await spool.receive(pieces, archive)
            os.lseek(archive, 0, os.SEEK_SET)
            kind = compression.detect(os.pread(archive, compression.MAGIC_SIZE, 0))
            args = {**finish, "kind": kind, "part": None, "directory": ""}
            found = await eng.jobs.run("build.context", args, [archive, context.fd, dockerfile])
        size = found["dockerfile"]
        if size < 0:
            raise InvalidParameter(f"Cannot locate specified Dockerfile: {options.dockerfile}")
        if size == 0:
            raise InvalidParameter(f"the Dockerfile ({options.dockerfile}) cannot be empty")
        return context, os.pread(dockerfile, size, 0)


def directory(eng: Engine, undo: AsyncExitStack | ExitStack) -> Context:
    """An empty one; `undo` takes it away."""
    path = eng.trash.place("build")
    os.mkdir(path, 0o700)
    undo.callback(eng.trash.discard, path)
    fd = os.open(path, _DIRECTORY)
    undo.callback(os.close, fd)
    return Context(path, fd)


def _inside(path: str) -> str:
    cleaned = ignore.clean(path)
    if posixpath.isabs(path) or not cleaned or "\0" in path:
        raise InvalidParameter(f"the Dockerfile ({path[:200]}) must be within the build context")
    if posixpath.normpath(path).startswith("../") or posixpath.normpath(path) == "..":
        raise InvalidParameter(f"the Dockerfile ({path[:200]}) must be within the build context")
    return cleaned


def _is_archive(fd: int) -> bool:
    head = os.pread(fd, 512, 0)
    return bool(compression.detect(head)) or head[_TAR_MAGIC] == b"ustar"


def _small(fd: int, size: int) -> bytes:
    if size > LARGEST:
        raise InvalidParameter(f"the Dockerfile is larger than {LARGEST} bytes")
    return os.pread(fd, size, 0)
