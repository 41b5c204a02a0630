"""Signals as clients write them: "9", "KILL", "SIGKILL", "SIGRTMIN+3"."""

from boxwright.errdefs import InvalidParameter
from boxwright.linux import signals


def parse(text: str) -> int:
    """The number of signal `text`; raises InvalidParameter for one that does not exist."""
    try:
        return signals.number(text)
    except ValueError:
        raise InvalidParameter(f"invalid signal: {text[:100]}") from None
