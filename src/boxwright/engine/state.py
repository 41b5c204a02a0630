"""A container's state: one status, one table of who may go where, and the operation that is under way.

    created ──► running ◄──► paused
                │  ▲  │         │
                ▼  │  ▼         ▼
        restarting ┘  exited ◄──┘     created, exited, dead ──► removing ──► (gone) or dead

A failed first start leaves `created` with an exit code and an error, as Docker does.  The operation is persisted beside
the status: an engine that comes back knows what was under way.
"""

from enum import StrEnum
from typing import Any

import msgspec

from boxwright.engine.clock import ZERO
from boxwright.errdefs import Conflict


class Status(StrEnum):
    """Docker's `State.Status`."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class Operation(StrEnum):
    """What a verb is doing to the container right now; at most one at a time, NONE in between."""

    NONE = ""
    STARTING = "starting"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    PAUSING = "pausing"
    UNPAUSING = "unpausing"
    RENAMING = "renaming"
    UPDATING = "updating"
    REMOVING = "removing"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.CREATED: frozenset({Status.RUNNING, Status.EXITED, Status.REMOVING}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.RESTARTING, Status.EXITED}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.RESTARTING, Status.EXITED}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED, Status.REMOVING}),
    Status.EXITED: frozenset({Status.RUNNING, Status.RESTARTING, Status.REMOVING}),
    Status.REMOVING: frozenset({Status.DEAD}),
    Status.DEAD: frozenset({Status.REMOVING}),
}

ALIVE = frozenset({Status.RUNNING, Status.PAUSED})
"""Statuses in which the container's init exists."""


class State(msgspec.Struct, kw_only=True):
    """What changes in a container's life; saved as one JSON document.  Replaced by `store.change`, not assigned to.

    pid: of the init in the host's pid namespace, 0 when there is none.
    generation: number of the present or last start, 0 before the first; a late exit of another life is ignored by it.
    started_at, finished_at: RFC 3339 or ZERO.
    error: the text that clients see; start_error: the StepError behind it as a dict, or None.
    manually_stopped: a person, or its time limit, stopped it: restart policies stay quiet.
    timed_out: its last life was ended by its time limit.
    stop_timeout: seconds of the stop or restart that is under way, None for the container's own; without meaning in
        other operations.
    """

    status: Status = Status.CREATED
    operation: Operation = Operation.NONE
    generation: int = 0
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_at: str = ZERO
    finished_at: str = ZERO
    restart_count: int = 0
    manually_stopped: bool = False
    timed_out: bool = False
    stop_timeout: int | None = None
    health: dict[str, Any] | None = None
    start_error: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Docker's `State.Running`: true for paused and restarting containers too."""
        return self.status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)


def check(name: str, old: Status, new: Status) -> None:
    """Raise Conflict when the table has no way from `old` to `new`.  Staying is always allowed."""
    if new is not old and new not in TRANSITIONS[old]:
        raise Conflict(f"container {name} cannot go from {old} to {new}")
