"""What a driver calls back for: the container's network, and what happens inside it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from boxwright.engine import exec
from boxwright.engine.state import Status
from boxwright.execdriver import Hooks

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

log = logging.getLogger(__name__)


class ContainerHooks(Hooks):
    """The hooks of one life of one container."""

    __slots__ = ("_container", "_eng")

    def __init__(self, eng: Engine, container: Container) -> None:
        self._eng, self._container = eng, container

    async def network(self, pid: int, netns_fd: int, netlink_fd: int) -> None:
        """Connect every planned endpoint; runs while init prepares the rest behind its gate."""
        for endpoint in self._container.endpoints.values():
            await self._eng.network.connect(endpoint, netns_fd, netlink_fd)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Publish what happened, and correct the state where the shim knows better."""
        eng, container = self._eng, self._container
        if kind == "oom":
            eng.announce(container, "oom")
        elif kind == "exec_exit":
            exec.ended(eng, container, data["exec_id"], data["exit_code"], data.get("timed_out", False))
        elif kind == "log_dropped":
            log.warning("container %s: %s log lines dropped: %s", container.id, data["lines"], data["error"])
        elif kind == "relay_ended":
            log.warning("container %s: its ports are no longer reached by IPv6: %s", container.id, data["error"])
        elif kind in ("paused", "unpaused"):
            # The verb that asked for it writes the state; this is for what happens without one.
            log.debug("container %s: %s while %s", container.id, kind, Status(container.state.status))
