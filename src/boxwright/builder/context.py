"""The build context: the client's archive, or what a URL gives, unpacked into a directory that only jobs look into."""

import os
import posixpath
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from typing import NamedTuple

from boxwright.builder import download
from boxwright.builder.dockerfile.lines import LARGEST
from boxwright.engine.engine import Engine
from boxwright.errdefs import InvalidParameter, NotImplemented_
from boxwright.images import spool
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

    Raises InvalidParameter (archive, no Dockerfile), TooLarge, NotImplemented_ (Git).
    """
    with ExitStack() as files:
        archive = files.enter_context(spool.unnamed(eng.config.path("tmp")))
        dockerfile = files.enter_context(spool.unnamed(eng.config.path("tmp")))
        context = _directory(eng, undo)
        if options.remote:
            refuse_git(options.remote)
            found = await download.fetch(options.remote, archive)
            if not _is_archive(archive):
                return context, _small(archive, found.size)
        else:
            await spool.receive(pieces, archive)
        os.lseek(archive, 0, os.SEEK_SET)
        args = {
            "kind": compression.detect(os.pread(archive, compression.MAGIC_SIZE, 0)),
            "dockerfile": _inside(options.dockerfile),
            "ignored": "Dockerfile",
        }
        size = (await eng.jobs.run("build.context", args, [archive, context.fd, dockerfile]))["dockerfile"]
        if size < 0:
            raise InvalidParameter(f"Cannot locate specified Dockerfile: {options.dockerfile}")
        if size == 0:
            raise InvalidParameter(f"the Dockerfile ({options.dockerfile}) cannot be empty")
        return context, os.pread(dockerfile, size, 0)


def refuse_git(url: str) -> None:
    """Raises NotImplemented_ for the URL of a repository."""
    rest = url.partition("#")[0]
    if url.startswith(("git://", "git@", "github.com/", "ssh://")) or rest.endswith(".git"):
        raise NotImplemented_(f"a Git repository as a source of a build is not implemented by boxwright: {url[:200]}")


def _directory(eng: Engine, undo: AsyncExitStack) -> Context:
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
