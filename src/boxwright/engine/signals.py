"""Signals as clients write them: "9", "KILL", "SIGKILL", "SIGRTMIN+3"."""

import signal

from boxwright.errdefs import InvalidParameter

_NAMES = {name.removeprefix("SIG"): int(number) for name, number in signal.Signals.__members__.items()}
# The C library keeps the first two real-time signals for itself, so its RTMIN is 34; clients count from there.
_MIN, _MAX = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
_NAMES |= {f"RTMIN+{n}": _MIN + n for n in range(1, 16)} | {f"RTMAX-{n}": _MAX - n for n in range(1, 15)}


def parse(text: str) -> int:
    """The number of signal `text`; raises InvalidParameter for one that does not exist."""
    if text.isascii() and text.isdigit():
        number = int(text[:4])
        if 0 < number <= _MAX:
            return number
    elif (found := _NAMES.get(text.upper().removeprefix("SIG"))) is not None:
        return found
    raise InvalidParameter(f"invalid signal: {text}")
