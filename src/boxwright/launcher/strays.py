"""Programs of execs whose helper died before it could tell of them (`libcontainer/handover.py`, fork_again).

They end by themselves.  But they are our children, and the first process of their pid namespace cannot end before each
process in it has been reaped (zap_pid_ns_processes): a container with a stray would survive its SIGKILL.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.launcher.shim import Shim

AGAIN_NS = 100_000_000  # between two looks: one may be frozen


def reap(shim: "Shim") -> bool:
    """Reap those that have ended; False when one may be left."""
    sessions = shim.sessions.values()
    if any(not session.pid for session in sessions):
        return False  # a child that is not known may be the next that is told of
    known = {shim.pid, *(session.pid for session in sessions)}
    depth, left = _depth("self"), False
    for pid in children():
        if pid not in known and _depth(str(pid)) > depth:
            left = not os.waitpid(pid, os.WNOHANG)[0] or left
    return not left


def children() -> list[int]:
    """The children of this process, the dead ones too."""
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children", "rb") as file:
        return [int(child) for child in file.read(1 << 16).split()]


def _depth(pid: str) -> int:
    """In how many pid namespaces a process has a number; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            _, _, rest = file.read(4096).partition(b"\nNSpid:")
    except OSError:
        return 0
    return len(rest.partition(b"\n")[0].split())
