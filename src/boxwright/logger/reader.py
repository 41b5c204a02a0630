"""Reading logs that are kept here: history, tail, since and until, and following across rotation.  Engine side.

    app.log.2.gz     app.log.1     app.log          oldest first; the writer renames them upwards
         └───────────────┴────────────┴──► Tape ──► read() ──► batches of Records

Files are read in threads (19: log reading runs off the loop).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from boxwright.logger import timestamps
from boxwright.logger.formats import JSON_LINES, Format, Record
from boxwright.logger.tape import Tape
from boxwright.logger.timestamps import fixed
from boxwright.logger.watch import Watch

__all__ = ["Options", "Record", "fixed", "read"]


class Options(NamedTuple):
    """since, until: nanoseconds since the epoch, None for open; tail: number of records from the end, -1 for all."""

    since: int | None = None
    until: int | None = None
    tail: int = -1
    follow: bool = False
    stdout: bool = True
    stderr: bool = True


async def read(
    path: str, options: Options, ended: asyncio.Event | None = None, form: Format = JSON_LINES
) -> AsyncIterator[list[Record]]:
    """The records of the log at `path`, in batches of whole records; a log that does not exist is empty.

    The first batch is empty and says that the log is open: what has been written is read, also when it is removed.

    ended: with `follow`, set when nothing more will be written; what is there by then is still delivered.
    """
    watch = Watch(os.path.dirname(path)) if options.follow else None
    tape = Tape(path, form)
    try:
        await asyncio.to_thread(tape.begin, options.tail, options.follow)
        yield []
        while True:
            # Looked at before reading: what was written before `ended` was set is then read for certain.
            last = watch is None or (ended is not None and ended.is_set())
            found = await asyncio.to_thread(tape.read)
            if found:
                records, over = _select(found, options)
                if records:
                    yield records
                if over:
                    return
            elif last or watch is None or _is_past(options.until):
                return
            else:
                await watch.wait(ended, options.until)
    finally:
        tape.close()
        if watch is not None:
            watch.close()


def _is_past(until: int | None) -> bool:
    return until is not None and time.time_ns() > until


def _select(found: list[Record], options: Options) -> tuple[list[Record], bool]:
    """Those that are asked for, and whether `until` has been passed."""
    since, until, over = options.since, options.until, False
    if since is not None or until is not None:
        chosen = []
        for record in found:
            try:
                at = timestamps.nanoseconds(record.time)
            except ValueError:
                continue
            if until is not None and at > until:
                over = True
                break
            if since is None or at >= since:
                chosen.append(record)
        found = chosen
    if not (options.stdout and options.stderr):
        found = [record for record in found if getattr(options, record.stream, False)]
    return found, over
