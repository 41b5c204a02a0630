"""Shims against the database.  Each is asked who it is (`launcher/door.py`), which nobody else notices."""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from time import monotonic
from typing import Any

from boxwright.doctor.findings import Finding, orphan
from boxwright.doctor.known import Known
from boxwright.launcher import outside, packets

# One that is well answers in a millisecond: so much for all of them together, and for each at least.
ANSWER_SECONDS, LEAST_SECONDS = 5.0, 1.0
_SUFFIX = ".sock"


def check(exec_root: str, known: Known) -> Iterator[Finding]:
    """Shims that nobody knows, shims that do not answer, sockets of shims that are gone.

    The launchers' sockets stay when these go for want of work, and the next ones replace them.
    """
    directory = f"{exec_root}/shims"
    names = os.listdir(directory) if os.path.isdir(directory) else []
    deadline = monotonic() + ANSWER_SECONDS
    for name in sorted(name for name in names if name.endswith(_SUFFIX)):
        id, path = name.removesuffix(_SUFFIX), f"{directory}/{name}"
        there, facts = _ask(directory, name, deadline)
        if not there:
            yield orphan("socket", path, "nobody listens there any more", partial(_unlink, path))
        elif id not in known.containers:
            what = f", process {facts['pid']}" if facts.get("pid") else ""
            problem = f"it runs a container that the database does not know{what}"
            yield orphan("shim", id, problem, _end(directory, name))
        elif not facts:
            advice = "see whether its process is stopped (kill -CONT); docker rm -f ends it and its container"
            yield Finding("error", "shim", id, "it does not answer", advice)
        elif (spoken := facts.get("protocol", packets.UNNUMBERED)) not in packets.SPOKEN:
            problem = f"it is of another version: it speaks protocol {spoken}, this one {packets.PROTOCOL}"
            yield Finding("warning", "shim", id, problem, "exec and attach work again after docker restart")


def _ask(directory: str, name: str, deadline: float) -> tuple[bool, dict[str, Any]]:
    """(whether somebody listens there, what it says it runs); nothing when it does not say so by the deadline."""
    try:
        sock = packets.connect(directory, name)
    except (ConnectionRefusedError, FileNotFoundError):
        return False, {}
    except BlockingIOError:  # nobody sees to those who wait there
        return True, {}
    with closing(sock):
        try:
            packets.send(sock, {"type": "who"})
            if not select.select([sock], [], [], max(LEAST_SECONDS, deadline - monotonic()))[0]:
                return True, {}
            got = packets.receive(sock)
        except (OSError, ValueError):
            got = None
    if got is None:
        return os.path.lexists(f"{directory}/{name}"), {}  # one that ends has removed its socket before it hangs up
    message, fds = got
    packets.close_all(fds)
    return True, message


def _end(directory: str, name: str) -> Callable[[], None]:
    def end() -> None:
        # Its children die with their pid namespace; what shares the host's is in the cgroup, the next find.
        outside.kill(directory, name)
        _unlink(f"{directory}/{name}")

    return end


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
