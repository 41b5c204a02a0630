"""One life of a container at a time.

Cgroup, socket and exit record go by the container's id, so a life that is late (its engine died, its shim was stopped,
or has not even read its request) must not meet the next one.  Whoever works for a life holds the lock of the exit
record: the engine that asks for the start, the request on its way, the shim until it has removed the last trace, and
its starter.  The kernel gives the lock back however they end.
"""

import asyncio
import fcntl
import logging
import os
import signal
from time import monotonic

from boxwright import errdefs
from boxwright.launcher import exitrecord, protocol

LEAVE_SECONDS = 2.0  # for a life that ends by itself, and again for one that was killed
_LONGEST_PAUSE = 0.05  # seconds between two looks
_WAITING = "boxwright-spare"  # the name of a shim that waits for its request

log = logging.getLogger(__name__)


async def claim(container_dir: str, exec_root: str) -> int:
    """The container's exit record, locked for a life to begin (or for clearing up); the caller closes it.

    Waits for an earlier life that is about to leave, and ends one that does not.  Raises OSError when the record
    cannot be opened, StepError when an earlier life cannot be ended.
    """
    fd = exitrecord.open_in(container_dir)
    try:
        if not _take(fd):
            await _vacate(fd, container_dir, exec_root)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _vacate(fd: int, container_dir: str, exec_root: str) -> None:
    if await _freed(fd):
        return
    ended = await asyncio.to_thread(_end_holders, fd, exec_root)
    log.warning("%s: an earlier life did not leave: ended %s", container_dir, ended or "nothing")
    if not await _freed(fd):
        raise errdefs.StepError(
            "an earlier life of the container has not ended",
            step="shim",
            operation="flock",
            path=f"{container_dir}/{exitrecord.NAME}",
            hint="one of its processes is stopped, or in uninterruptible sleep (state D); try again when it has gone",
        )


async def _freed(fd: int) -> bool:
    """Wait LEAVE_SECONDS at most for the lock; whether it is ours now."""
    deadline, pause = monotonic() + LEAVE_SECONDS, 0.001
    while not _take(fd):
        if monotonic() > deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True


def _end_holders(record: int, exec_root: str) -> list[int]:
    """SIGKILL those of this run directory's shims and starters that have the record open; their pids.

    A request that nobody has read is nobody's descriptor: so what waits for the request of an engine before this one,
    or is stopped while it waits, is ended too.
    """
    wanted, ours, ended = os.fstat(record), protocol.start_time(os.getpid()), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            if _is_forked(name, exec_root) and (_waits(name, ours) or _has_open(name, wanted)):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                ended.append(int(name))
        except OSError:
            continue  # it has gone
        finally:
            os.close(pidfd)
    return ended


def _is_forked(pid: str, exec_root: str) -> bool:
    """Whether it is the launcher of this run directory, or was forked by it."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return b"\0shim\0" + os.fsencode(exec_root) + b"\0" in file.read(1 << 16)


def _waits(pid: str, ours: int) -> bool:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        if file.read().strip() != _WAITING:
            return False
    with open(f"/proc/{pid}/stat", "rb") as file:
        stopped = file.read(1024).rpartition(b")")[2].split()[0] == b"T"
    return stopped or protocol.start_time(int(pid)) < ours


def _has_open(pid: str, wanted: os.stat_result) -> bool:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found = os.stat(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False
