"""Wall-clock times as Docker writes them: RFC 3339 in UTC, nanoseconds, trailing zeros dropped."""

import time
from datetime import UTC, datetime

ZERO = "0001-01-01T00:00:00Z"  # Go's zero time: "never"


def now() -> str:
    """The present moment."""
    return rfc3339(time.time_ns())


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch → "2026-08-01T12:00:00.5Z"."""
    seconds, rest = divmod(ns, 1_000_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


def nanoseconds(text: str) -> int:
    """The inverse; also takes an offset ("+02:00").  ZERO and "" are 0.  Raises ValueError."""
    if not text or text == ZERO:
        return 0
    head, dot, tail = text.partition(".")
    digits = ""
    if dot:
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        tail = tail[len(digits) :]
    else:
        head, tail = head[:19], head[19:]
    moment = datetime.fromisoformat(head + (tail or "Z")).astimezone(UTC)
    return int(moment.timestamp()) * 1_000_000_000 + int((digits + "000000000")[:9])
