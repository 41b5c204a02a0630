"""The timeline of a start: named steps with monotonic times, collected in several processes and merged.

CLOCK_MONOTONIC is one clock for the whole machine, so steps of engine, shim and init line up without conversion.
A step is the list `[name, start_ns, end_ns, detail]`: JSON-ready, and small enough for the shim.
"""

from time import monotonic_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Step = list[Any]  # [str, int, int, str]


class Timeline:
    """Steps in the order in which they ended."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, name: str, detail: str = "") -> "_Running":
        """Context manager: record `name` from entry to exit, also when it fails (the failure is the last step)."""
        return _Running(self, name, detail)

    def add(self, name: str, start_ns: int, end_ns: int, detail: str = "") -> None:
        """Record a step that was timed elsewhere; times are CLOCK_MONOTONIC nanoseconds."""
        self.steps.append([name, start_ns, end_ns, detail])

    def extend(self, steps: "list[Step]") -> None:
        """Merge the steps that another process reported."""
        self.steps.extend(steps)


class _Running:
    __slots__ = ("detail", "name", "start", "timeline")

    def __init__(self, timeline: Timeline, name: str, detail: str) -> None:
        self.timeline, self.name, self.detail = timeline, name, detail

    def __enter__(self) -> "_Running":
        self.start = monotonic_ns()
        return self

    def __exit__(self, *exc: object) -> None:
        self.timeline.add(self.name, self.start, monotonic_ns(), self.detail)
