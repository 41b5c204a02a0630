"""Time limits of a container and of its execs.  The shim owns their timers, so that they hold without an engine.

An exec is ended with its descendants, which have no cgroup of their own: a child of the shim looks for them among the
processes of the container.  A process belongs to the exec when its parent does, or when it is in the exec's session.
An orphan keeps its place in that tree: the program of an exec with a limit adopts its descendants
(PR_SET_CHILD_SUBREAPER).  What is found is stopped first, so that it cannot fork, until nothing new is found; then all
of it is killed.  Not found is only what had left the session and lost its parent before a kill of an exec without a
limit.
"""

import os
from time import monotonic_ns

from boxwright import errdefs
from boxwright.launcher import starter
from boxwright.launcher.loop import IN
from boxwright.linux import process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from boxwright.launcher.shim import Shim
    from boxwright.libcontainer import cgroups

ROUNDS = 64  # of looking for new descendants: each stops all that the one before has found


class Limit:
    """The time limit of a container's life: its stop signal, then SIGKILL.

    wanted: {"seconds": from now, "signal": number, "grace": seconds until SIGKILL, -1 for never}.
    passed: whether the limit has been reached.
    """

    __slots__ = ("_grace", "_shim", "_signal", "passed")

    def __init__(self, shim: "Shim", wanted: "dict[str, Any]") -> None:
        self._shim, self._signal, self._grace = shim, wanted["signal"], wanted["grace"]
        self.passed = False
        shim.loop.at(monotonic_ns() + wanted["seconds"] * 1_000_000_000, self._stop)

    def _stop(self) -> None:
        if self._shim.state != "running":
            return
        self.passed = True
        self._send(self._signal)
        if self._grace >= 0:
            self._shim.loop.at(monotonic_ns() + self._grace * 1_000_000_000, self._kill)

    def _kill(self) -> None:
        if self._shim.state == "running":
            self._send(signals.SIGKILL)

    def _send(self, number: int) -> None:
        shim = self._shim
        try:
            signals.send(shim.pidfd, number)
        except ProcessLookupError:
            return
        if shim.paused:  # frozen processes act on no signal
            try:
                starter.group(shim.cgroup, {}).thaw()
            except (errdefs.StepError, OSError):
                return
            shim.paused = False
            shim.event("unpaused", {})


def end_exec(shim: "Shim", leader: int, kill: "Callable[[], None]") -> None:
    """SIGKILL for the exec whose program is `leader`, and for its descendants; returns before they have ended.

    kill: sends SIGKILL to the program alone if it has not ended; the last resort.
    A child does the work: the pages that it touches are not the shim's for long.
    """
    try:
        pid = os.fork()
    except OSError:  # no room for another process
        kill()
        return
    if not pid:
        try:
            process.close_all_except({0, 1, 2})
            _end_tree(leader, starter.group(shim.cgroup, {}))
        finally:
            os._exit(0)
    child = os.pidfd_open(pid)

    def ended(_: int) -> None:
        shim.loop.forget(child)
        os.waitid(os.P_PIDFD, child, os.WEXITED)
        os.close(child)
        kill()

    shim.loop.watch(child, IN, ended)


def _end_tree(leader: int, group: "cgroups.Manager") -> None:
    """Stop what belongs to `leader`, until nothing new is found; then kill it, the leader last: it adopts."""
    found: dict[int, int] = {}
    try:
        _signal(leader, _stat(leader)[2], signals.SIGSTOP)
        found[leader] = _stat(leader)[2]
        for _ in range(ROUNDS):
            if not _stop_new(leader, found, group.pids()):
                break
    except (OSError, ValueError, IndexError, errdefs.StepError):
        pass  # what has been found so far is killed
    for pid, start in reversed(found.items()):
        _signal(pid, start, signals.SIGKILL)


def _stop_new(leader: int, found: dict[int, int], pids: list[int]) -> bool:
    """One look at the container's processes: stop and add those that are new; whether there were any."""
    table = {}
    for pid in pids:
        try:
            table[pid] = _stat(pid)
        except (OSError, ValueError, IndexError):
            continue
    before = len(found)
    grown = True
    while grown:
        grown = False
        for pid, (parent, session, start) in table.items():
            if pid not in found and (parent in found or session == leader):
                found[pid] = start
                _signal(pid, start, signals.SIGSTOP)
                grown = True
    return len(found) > before


def _signal(pid: int, start: int, number: int) -> None:
    """Send a signal to the process that had this pid at this start time; none when it has ended."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _stat(pid)[2] == start:
            signals.send(fd, number)
    except (OSError, ValueError, IndexError):
        return
    finally:
        os.close(fd)


def _stat(pid: int) -> tuple[int, int, int]:
    """(parent, session, start time in ticks since boot) of a process: fields 4, 6 and 22 of /proc/pid/stat."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The command, in parentheses, may hold anything: count from the last ")".
        fields = file.read(1024).rpartition(b")")[2].split()
    return int(fields[1]), int(fields[3]), int(fields[19])
