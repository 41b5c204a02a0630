"""Progress as dockerd tells it: JSON messages out of which clients draw their bars."""

import asyncio
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
Emit = Callable[[Message], None]

_INTERVAL = 0.1  # seconds between two messages of one bar
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_WIDTH = 50


def short(digest: str) -> str:
    """The 12 digits by which people know a layer."""
    return digest.partition(":")[2][:12]


def status(id: str, text: str) -> Message:
    """A layer has come to a new stage."""
    return {"status": text, "progressDetail": {}, "id": id}


def line(text: str, id: str = "") -> Message:
    """A line of its own."""
    return {"status": text, "id": id} if id else {"status": text}


def bar(id: str, text: str, current: int, total: int) -> Message:
    """So many bytes of so many."""
    return {
        "status": text,
        "progressDetail": {"current": current, "total": total},
        "progress": _drawn(current, total),
        "id": id,
    }


def _drawn(current: int, total: int) -> str:
    done = min(_WIDTH, current * _WIDTH // total) if total > 0 else _WIDTH
    arrow = ">" if done < _WIDTH else ""
    return f"[{'=' * done}{arrow}{' ' * (_WIDTH - done - len(arrow))}]  {human(current)}/{human(total)}"


def human(size: float) -> str:
    """Bytes with four digits, as Go's units.HumanSize."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.4g}{_UNITS[unit]}"


class Bar:
    """One stage of one layer: tells now and then how far it is."""

    def __init__(self, emit: Emit, id: str, text: str, total: int) -> None:
        self._emit, self._id, self._text, self._total = emit, id, text, total
        self._last = 0.0

    def __call__(self, current: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._last >= _INTERVAL or current >= self._total:
            self._last = now
            self._emit(bar(self._id, self._text, current, self._total))
