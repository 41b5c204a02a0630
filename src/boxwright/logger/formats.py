"""The forms in which log files are kept, as a reader sees them: where records end, and what they say.  Engine side."""

import os
from typing import NamedTuple, Protocol

import msgspec

from boxwright.logger import local
from boxwright.logger.timestamps import rfc3339nano

_BLOCK = 256 << 10  # bytes of a file looked at together
_STREAMS = frozenset({"stdout", "stderr"})


class Record(NamedTuple):
    """stream: "stdout" or "stderr"; time: RFC 3339 in UTC; line: with its newline, without it when there is more."""

    stream: str
    time: str
    line: bytes


class Format(Protocol):
    """One of them."""

    longest: int  # bytes of one record; more without an end is no record

    def whole(self, data: bytes) -> int:
        """How many bytes of `data`, which begins with a record, are whole records."""

    def decode(self, data: bytes) -> list[Record]:
        """The records of what `whole` has found."""

    def from_end(self, fd: int, end: int, records: int) -> tuple[int, int, int]:
        """Where the last `records` before `end` begin: (offset, records from there to skip, records missing)."""


class _Entry(msgspec.Struct):
    log: str = ""
    stream: str = ""
    time: str = ""


_decoder = msgspec.json.Decoder(_Entry)


class JsonLines:
    """dockerd's json-file: see `jsonfile.py`."""

    longest = 1 << 20

    def whole(self, data: bytes) -> int:
        """See `Format`."""
        return data.rfind(b"\n") + 1

    def decode(self, data: bytes) -> list[Record]:
        """See `Format`."""
        return [
            Record(entry.stream, entry.time, entry.log.encode("utf-8", "replace"))
            for entry in _decode(data)
            if entry.stream in _STREAMS
        ]

    def from_end(self, fd: int, end: int, records: int) -> tuple[int, int, int]:
        """See `Format`."""
        seen = -1  # the first newline from the end only ends the last line
        while end > 0:
            begin = max(0, end - _BLOCK)
            block = os.pread(fd, end - begin, begin)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                seen += 1
                if seen == records:
                    return begin + at + 1, 0, 0
            end = begin
        return 0, 0, records - max(seen + 1, 0)


def _decode(block: bytes) -> list[_Entry]:
    try:
        return _decoder.decode_lines(block)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        entries = []
        for line in block.splitlines():
            try:
                entries.append(_decoder.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # torn by a crash of the host: the others still count
        return entries


class Blocks:
    """The local driver's: see `local.py`."""

    longest = local.LONGEST

    def whole(self, data: bytes) -> int:
        """See `Format`."""
        end = 0
        while length := local.is_whole(data, end):
            end += length
        return end

    def decode(self, data: bytes) -> list[Record]:
        """See `Format`."""
        records: list[Record] = []
        for stream, time, text in local.blocks(data):
            records += _lines(stream, rfc3339nano(time), text)
        return records

    def from_end(self, fd: int, end: int, records: int) -> tuple[int, int, int]:
        """See `Format`."""
        return local.lines_from_end(fd, end, records)


def _lines(stream: str, time: str, text: bytes) -> list[Record]:
    if not text.endswith(b"\n"):
        return [Record(stream, time, text)]
    return [Record(stream, time, line + b"\n") for line in text[:-1].split(b"\n")]


JSON_LINES, BLOCKS = JsonLines(), Blocks()
