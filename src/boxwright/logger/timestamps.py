"""RFC 3339 times with nanoseconds, as Docker writes them in logs and in a container's state.  Light imports only."""

from time import gmtime

_second = (-1, "")  # the last whole second that was formatted, and its text: log batches share it


def rfc3339nano(nanoseconds: int) -> str:
    """UTC text for nanoseconds since the epoch; trailing zeros of the fraction are cut, as Go's RFC3339Nano does."""
    global _second
    second, fraction = divmod(nanoseconds, 1_000_000_000)
    if _second[0] != second:
        t = gmtime(second)
        _second = (second, f"{t[0]:04d}-{t[1]:02d}-{t[2]:02d}T{t[3]:02d}:{t[4]:02d}:{t[5]:02d}")
    if not fraction:
        return _second[1] + "Z"
    return f"{_second[1]}.{fraction:09d}".rstrip("0") + "Z"


def fixed(text: str) -> str:
    """The same time with all nine digits (`docker logs --timestamps`); what is no UTC time of ours comes back as is."""
    head, dot, fraction = text.partition(".")
    if not text.endswith("Z"):
        return text
    return f"{head}.{fraction[:-1]:0<9}Z" if dot else f"{head[:-1]}.000000000Z"


def nanoseconds(text: str) -> int:
    """Nanoseconds since the epoch for UTC text with any number of fraction digits.  Raises ValueError."""
    head, _, fraction = text.removesuffix("Z").partition(".")
    day, t, clock = head.partition("T")
    if not t or not text.endswith("Z"):
        raise ValueError(f"not an RFC 3339 time in UTC: {text!r}")
    year, month, mday = map(int, day.split("-"))
    hour, minute, second = map(int, clock.split(":"))
    whole = _days(year, month, mday) * 86400 + hour * 3600 + minute * 60 + second
    return whole * 1_000_000_000 + int(f"{fraction[:9]:0<9}")


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the Gregorian calendar; years are counted from March, so that leap days come last."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
