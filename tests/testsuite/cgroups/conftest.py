"""A group of each driver, and child processes that wait to be told to go."""

import os
import select
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from boxwright.libcontainer import cgroups
from boxwright.libcontainer.cgroups import files, hierarchy

SECONDS = 20.0


class Child:
    """A forked process that runs `function` once it is released; `result` is what that returned, or its error."""

    def __init__(self, function: Callable[[], object]) -> None:
        go_read, self._go = os.pipe()
        self._result, result_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setpgid(0, 0)
                os.close(self._go)
                os.close(self._result)
                os.read(go_read, 1)
                os.write(result_write, str(function()).encode() or b"-")
                status = 0
            except BaseException as error:
                os.write(result_write, f"{type(error).__name__} {getattr(error, 'errno', '')} {error}".encode())
            finally:
                os._exit(status)
        os.close(go_read)
        os.close(result_write)
        self._status: int | None = None

    def go(self) -> "Child":
        os.write(self._go, b"x")
        return self

    def result(self) -> str:
        """What the function returned; "" when the process was killed before it did."""
        assert select.select([self._result], [], [], SECONDS)[0], "the child neither answers nor ends"
        return os.read(self._result, 4096).decode()

    def wait(self) -> int:
        """The wait status, once."""
        if self._status is None:
            fd = os.pidfd_open(self.pid)
            try:
                assert select.select([fd], [], [], SECONDS)[0], "the child does not end"
            finally:
                os.close(fd)
            _, self._status = os.waitpid(self.pid, 0)
        return self._status

    def close(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self._go)
        os.close(self._result)


def forever() -> object:
    """For children that only have to be there."""
    while True:
        signal.pause()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Child]]:
    """Makes children; all are gone at the end."""
    made: list[Child] = []

    def make(function: Callable[[], object] = forever) -> Child:
        made.append(Child(function))
        return made[-1]

    yield make
    for child in made:
        child.close()


@pytest.fixture(params=["fs", "fs2"])
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver that this host has hierarchies for (v2 beside v1 has few controllers, but devices and freezer)."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    host = hierarchy.host()
    if request.param == "fs" and not any(not name.startswith("name=") for name in host.v1):
        pytest.skip("no cgroup v1 hierarchy is mounted here")
    if request.param == "fs2" and host.v2 is None:
        pytest.skip("cgroup v2 is not mounted here")
    return str(request.param)


@pytest.fixture
def group(driver: str) -> Iterator[Callable[..., cgroups.Manager]]:
    """Makes managers below a parent of this test's own; groups and parent are gone at the end."""
    parent = f"/boxwright-test-{uuid.uuid4().hex[:8]}"
    made: list[cgroups.Manager] = []

    def make(resources: dict[str, Any] | None = None, name: str = "c", create: bool = True) -> cgroups.Manager:
        manager = cgroups.manager(driver, parent, name, resources)
        made.append(manager)
        if create:
            manager.create()
        return manager

    yield make
    for manager in made:
        manager.kill()
        manager.destroy()
    cgroups.remove_parent(driver, parent)
    assert not any(os.path.exists(d) for d in cgroups.manager(driver, parent, "").directories())


@pytest.fixture
def needs(driver: str) -> Callable[[str], None]:
    """Skips a test of a controller that the driver's hierarchy does not have here."""
    host = hierarchy.host()
    if driver == "fs":
        available = set(host.v1)
    else:
        assert host.v2 is not None
        available = set(files.read(f"{host.v2.point}/cgroup.controllers").split())

    def check(controller: str) -> None:
        if controller not in available:
            pytest.skip(f"the {controller} controller is not with {driver} on this host")

    return check
