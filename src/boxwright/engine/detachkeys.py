"""The key sequence that detaches a client from a terminal: parsed once, then matched in the stream of its input.

Docker's notation: keys separated by commas, each one an ASCII character or `ctrl-` with a letter or one of `@[\\]^_`.
"""

from boxwright.errdefs import InvalidParameter

DEFAULT = b"\x10\x11"  # ctrl-p,ctrl-q


def parse(text: str, what: str = "detach") -> bytes:
    """The bytes of key sequence `text`; an empty text means the default sequence.

    what: dockerd speaks of "detach" keys at attach and of "escape" keys at exec.
    Raises InvalidParameter for a key that does not exist.
    """
    if not text:
        return DEFAULT
    keys = [_key(key) for key in text.split(",")]
    if None in keys:
        raise InvalidParameter(f"Invalid {what} keys ({text}) provided")
    return bytes(key for key in keys if key is not None)


def _key(key: str) -> int | None:
    if len(key) == 1 and key.isascii():
        return ord(key)
    name = key[5:].lower()
    if key[:5].lower() == "ctrl-" and len(name) == 1 and "@" <= name.upper() <= "_":
        return ord(name.upper()) - 64
    return None


class Escape:
    """Finds the sequence in input that arrives in pieces, and holds back what may be its beginning."""

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: bytes) -> None:
        self._keys, self._held = keys, 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Returns the bytes to pass on, and whether the sequence is complete (what follows it is dropped)."""
        keys, held, out = self._keys, self._held, bytearray()
        for byte in data:
            if byte == keys[held]:
                held += 1
                if held == len(keys):
                    self._held = 0
                    return bytes(out), True
                continue
            out += keys[:held]
            # Like Docker, a key that breaks the sequence may begin it anew, but no other overlap is looked for.
            held = 1 if byte == keys[0] else 0
            if not held:
                out.append(byte)
        self._held = held
        return bytes(out), False

    def rest(self) -> bytes:
        """What is still held back when the input ends."""
        held, self._held = self._keys[: self._held], 0
        return held
