"""How a life ended, as a shim tells it and as it leaves it on disk."""

from typing import Any

from boxwright.execdriver import ExitStatus
from boxwright.launcher import exitrecord


def recorded(container_dir: str, generation: int) -> ExitStatus | None:
    """The exit record of this generation, or None."""
    record = exitrecord.read(container_dir)
    if record is None or record.get("generation") != generation or "exit_code" not in record:
        return None
    return status(record)


def status(record: dict[str, Any]) -> ExitStatus:
    """Of an exit message or a record."""
    return ExitStatus(
        record["exit_code"],
        record["signal"],
        record["oom_killed"],
        record["finished_at"],
        record["error"],
        str(record.get("started_at") or ""),
        bool(record.get("timed_out")),
        lived / 1e9 if isinstance(lived := record.get("lived_ns"), int) else None,
    )
