"""Programs of execs whose helper died before it could tell of them (`libcontainer/handover.py`, fork_again).

They end by themselves.  But they are our children, and the first process of their pid namespace cannot end before each
process in it has been reaped (zap_pid_ns_processes): a container with a stray would survive its SIGKILL.
"""

import os
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.launcher.shim import Shim

AGAIN_NS = 100_000_000  # between two looks: one may be frozen
UNDO_SECONDS = 5.0


def reap(shim: "Shim") -> bool:
    """Reap those that have ended; False when one may be left.  Raises OSError without a descriptor to look with."""
    if any(not session.pid for session in shim.sessions.values()):
        return False  # a child that is not known may be the next that is told of
    owned, left = _owned(), False
    for pid in children():
        if pid not in owned:
            left = not os.waitpid(pid, os.WNOHANG)[0] or left
    return not left


def children() -> list[int]:
    """The children of this process, the dead ones too."""
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children", "rb") as file:
        return [int(child) for child in file.read(1 << 16).split()]


def _owned() -> set[int]:
    """The processes that somebody here has a descriptor of: who has it sees to it."""
    found = set()
    for fd in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
                _, _, rest = file.read(1024).partition(b"\nPid:")
        except FileNotFoundError:
            continue  # of the listing itself
        if rest:
            found.add(int(rest.split(b"\n", 1)[0]))
    return found


def end_all() -> None:
    """After an undone start: kill and reap whatever a killed starter has left to us (an init not yet in its cgroup)."""
    deadline = monotonic() + UNDO_SECONDS
    while monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for child in children():
            try:
                os.kill(child, 9)
            except ProcessLookupError:
                continue
        sleep(0.001)
