"""A blob on its way here: an unnamed file that grows, and that is read while it does."""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp

from boxwright.errdefs import InvalidParameter
from boxwright.images import spool
from boxwright.specs.image import Descriptor

from . import errors, http
from .client import Registry
from .errors import Refused, Unreachable
from .manifests import pull_scope
from .shared import in_thread

_BATCH = 1 << 20  # bytes that are written at once
FED = 1 << 20  # bytes that a pipe holds
_MOVED = 8 << 20  # bytes that go into a pipe between two reports
# Not the loop's own: its few threads are for what ends soon.
_feeders = ThreadPoolExecutor(64, "feed")
_RANGE = re.compile(r"bytes (\d{1,20})-\d+/(?:\d+|\*)")

Progress = Callable[[int], None]
Waiting = Callable[[float], Coroutine[Any, Any, None]]


class Download:
    """`fd` is an empty file; `have` of its bytes have come.

    begun: it has been asked for.  whole: all of it is there, and the digest is right.
    """

    def __init__(self, fd: int, descriptor: Descriptor, repository: str) -> None:
        self.fd, self.descriptor, self.repository = fd, descriptor, repository
        self.have = 0
        self.begun, self.whole = asyncio.Event(), asyncio.Event()
        self._hash = hashlib.sha256()
        self._grown = asyncio.Event()

    async def run(self, registry: Registry, progress: Progress, waiting: Waiting, tries: int) -> None:
        """Fetch it; goes on where it was when the connection breaks, and gives up after `tries` without a byte.

        progress: hears `have`.  waiting: waits so many seconds, and says so.
        Raises Refused, Unreachable, InvalidParameter when the bytes are not those of the digest, TooLarge.
        """
        self.begun.set()
        failures = 0
        while self.have < self.descriptor.size:
            before, seconds = self.have, 0.0
            try:
                seconds = await self._attempt(registry, progress)
                if seconds < 0:
                    continue
                failure: Exception = Refused(429, "TOOMANYREQUESTS", "too many requests")
            except Unreachable as error:
                if not (error.again or self.have):
                    raise
                failure, seconds = error, http.pause(failures)
            failures = 0 if self.have > before else failures + 1
            if failures >= tries:
                raise failure
            await waiting(seconds)
        if f"sha256:{self._hash.hexdigest()}" != self.descriptor.digest:
            raise InvalidParameter(f"filesystem layer verification failed for digest {self.descriptor.digest}")
        self.whole.set()

    async def _attempt(self, registry: Registry, progress: Progress) -> float:
        """One request for what is missing; returns -1 when all of an answer came, else the seconds to wait."""
        url = registry.url(f"{self.repository}/blobs/{self.descriptor.digest}")
        headers = {"Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
        async with registry.open("GET", url, pull_scope(self.repository), headers) as response:
            if response.status in http.AGAIN:
                return http.pause(0, response.headers)
            if response.status not in (200, 206):
                raise await http.refusal(response)
            skip = self.have  # a registry that cannot resume begins anew
            if response.status == 206:
                found = _RANGE.match(response.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != self.have:
                    raise Unreachable("GET", url, "the answer is another range than the one asked for", False)
                skip = 0
            await self._receive(response, skip, progress)
        if self.have < self.descriptor.size:
            raise Unreachable("GET", url, "unexpected EOF", True)
        return -1.0

    async def _receive(self, response: aiohttp.ClientResponse, skip: int, progress: Progress) -> None:
        batch: list[bytes] = []
        pending = 0
        try:
            async for piece in response.content.iter_any():
                if skip:
                    dropped = min(skip, len(piece))
                    skip -= dropped
                    piece = piece[dropped:]
                batch.append(piece)
                pending += len(piece)
                if self.have + pending > self.descriptor.size:
                    raise InvalidParameter(
                        f"filesystem layer verification failed for digest {self.descriptor.digest}: it is longer than"
                        f" the {self.descriptor.size} bytes of the manifest"
                    )
                if pending >= _BATCH:
                    full, batch, pending = batch, [], 0
                    await self._keep(full, progress)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise errors.unreachable("GET", str(response.url), error) from error
        finally:
            if batch and self.have + pending <= self.descriptor.size:
                await self._keep(batch, progress)

    async def _keep(self, batch: list[bytes], progress: Progress) -> None:
        self.have += await in_thread(self._write, batch)
        self._grown.set()
        progress(self.have)

    def _write(self, batch: list[bytes]) -> int:
        for piece in batch:
            self._hash.update(piece)
        return spool.write(self.fd, batch, self.have)

    async def feed(self, pipe: int, progress: Progress) -> None:
        """Put the bytes into the pipe as they come; ends when nobody reads it any more.

        progress: hears how many have gone in.  When this is cancelled it ends once the pipe has no reader: whoever
        cancels it closes the last one.
        """
        position = 0
        while position < self.descriptor.size:
            while position >= self.have:
                self._grown.clear()
                await self._grown.wait()
            end = min(position + _MOVED, self.have)
            # A thread that waits in the kernel: by the loop, each piece that the reader takes would cost two wake-ups,
            # and they are what a busy machine is slow at.
            if not await in_thread(_move, self.fd, pipe, position, end, executor=_feeders):
                return  # who reads has ended: its own error says why
            position = end
            progress(position)


def _move(fd: int, pipe: int, position: int, end: int) -> bool:
    """Splice the file's bytes into the pipe; false when nobody reads it any more."""
    try:
        while position < end:
            position += os.splice(fd, pipe, end - position, offset_src=position)
    except BrokenPipeError:
        return False
    return True
