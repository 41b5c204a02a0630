"""The builder of an engine: the builds under way, and the caches."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Any

from boxwright.builder import build, cache, schema
from boxwright.builder.cache_mounts import KIND, CacheMounts
from boxwright.builder.output import Console, Message
from boxwright.builder.running import RunFailed
from boxwright.errdefs import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from boxwright.engine.engine import Engine
    from boxwright.types.build import BuildOptions

_FILTERS = frozenset({"until", "unused-for", "id", "type", "label", "label!"})
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


class Builder:
    """One for an engine, made when somebody builds."""

    def __init__(self, eng: Engine) -> None:
        self._eng = eng
        eng.db.migrate("builder", schema.SCRIPTS)
        cache.trim(eng.db)
        self._caches = CacheMounts(eng)
        self._named: dict[str, asyncio.Task[Any]] = {}

    async def build(self, options: BuildOptions, pieces: AsyncIterator[bytes]) -> AsyncGenerator[Message, None]:
        """The messages of one build.  Ends it when it is closed.

        A failure before the first message is raised, as `build.build` does; a later one is the last message.
        """
        console = Console(options.quiet)
        work = asyncio.ensure_future(build.build(self._eng, self._caches, options, pieces, console))
        if options.build_id:
            self._named[options.build_id] = work
        closing = asyncio.ensure_future(_close(work, console))
        begun = False
        try:
            while (message := await console.messages.get()) is not None:
                begun = True
                yield message
            try:
                image = await work
            except asyncio.CancelledError:
                if not work.cancelled():
                    raise
                yield _error("Build cancelled")
            except RunFailed as problem:
                yield _error(str(problem), problem.code)
            except Exception as problem:
                if not begun:
                    raise
                yield _error(str(problem))
            else:
                if options.quiet:
                    yield {"stream": f"{image}\n"}
        finally:
            self._named.pop(options.build_id, None)
            closing.cancel()
            work.cancel()
            while not work.done():
                with contextlib.suppress(asyncio.QueueEmpty):
                    console.messages.get_nowait()
                await asyncio.wait([work], timeout=0.05)
            if not work.cancelled():
                work.exception()

    def cancel(self, build_id: str) -> None:
        """`POST /build/cancel`: end the build that was given this id; nothing when there is none."""
        if (work := self._named.get(build_id)) is not None:
            work.cancel()

    async def usage(self) -> list[dict[str, Any]]:
        """The records of the build cache that take room."""
        return await self._caches.describe()

    async def prune(self, all: bool, filters: dict[str, list[str]]) -> dict[str, Any]:
        """`POST /build/prune`: cache mounts that nobody uses, and what the steps have made is forgotten.

        all: accepted; there is nothing else.  Raises InvalidParameter for a filter.
        """
        for name in filters:
            if name not in _FILTERS:
                raise InvalidParameter(f"invalid filter '{name}'")
        ages = filters.get("until", []) + filters.get("unused-for", [])
        before = min((int(time.time() - _seconds(text)) for text in ages), default=None)
        if not filters:
            self._eng.db.execute("DELETE FROM build_steps")
        if "label" in filters or not set(filters.get("type", [KIND])) & {KIND}:
            return {"CachesDeleted": None, "SpaceReclaimed": 0}  # none has a label
        gone, freed = await self._caches.prune(before, filters.get("id", []))
        return {"CachesDeleted": gone or None, "SpaceReclaimed": freed}


async def _close(work: asyncio.Future[Any], console: Console) -> None:
    await asyncio.wait([work])
    await console.messages.put(None)


def _error(text: str, code: int = 0) -> Message:
    detail: Message = {"code": code, "message": text} if code else {"message": text}
    return {"errorDetail": detail, "error": text}


def _seconds(text: str) -> float:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidParameter(f"failed to parse until filter: invalid duration {text[:100]!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
