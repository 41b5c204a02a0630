"""What a confined job writes into a pipe, as a stream of the engine."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Sequence

from boxwright.confined import Args, Jobs

_CHUNK = 1 << 20


async def job_stream(jobs: Jobs, kind: str, args: Args, fds: Sequence[int]) -> AsyncGenerator[bytes, None]:
    """Run the job with a pipe as its last descriptor, and give what it writes there.

    `fds` stay open until the stream has ended.  Raises the job's error, perhaps after a part of its output; a stream
    that is closed early ends the job.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # past the user's share of pipe memory: it works with less
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, _CHUNK)
    os.set_blocking(read, False)
    job = asyncio.ensure_future(jobs.run(kind, args, [*fds, write]))
    # Our copy of the pipe's other end goes when the job has ended: what it wrote is in the pipe then.
    job.add_done_callback(lambda _: os.close(write))
    try:
        while data := await _read(read):
            yield data
        await job
    finally:
        os.close(read)  # first: a job that writes into it ends with that
        if not job.done():
            job.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await job
        elif not job.cancelled():
            job.exception()


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            pass
        ready = asyncio.Event()
        loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(fd)
