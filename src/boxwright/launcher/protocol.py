"""Messages between the engine and a shim, and between a shim and its starters, all of them.

`packets.py` says how a message travels.  Every message has "generation", the container's start number: a reader drops
what belongs to another life.  {…}+body means that part of it is passed on undecoded.

    engine                                   shim                          starter                        init
      │ launcher.sock: "fork" + control fd     │ (forked)                     │                              │
      ├── start {…}+body, attach fds ─────────►├── fork, with the body ──────►│ decode, overlay, cgroup      │
      │                                        │ log, record, socket          ├── clone ────────────────────►│ mounts …
      │◄── created {pid} + netns, netlink fds ─┤◄── network ──────────────────┤ (only when asked for)        │
      ├── go {} ──────────────────────────────►├── go ───────────────────────►│◄── ready ────────────────────┤
      │                                        │◄── console + pty master ─────┤ engine still there?          │
      │                                        │                              ├── gate opens ───────────────►│ seccomp
      │◄── started {…}+steps ──────────────────┤◄── executed {…}+steps ───────┤◄── closed ───────────────────┘ execve
      │        or failed {error}+steps         │        or failed              ┘ ends; init is the shim's child
      ├── call {seq, verb, …} ────────────────►│
      │◄── reply {seq, result | error} ────────┤
      │◄── event {kind, …} ────────────────────┤  oom, paused, unpaused, log_dropped
      │◄── event {kind: exec_exit, …} ─────────┤  the exec's streams stay open until
      ├── exec_release {exec_id} ─────────────►│  … this, or the engine's death
      │◄── exit {status} ──────────────────────┤  streams drained, exit record on disk
      ├── release {again} ────────────────────►│  removes cgroup and socket, closes, goes; or, in a burst,
      │◄── waiting {} ─────────────────────────┤  keeps the connection for another start

A shim that waits has a first process that waits too, and sends the engine a line to it: `prepared {}` + descriptor.  By
it the engine tells the body to that process itself, and then the shim its part.  The process begins at once, and meets
the shim when it is ready or has failed (`starter.become`).  An engine that dies between the two leaves a cgroup by the
name that it had planned, for the next.

On cgroup v1, without user namespaces and joined pid namespaces, starter and init are one process, and so are an exec's
starter and its helper (`firstborn.py`): then the shim hears the messages of `libcontainer/sync.py` itself.

The shim sends the starter its go as soon as it is ready itself (without a network at once), so the gate costs no round
trip; the starter looks whether the engine is still there.  Without a network it says "begun" to the engine first: from
then on the program may run, so a start whose shim is lost is not tried again.  A control socket that closes before the
go aborts the start and removes everything.  After it, the shim lives on; a new engine connects to
`<exec_root>/shims/<id>.sock`:

      ├── adopt {} ──────────────────────────►│
      │◄── hello {protocol, id, pid, start_time, state, started_at, execs, exit, cgroup}+steps ─┤

The newest that says so is the one that counts.  Shims outlive an upgrade: `packets.PROTOCOL` numbers all this, and
hello tells the shim's.  Whatever the number, an engine says adopt, and hello has protocol, generation, pid, start_time,
started_at, paused and cgroup; a shim that nobody is connected to leaves an exit record (`exitrecord.py`) and goes.
With that much an engine leaves a container running whose shim it does not understand (`execdriver/foreign.py`).

Who only asks (`boxwright doctor`) says `who {}`, gets `facts` (what hello says, without the steps), and is nobody:
`door.py`.
"""

from boxwright import errdefs
from boxwright.launcher.packets import (
    INLINE,
    LONGEST_REQUEST,
    SPARE,
    bind,
    close_all,
    connect,
    decode,
    encode,
    pair,
    receive,
    receive_packet,
    send,
    send_packet,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "INLINE", "LONGEST_REQUEST", "SPARE", "bind", "close_all", "connect", "decode", "encode", "error_from_dict",
    "error_to_dict", "pair", "receive", "receive_packet", "send", "send_packet", "start_time",
]  # fmt: skip

# How a verb's failure crosses back: the class by name, the text, and for StepError its fields.
_ERRORS = {
    c.__name__: c
    for c in (
        errdefs.InvalidParameter, errdefs.NotModified, errdefs.Forbidden, errdefs.NotFound, errdefs.Conflict,
        errdefs.TooLarge, errdefs.System, errdefs.NotImplemented_, errdefs.Unavailable,
    )
}  # fmt: skip


def error_to_dict(error: BaseException) -> "dict[str, Any]":
    """Any failure as data; what is not one of ours becomes System with its text."""
    if isinstance(error, errdefs.StepError):
        return {"class": "StepError", **error.to_dict()}
    name = type(error).__name__
    if name in _ERRORS:
        return {"class": name, "message": str(error)}
    return {"class": "System", "message": str(error) or name}


def error_from_dict(data: "dict[str, Any]") -> errdefs.Error:
    """The inverse of `error_to_dict`."""
    if data.get("class") == "StepError":
        return errdefs.StepError.from_dict(data)
    return _ERRORS.get(str(data.get("class")), errdefs.System)(str(data.get("message") or "unknown error"))


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (field 22 of /proc/pid/stat); 0 when it is gone.

    Pid and start time together name a process for the life of the machine.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command, in parentheses, may hold anything: count from the last ")".
            return int(file.read(1024).rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
