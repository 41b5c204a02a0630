"""Lines out of what reads give: whole ones together, long ones in parts.  Light imports only.

A line longer than PARTIAL bytes becomes several records, of which only the last ends in a newline (as dockerd splits).
"""

PARTIAL = 16 << 10  # bytes of a line in one record, its newline included


def pieces(data: bytes, start: int) -> "tuple[list[bytes], int]":
    """(records of `data` from `start`, where what waits for the rest of its line begins).

    A piece that ends in a newline is a run of whole lines; one that does not is one part of a longer line.
    """
    out: list[bytes] = []
    while True:
        end = whole_lines(data, start)
        if end > start:
            out.append(data[start:end])
            start = end
        if len(data) - start < PARTIAL:
            return out, start
        cut = boundary(data, start + PARTIAL)
        out.append(data[start:cut])
        start = cut


def whole_lines(data: bytes, start: int) -> int:
    """Where the run of lines that begins at `start`, and in which each fits one record, ends."""
    while cut := data.rfind(b"\n", start, start + PARTIAL) + 1:
        start = cut
    return start


def boundary(data: bytes, cut: int) -> int:
    """`cut`, or up to three bytes less, so that no UTF-8 character is cut in two."""
    for back in (1, 2, 3):
        byte = data[cut - back]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return cut - back if length > back else cut
    return cut


class Partial:
    """Which part of a long line a record is: id common to all its parts, ordinal from 1, whether it is the last."""

    __slots__ = ("id", "last", "ordinal")

    def __init__(self, id: str, ordinal: int, last: bool) -> None:
        self.id, self.ordinal, self.last = id, ordinal, last
