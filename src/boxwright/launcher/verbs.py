"""What an engine can ask of a container that runs: one small function each, in one table."""

import os

from boxwright import errdefs
from boxwright.launcher import packets, starter
from boxwright.launcher.protocol import error_to_dict
from boxwright.launcher.sessions import Session
from boxwright.linux import signals

__all__ = ["call", "error_to_dict"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from boxwright.launcher.shim import Shim
    from boxwright.libcontainer import cgroups

    Verb = Callable[["Shim", dict[str, Any], list[int]], Any]

LATER = object()  # the reply comes when the work is done


def call(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    """Do what `message` asks and reply; a verb takes the descriptors that it keeps off `fds`."""
    seq = message["seq"]
    try:
        verb = VERBS.get(message["verb"])
        if verb is None:
            raise errdefs.NotImplemented_(f"this shim does not know {message['verb']!r}")
        if message.get("cut"):
            raise errdefs.Unavailable(f"the shim of container {shim.id} has no descriptor left for another stream")
        if shim.state != "running":
            raise errdefs.Conflict(f"container {shim.id} is not running")
        result = verb(shim, message, fds)
        if result is not LATER:
            shim.reply(seq, result)
    except Exception as failure:
        shim.refuse(seq, failure)
    finally:
        packets.close_all(fds)


def _group(shim: "Shim") -> "cgroups.Manager":
    return starter.group(shim.cgroup, {})


def _own_group(shim: "Shim") -> "cgroups.Manager":
    """The container's cgroup.  Raises System when somebody has taken it away."""
    group = _group(shim)
    if not group.exists():
        raise errdefs.System(
            f"the cgroup of container {shim.id} is gone ({group.main_directory()}): somebody else has removed it, and "
            "its limits with it; restart the container to give it a new one"
        )
    return group


def _signal(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    number = message["signal"]
    if message["all"]:
        for pid in _group(shim).pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
    else:
        try:
            signals.send(shim.pidfd, number)
        except ProcessLookupError:
            raise errdefs.Conflict(f"container {shim.id} is not running") from None
    if shim.paused and number == signals.SIGKILL:
        # On cgroup v1 a frozen process dies only after the thaw; on v2 it makes no difference.
        _unpause(shim, message, fds)


def _resize(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    shim.stdio.resize(message["h"], message["w"])


def _attach(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    shim.stdio.attach(fds.pop(0), message["options"])


def _pause(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    if not shim.paused:
        group = _own_group(shim)
        try:
            group.freeze()
        except BaseException:
            # It may have frozen some, or all without our having seen it.
            try:
                group.thaw()
            except (errdefs.StepError, OSError):
                pass
            raise
        shim.paused = True
        shim.event("paused", {})


def _unpause(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    if shim.paused:
        _group(shim).thaw()
        shim.paused = False
        shim.event("unpaused", {})


def _exec(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> object:
    exec_id = message["exec_id"]
    if shim.paused:
        raise errdefs.Conflict(f"Container {shim.id} is paused, unpause the container before exec")
    if exec_id in shim.sessions:
        raise errdefs.Conflict(f"exec {exec_id} has already been started")
    taken, fds[:] = fds[:], []
    shim.sessions[exec_id] = Session(shim, message, taken)
    return LATER


def _session(shim: "Shim", message: "dict[str, Any]") -> Session:
    session = shim.sessions.get(message["exec_id"])
    if session is None:
        raise errdefs.Conflict(f"exec {message['exec_id']} is not running")
    return session


def _exec_resize(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    _session(shim, message).stdio.resize(message["h"], message["w"])


def _exec_signal(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    _session(shim, message).signal(message["signal"])


def _update(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> None:
    _own_group(shim).set(message["resources"])


def _pids(shim: "Shim", message: "dict[str, Any]", fds: list[int]) -> list[int]:
    return _group(shim).pids() or [shim.pid]  # somebody may have moved it elsewhere


VERBS: "dict[str, Verb]" = {
    "signal": _signal,
    "resize": _resize,
    "attach": _attach,
    "pause": _pause,
    "unpause": _unpause,
    "exec": _exec,
    "exec_resize": _exec_resize,
    "exec_signal": _exec_signal,
    "update": _update,
    "pids": _pids,
}
