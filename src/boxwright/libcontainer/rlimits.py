"""Resource limits of a process, from an OCI `process.rlimits` (setrlimit(2), prlimit(2))."""

import errno
import resource

from boxwright.errdefs import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def apply(pid: int, rlimits: "list[dict[str, Any]]") -> None:
    """Set every limit of `pid` (0: of the caller).  Raises StepError that names the limit and its values."""
    for item in rlimits:
        name, soft, hard = item["type"], item["soft"], item["hard"]
        number = getattr(resource, name, None)
        if number is None:
            raise StepError(f"no such resource limit: {name}", step="rlimits", path=name)
        try:
            resource.prlimit(pid, number, (_unlimited(soft), _unlimited(hard)))
        except (OSError, ValueError) as error:
            raise StepError(
                f"error setting rlimit {name} to {soft}:{hard}: {error}",
                step="rlimits",
                operation="prlimit",
                path=name,
                errno=getattr(error, "errno", 0) or errno.EINVAL,
                hint="raising a hard limit needs CAP_SYS_RESOURCE in the engine",
            ) from error


def _unlimited(value: int) -> int:
    """RLIM_INFINITY however it is written: -1, or 2⁶⁴-1 as Go writes it."""
    return resource.RLIM_INFINITY if value < 0 or value >= 2**64 - 1 else value
