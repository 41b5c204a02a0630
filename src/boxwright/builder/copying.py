"""COPY, ADD and WORKDIR: layers made by confined jobs out of the context, stages, images, URLs and here-documents."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from boxwright.builder import context, repository, sources, steps
from boxwright.builder.cache import Step
from boxwright.builder.dockerfile import expand
from boxwright.builder.dockerfile.errors import Wrong
from boxwright.errdefs import InvalidParameter, System
from boxwright.images import download, spool
from boxwright.storage import modes

if TYPE_CHECKING:
    from boxwright.builder.dockerfile.instructions import Copy
    from boxwright.builder.output import Voice
    from boxwright.builder.state import State
    from boxwright.builder.steps import Work

_TAR_MAGIC = slice(257, 262)
_URL_MODE, _HEREDOC_MODE = 0o600, 0o644


class Items(NamedTuple):
    """What is copied, as the job takes it, and the files that belong to it."""

    items: list[dict[str, Any]]
    files: list[int]


async def copy(work: Work, state: State, number: int, value: Copy, voice: Voice) -> None:
    """COPY and ADD in the stage `number`.  Raises Wrong, and the errors of jobs."""
    keyword = "ADD" if value.add else "COPY"
    with ExitStack() as undo:
        source = work.context.fd if not value.from_ else await sources.tree(work, number, value.from_, voice)
        destination = _destination(state, state.word(value.destination))
        args: dict[str, Any] = {
            **_common(work, state, keyword, destination),
            "link": value.link,
            "source": "directory" if isinstance(source, int) else source,
            "parents": value.parents,
            "excludes": [state.word(text) for text in value.excludes],
            "chmod": _mode(state.word(value.chmod)),
            "owner": state.word(value.chown) or None,
            "keep": bool(value.from_),
        }
        where = [source] if isinstance(source, int) else []
        items = await _items(work, state, value, args["source"], where, undo)
        args["items"] = items.items
        extra = [f"link={value.link}", f"epoch={work.epoch}"]
        await _layer(work, state, args, [*where, *items.files], extra, voice, undo)


async def workdir(work: Work, state: State, said: str, voice: Voice) -> None:
    """The directory of WORKDIR, made where it is missing."""
    args = {
        **_common(work, state, "WORKDIR", f"{state.config.working_dir.rstrip('/')}/"),
        "link": False, "source": None, "parents": False, "excludes": [], "chmod": None, "owner": None, "keep": False,
        "items": [],
    }  # fmt: skip
    step = Step(state, f"{' '.join(state.shell)} #(nop) {said}", [f"epoch={work.epoch}"])
    if await steps.from_cache(work, step, voice):
        return
    with spool.unnamed(work.eng.config.path("tmp")) as archive:
        await work.eng.jobs.run("build.layer", {**args, "write": True}, [archive])
        await steps.make(work, step, archive)


async def _layer(
    work: Work, state: State, args: dict[str, Any], fds: list[int], extra: list[str], voice: Voice, undo: ExitStack
) -> None:
    """Ask for the digest of what would be copied; make the layer unless that has been copied before."""
    archive = undo.enter_context(spool.unnamed(work.eng.config.path("tmp")))
    found = await work.eng.jobs.run("build.layer", {**args, "write": False}, [archive, *fds])
    said = f"{args['instruction']} {found['what']}:{found['digest']} in {args['destination']} "
    step = Step(state, f"{' '.join(state.shell)} #(nop) {said}", extra)
    if await steps.from_cache(work, step, voice):
        return
    if not found["empty"]:
        await work.eng.jobs.run("build.layer", {**args, "write": True}, [archive, *fds])
    await steps.make(work, step, archive)


def _common(work: Work, state: State, keyword: str, destination: str) -> dict[str, Any]:
    chain = state.image.chain_ids if state.image else []
    return {
        "instruction": keyword,
        "destination": destination,
        "view": work.eng.snapshotter.view(chain) if chain else None,
        "below": bool(chain),
        "now": steps.now(work),
        "latest": work.epoch,
    }


def _destination(state: State, text: str) -> str:
    """Absolute; a slash at the end says that it is a directory."""
    if not text:
        raise Wrong("the destination is empty")
    into = text.endswith("/") or text.rpartition("/")[2] in (".", "..")
    path = os.path.normpath(state.absolute(text)).replace("//", "/")
    return f"{path.rstrip('/')}/" if into else path


def _mode(text: str) -> str | None:
    if not text:
        return None
    try:
        modes.parse(text)
    except ValueError:
        raise Wrong(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, or like u=rwX,go=rX"
        ) from None
    return text


async def _items(work: Work, state: State, value: Copy, source: Any, where: list[int], undo: ExitStack) -> Items:
    items = Items([], [])
    for document in value.heredocs:
        text = expand.heredoc(document.content, state.variables, state.escape) if document.expand else document.content
        fd = undo.enter_context(spool.unnamed(work.eng.config.path("tmp")))
        os.write(fd, text.encode("utf-8", "surrogateescape"))
        items.items.append(
            {"kind": "file", "name": document.name, "mode": _HEREDOC_MODE, "mtime": steps.now(work)}
        )  # fmt: skip
        items.files.append(fd)
    if source is None and value.sources:
        raise InvalidParameter(f"{value.from_} has no files")
    local = []
    for raw in value.sources:
        path = state.word(raw)
        if value.add and repository.is_repository(path):
            await _repository(work, value, path, items, undo)
            continue
        if value.add and download.is_url(path):
            await _url(work, value, path, items, undo)
            continue
        if value.checksum:
            raise Wrong("checksum can't be specified for non-HTTP(S) sources")
        if os.path.normpath(path.lstrip("/")).startswith(".."):
            raise InvalidParameter(
                f"{'ADD' if value.add else 'COPY'} failed: forbidden path outside the build context: {path} ()"
            )
        local.append(path)
    if local and value.add and value.unpack is not False:
        await _unpacked(work, local, source, where, items, undo)
    else:
        items.items.extend({"kind": "tree", "path": path} for path in local)
    return items


async def _repository(work: Work, value: Copy, url: str, items: Items, undo: ExitStack) -> None:
    wanted = repository.parse(url)
    wanted = wanted._replace(keep=value.keep_git_dir or wanted.keep)
    if value.checksum:
        wanted = repository.checked(wanted, value.checksum)
    target = context.directory(work.eng, undo)
    await repository.fetch(work.eng, wanted, target.fd, {}, [], undo)
    items.items.append({"kind": "directory"})
    items.files.append(target.fd)


async def _url(work: Work, value: Copy, url: str, items: Items, undo: ExitStack) -> None:
    fd = undo.enter_context(spool.unnamed(work.eng.config.path("tmp")))
    try:
        found = await download.fetch(url, fd)
    except (InvalidParameter, System) as problem:
        raise type(problem)(f"ADD failed: {problem}") from None
    if value.checksum:
        await download.check(fd, value.checksum)
    if value.unpack and (archive := await _archive(work, fd, undo)) is not None:
        items.items.append({"kind": "archive"})
        items.files.append(archive)
        return
    if not found.name and value.destination.endswith("/"):
        raise InvalidParameter(f"cannot determine filename from source URL {url}")
    mtime = found.mtime if found.mtime >= 0 else steps.now(work)
    items.items.append({"kind": "file", "name": found.name, "mode": _URL_MODE, "mtime": mtime})
    items.files.append(fd)


async def _unpacked(work: Work, local: list[str], source: Any, where: list[int], items: Items, undo: ExitStack) -> None:
    """ADD of files: archives among them are unpacked, the others copied."""
    job = work.eng.jobs.run("build.find", {"source": source, "sources": local}, where)
    for path, kind in (await job)["found"]:
        if kind:
            fd = undo.enter_context(spool.unnamed(work.eng.config.path("tmp")))
            args = {"source": source, "path": path, "limit": spool.LARGEST}
            await work.eng.jobs.run("build.read", args, [fd, *where])
            archive = await _archive(work, fd, undo)
            if archive is not None:
                items.items.append({"kind": "archive"})
                items.files.append(archive)
                continue
        literal = "".join(f"\\{c}" if c in "*?[\\" else c for c in path)
        items.items.append({"kind": "tree", "path": literal})


async def _archive(work: Work, fd: int, undo: ExitStack) -> int | None:
    """The file, expanded, when it is a tar archive."""
    target = undo.enter_context(spool.unnamed(work.eng.config.path("tmp")))
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        archive = await spool.expanded(work.eng.jobs, fd, target)
    except InvalidParameter:
        return None  # it only begins like something compressed
    return archive if os.pread(archive, 512, 0)[_TAR_MAGIC] == b"ustar" else None
