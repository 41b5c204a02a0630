"""Git repositories as contexts and as sources of ADD: what their URLs say, and how they come here.

https://host/path.git#ref:directory      https://host/path.git?ref=v1&subdir=directory      git://host/path#…
"""

import asyncio
import os
import re
from contextlib import AsyncExitStack, ExitStack
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit, urlunsplit
from urllib.request import getproxies_environment

from boxwright.engine.engine import Engine
from boxwright.errdefs import InvalidParameter, NotImplemented_, System
from boxwright.images import spool

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# As dockerd tells them (moby, builder/remotecontext/urlutil).
_HTTP = re.compile(r"https?://[^?#]*\.git(?:[?#].*)?", re.IGNORECASE | re.DOTALL)
_SSH = ("git@", "ssh://")
_LONGEST_URL = 8192
_LONGEST = 1800.0  # seconds for a repository with its submodules
# Of what is fetched, and of the archives: bytes.  Both are here at once, and the unpacked files.
_LARGEST = 16 << 30
_COPIES = 3
_RESERVE = 256 << 20
_BOOLEANS = {"": True, "1": True, "true": True, "0": False, "false": False}
_COMMIT = re.compile(r"[0-9a-f]{1,64}")


class Repository(NamedTuple):
    """What a URL names.  ref: a branch, a tag, a commit, "" the remote's HEAD.  directory: of it, "" all.

    keep: whether .git comes, too.  checksum: what the commit's id has to begin with.
    """

    remote: str
    ref: str = ""
    directory: str = ""
    keep: bool = False
    submodules: bool = True
    checksum: str = ""


def is_repository(text: str, context: bool = False) -> bool:
    """Whether it names one, and no file.  context: as a build's context, where github.com/… does, too."""
    shorthands = (*_SSH, "git://", "github.com/") if context else (*_SSH, "git://")
    return text.startswith(shorthands) or _HTTP.fullmatch(text) is not None


def parse(text: str) -> Repository:
    """Raises InvalidParameter, NotImplemented_ (SSH)."""
    shown = text[:200]
    if text.startswith(_SSH):
        raise NotImplemented_(f"a Git repository by SSH is not implemented by boxwright: {shown}")
    if not text.isprintable() or " " in text or len(text) > _LONGEST_URL:
        raise InvalidParameter(f"invalid URL of a Git repository: {shown!r}")
    try:
        parts = urlsplit(f"https://{text}" if text.startswith("github.com/") else text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidParameter(f"invalid URL of a Git repository: {shown}: {error}") from None
    if not host or host.startswith("-"):
        raise InvalidParameter(f"invalid URL of a Git repository: {shown}: it has no host")
    ref, _, directory = parts.fragment.partition(":")
    found = Repository(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")), ref, directory)
    found = _query(found, parts.query, shown)
    if found.ref.startswith("-") or any(not c.isprintable() or c in "*^:+\\ " for c in found.ref):
        raise InvalidParameter(f"invalid refspec: {found.ref[:200]}")
    return checked(found, found.checksum)


def checked(found: Repository, commit: str) -> Repository:
    """The repository, if its commit is this one ("": any; or how its id begins).  Raises InvalidParameter."""
    if commit and not _COMMIT.fullmatch(commit):
        raise InvalidParameter(f"invalid checksum of a Git repository, not a commit: {commit[:100]}")
    return found._replace(checksum=commit)


def _query(found: Repository, query: str, shown: str) -> Repository:
    """The Dockerfile reference's other form: ?ref=…&subdir=…"""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in ("ref", "branch", "tag"):
            if found.ref:
                raise InvalidParameter(f"more than one ref in the URL of a Git repository: {shown}")
            found = found._replace(ref={"branch": "refs/heads/", "tag": "refs/tags/"}.get(name, "") + value)
        elif name == "subdir":
            if found.directory:
                raise InvalidParameter(f"more than one directory in the URL of a Git repository: {shown}")
            found = found._replace(directory=value)
        elif name in ("checksum", "commit"):
            found = found._replace(checksum=value)
        elif name == "keep-git-dir" and value in _BOOLEANS:
            found = found._replace(keep=_BOOLEANS[value])
        elif name == "submodules" and value in _BOOLEANS:
            found = found._replace(submodules=_BOOLEANS[value])
        else:
            said = f"{name[:100]}={value[:100]}"
            raise InvalidParameter(f"unexpected query {said} in the URL of a Git repository: {shown}")
    # A commit alone says which: fetched by its id.
    if not found.ref and len(found.checksum) in (40, 64):
        found = found._replace(ref=found.checksum)
    return found


async def fetch(
    eng: Engine,
    wanted: Repository,
    target: int,
    finish: dict[str, Any],
    files: list[int],
    undo: AsyncExitStack | ExitStack,
) -> dict[str, Any]:
    """Unpack the repository into the empty directory `target`.

    finish, files: of the job `build.context`, for what it does at the end; returns its result.
    Raises System (git, the server), InvalidParameter (no such directory, another commit).
    """
    directory = eng.config.path("tmp")
    work = eng.trash.place("repository")
    os.mkdir(work, 0o700)
    undo.callback(eng.trash.discard, work)
    archive = undo.enter_context(spool.unnamed(directory))
    room = os.fstatvfs(archive)
    limit = min(_LARGEST, (room.f_bavail * room.f_frsize - _RESERVE) // _COPIES)
    if limit <= 0:
        raise System("there is no room left on the disk for a Git repository")
    args = {
        "remote": wanted.remote,
        "ref": wanted.ref,
        "keep": wanted.keep,
        "submodules": wanted.submodules,
        "environment": _proxies(),
        "limit": limit,
    }
    fd = os.open(work, _DIRECTORY)
    try:
        async with asyncio.timeout(_LONGEST):
            found = await eng.jobs.run("build.repository", args, [archive, fd])
    except TimeoutError:
        raise System(f"fetching the Git repository took more than {_LONGEST:.0f} seconds: {wanted.remote}") from None
    finally:
        os.close(fd)
        eng.trash.discard(work)
    if not found["commit"].startswith(wanted.checksum):
        raise InvalidParameter(f"expected checksum to match {wanted.checksum}, got {found['commit']}: {wanted.remote}")
    unpack: dict[str, Any] = {"kind": "", "directory": "", "dockerfile": "", "ignored": ""}
    *first, last = found["parts"]
    for part in first:
        await eng.jobs.run("build.context", {**unpack, "part": part}, [archive, target])
    return await eng.jobs.run(
        "build.context", {**unpack, "part": last, "directory": wanted.directory, **finish}, [archive, target, *files]
    )


def _proxies() -> dict[str, str]:
    """Those of the engine's environment, as git knows them."""
    known = getproxies_environment()
    names = {"http": "http_proxy", "https": "https_proxy", "all": "all_proxy", "no": "no_proxy"}
    return {variable: known[name] for name, variable in names.items() if name in known}
