"""The time limit of a container's life: HostConfig.Timeout, or the label `boxwright.timeout` of the create request.

Whole seconds.  A label that only the image has sets no limit.

The shim owns the timer (`launcher/limits.py`); a new engine finds the limit holding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from boxwright.engine import signals
from boxwright.errdefs import InvalidParameter

if TYPE_CHECKING:
    from boxwright.engine.store import Container
    from boxwright.types.container import ContainerConfig, HostConfig

LABEL = "boxwright.timeout"
LONGEST = 10**9  # seconds
DEFAULT_GRACE = 10  # seconds from the stop signal to SIGKILL


def seconds(config: ContainerConfig, host_config: HostConfig) -> int:
    """The limit, 0 for none; HostConfig's wins.  Raises InvalidParameter for what is no number of seconds."""
    if host_config.timeout:
        if not 0 < host_config.timeout <= LONGEST:
            raise InvalidParameter(f"HostConfig.Timeout must be 0 to {LONGEST} seconds: {host_config.timeout}")
        return host_config.timeout
    text = (config.labels or {}).get(LABEL)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= LONGEST):
        raise InvalidParameter(f"label {LABEL} must be 0 to {LONGEST} seconds: {text!r}")
    return int(text)


def of(container: Container) -> dict[str, int] | None:
    """The limit as a shim takes it, or None."""
    found = container.host_config.timeout
    if not found:
        return None
    config = container.config
    grace = DEFAULT_GRACE if config.stop_timeout is None else config.stop_timeout
    signal = signals.parse(config.stop_signal or "TERM")
    return {"seconds": found, "signal": signal, "grace": min(grace, LONGEST)}
