"""What the doctor finds: an object, what is wrong with it, and what to do."""

from collections.abc import Callable
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is not as it should be.

    level: "error" (does not work, or is lost), "orphan" (left behind by somebody who is gone), "warning" (works, with
    the drawback that is named).
    mend: takes an orphan away; None for what the doctor does not mend.  Raises Error or OSError.
    """

    level: str
    kind: str
    which: str
    problem: str
    advice: str
    mend: Callable[[], None] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The same finding of a later look has the same key."""
        return self.kind, self.which

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {**{k: v for k, v in self._asdict().items() if k != "mend"}, "mendable": self.mend is not None}


def orphan(kind: str, which: str, problem: str, mend: Callable[[], None]) -> Finding:
    """Something of ours that belongs to nothing in the database."""
    return Finding("orphan", kind, which, problem, "boxwright doctor --repair removes it", mend)
