"""The engine's seccomp profiles for tests without an engine."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from boxwright.engine.seccomp import Host, Seccomp
from boxwright.libcontainer import seccomp_filter


class Compiler:
    """`Seccomp`, whose confined job is done in this process, to be called without a loop."""

    def __init__(self, root: str, default: str = "", host: Host | None = None) -> None:
        self._seccomp = Seccomp(root, self, default, host)

    def compile(self, profile: str, capabilities: Iterable[str]) -> str | None:
        """`Seccomp.compile`"""
        return asyncio.run(self._seccomp.compile(profile, capabilities))

    async def run(
        self,
        kind: str,
        args: dict[str, Any],
        fds: Sequence[int] = (),
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """`Jobs.run` of its one job."""
        assert kind == "seccomp.compile"
        return {"filter": seccomp_filter.compile(args["config"]).hex()}
