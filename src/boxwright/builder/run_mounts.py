"""RUN --mount while a command runs: caches, copies of files of the context, a stage or an image, memory.

What is mounted from elsewhere is a copy of its own: the command may write to it, nobody sees it afterwards.  A secret
or an agent is nothing that the classic builder's request can carry: one that is required is refused.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from typing import TYPE_CHECKING, Any

from boxwright.builder import sources
from boxwright.builder.arguments import CACHE_NAMESPACE
from boxwright.builder.dockerfile.errors import Wrong
from boxwright.builder.dockerfile.mounts import Mount, parse
from boxwright.errdefs import InvalidParameter
from boxwright.images import spool

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from boxwright.builder.output import Voice
    from boxwright.builder.state import State
    from boxwright.builder.steps import Work
    from boxwright.types.container import HostConfig

__all__ = ["SCRIPTS", "digest", "parse", "prepare", "script"]

SCRIPTS = "/dev/pipes"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


async def prepare(
    work: Work,
    state: State,
    number: int,
    mounts: list[Mount],
    host_config: HostConfig,
    voice: Voice,
    undo: AsyncExitStack,
) -> None:
    """Put the mounts into `host_config`; `undo` takes away what is made for them.  Raises Wrong, NotFound."""
    binds, tmpfs = [], {}
    for mount in mounts:
        target = posixpath.normpath(state.absolute(mount.target or f"/run/secrets/{mount.id}"))
        if ":" in target:
            raise Wrong(f"a mount's target cannot have a colon: {target}")
        if mount.kind == "tmpfs":
            tmpfs[target] = f"size={mount.size}" if mount.size >= 0 else ""
        elif mount.kind == "cache":
            path = await _cache(work, number, mount, target, voice, undo)
            binds.append(f"{path}:{target}{':ro' * mount.readonly}")
        elif mount.kind == "bind":
            path = await _copied(work, number, mount, voice, undo)
            binds.append(f"{path}:{target}{':ro' * mount.readonly}")
        elif mount.required:
            raise Wrong(f"{mount.kind} {mount.id or target} is required, and this kind of request cannot carry it")
    host_config.binds = [*(host_config.binds or []), *binds] or None
    host_config.tmpfs = tmpfs or None


async def _cache(work: Work, number: int, mount: Mount, target: str, voice: Voice, undo: AsyncExitStack) -> str:
    """The directory of a cache; a new one begins with the files of `from`."""
    id = mount.id or target
    if namespace := work.arguments.given.get(CACHE_NAMESPACE):
        id = f"{namespace}/{id}"
    if not mount.from_:
        return await work.caches.take(mount, id, None, undo)

    async def fill(directory: int) -> None:
        if await _unpack(work, number, mount, directory, voice, "mount") != "dir":
            raise InvalidParameter("the source of a cache mount is no directory")

    base = await digest(work, number, mount, voice)
    return await work.caches.take(mount, f"{id} from {base}", fill, undo)


async def digest(work: Work, number: int, mount: Mount, voice: Voice) -> str:
    """The digest of the files that a bind mount shows, or that a cache begins with."""
    with spool.unnamed(work.eng.config.path("tmp")) as archive:
        return str((await _pack(work, number, mount, archive, False, voice))["digest"])


async def script(work: Work, content: str, name: str, host_config: HostConfig, undo: AsyncExitStack) -> None:
    """A here-document that says what runs it, as a file that can be executed."""
    if ":" in name or "/" in name:
        raise Wrong(f"a script's here-document cannot have this name: {name}")
    path = _place(work, undo)
    file = f"{path}/script"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
    os.write(fd, content.encode("utf-8", "surrogateescape"))
    os.fchmod(fd, 0o755)
    os.close(fd)
    host_config.binds = [*(host_config.binds or []), f"{file}:{SCRIPTS}/{name}:ro"]


def _place(work: Work, undo: AsyncExitStack) -> str:
    path = work.eng.trash.place("build")
    os.mkdir(path, 0o755)
    undo.callback(work.eng.trash.discard, path)
    return path


async def _copied(work: Work, number: int, mount: Mount, voice: Voice, undo: AsyncExitStack) -> str:
    """A copy of what the mount shows: a path of the host, a file or a directory."""
    path = _place(work, undo)
    fd = os.open(path, _DIRECTORY)
    try:
        what = await _unpack(work, number, mount, fd, voice)
    finally:
        os.close(fd)
    if what == "file":
        return await asyncio.to_thread(_only, f"{path}/mount")
    return f"{path}/mount"


async def _unpack(work: Work, number: int, mount: Mount, fd: int, voice: Voice, directory: str = "") -> str:
    """Put the source of a mount into an empty directory, as `mount`, or only what is in its `directory`.

    Returns "file" or "dir".
    """
    with spool.unnamed(work.eng.config.path("tmp")) as archive:
        what = str((await _pack(work, number, mount, archive, True, voice))["what"])
        os.lseek(archive, 0, os.SEEK_SET)
        args = {"kind": "", "part": None, "directory": directory, "dockerfile": "", "ignored": ""}
        await work.eng.jobs.run("build.context", args, [archive, fd])
    return what


def _only(path: str) -> str:
    """The one regular file in the directory; a link in its place would lead the mount out of it."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                return entry.path
    raise InvalidParameter("the source of a bind mount is neither a file nor a directory")


async def _pack(work: Work, number: int, mount: Mount, archive: int, write: bool, voice: Voice) -> dict[str, Any]:
    source = await sources.tree(work, number, mount.from_, voice) if mount.from_ else "directory"
    args = {
        "instruction": "RUN --mount", "destination": "/mount/", "view": None, "below": False, "now": 0, "latest": None,
        "link": False, "source": source, "parents": False, "excludes": [], "chmod": None, "owner": None, "keep": True,
        "items": [] if source is None else [{"kind": "tree", "path": _literal(mount.source or "/")}], "write": write,
    }  # fmt: skip
    fds = [work.context.fd] if source == "directory" else []
    return await work.eng.jobs.run("build.layer", args, [archive, *fds])


def _literal(path: str) -> str:
    return "".join(f"\\{character}" if character in "*?[\\" else character for character in path)
