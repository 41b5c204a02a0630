"""The life of a container as the OCI runtime sees it: one state, one table of who may go where.

creating ──▶ created ──▶ running ◀──▶ paused
    │           │           │            │
    └───────────┴───────────┴────────────┴──▶ stopped
"""

from boxwright import errdefs

CREATING = "creating"
CREATED = "created"
RUNNING = "running"
PAUSED = "paused"
STOPPED = "stopped"

TRANSITIONS: dict[str, tuple[str, ...]] = {
    CREATING: (CREATED, STOPPED),
    CREATED: (RUNNING, STOPPED),
    RUNNING: (PAUSED, STOPPED),
    PAUSED: (RUNNING, STOPPED),
    STOPPED: (),
}
# What a verb of the runtime needs the state to be.
ALLOWED: dict[str, tuple[str, ...]] = {
    "start": (CREATED,),
    "kill": (CREATED, RUNNING, PAUSED),
    "delete": (STOPPED,),
    "exec": (RUNNING,),
    "pause": (RUNNING,),
    "resume": (PAUSED,),
}


def move(now: str, to: str) -> str:
    """`to`, when the table lets `now` become it; raises errdefs.Conflict otherwise."""
    if to not in TRANSITIONS[now]:
        raise errdefs.Conflict(f"a {now} container cannot become {to}")
    return to


def require(verb: str, now: str, container_id: str) -> None:
    """Raise errdefs.Conflict when `verb` is not for a container that is `now`."""
    if now not in ALLOWED[verb]:
        raise errdefs.Conflict(f"cannot {verb} container {container_id}: it is {now}")
