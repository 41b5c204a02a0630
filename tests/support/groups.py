"""What the tests of cgroup managers share."""

import os
import time
from collections.abc import Callable

from boxwright.libcontainer import cgroups
from boxwright.libcontainer.cgroups import files


def value(manager: cgroups.Manager, v1: str, v2: str) -> str:
    """The content of the interface file, by the name that it has in each version."""
    if manager.driver == "fs":
        return files.read(f"{manager.paths[v1.partition('.')[0]]}/{v1}")
    return files.read(f"{manager.paths['']}/{v2}")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a state of the kernel that sends no event."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        os.sched_yield()
