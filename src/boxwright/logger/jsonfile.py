"""The json-file log driver's writer: one JSON object a line, rotated by size, never in the container's way.

    {"log":"text\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}

Light imports only: this runs in every shim.
"""

from _json import encode_basestring
from time import time_ns

from boxwright.logger.lines import pieces
from boxwright.logger.rotation import RotatingFile
from boxwright.logger.timestamps import rfc3339nano

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxwright.logger.packing import Packer

# Bytes that JSON carries as they are, and the newline, which is replaced on its own.
_PLAIN = bytes(c for c in range(0x20, 0x7F) if c not in b'"\\') + b"\n"
_HEAD = b'{"log":"'


def log_path(container_dir: str, container_id: str) -> str:
    """Where the log of a container is; rotated ones are beside it as `.1` (the newest) and up."""
    return f"{container_dir}/{container_id}-json.log"


class JsonFileWriter(RotatingFile):
    """Writes JSON records to `path`; see `RotatingFile`.

    attrs: JSON object text for each record's "attrs", or "".
    """

    __slots__ = ("_attrs",)

    def __init__(
        self, path: str, max_size: int, max_files: int, attrs: str = "", packer: "Packer | None" = None
    ) -> None:
        self._attrs = f'"attrs":{attrs},' if attrs else ""
        super().__init__(path, max_size, max_files, packer)

    def write(self, stream: str, data: bytes, now: int = 0) -> None:
        """See `RotatingFile`."""
        if pending := self._pending.get(stream):
            data = pending + data
        tail = self._tail(stream, now or time_ns())
        found, start = pieces(data, 0)
        self._pending[stream] = data[start:]
        if found:
            self.append(b"".join([_render(piece, tail) for piece in found]))

    def flush(self, stream: str) -> None:
        """See `RotatingFile`."""
        if pending := self._pending.pop(stream, b""):
            self.append(_render_partial(pending, self._tail(stream, time_ns())))

    def _tail(self, stream: str, now: int) -> str:
        return f'","stream":"{stream}",{self._attrs}"time":"{rfc3339nano(now)}"}}\n'


def _render(piece: bytes, tail: str) -> bytes:
    return _render_lines(piece, tail) if piece.endswith(b"\n") else _render_partial(piece, tail)


def _render_lines(data: bytes, tail: str) -> bytes:
    """The records of `data`, which consists of whole lines."""
    end = b"\\n" + tail.encode()
    if data.isascii() and not data.translate(None, _PLAIN):
        return _HEAD + data[:-1].replace(b"\n", end + _HEAD) + end
    text = data[:-1].decode("utf-8", "replace")
    # Escape everything at once, with the newlines behind a mark that JSON leaves alone and the text does not have: DEL,
    # or else a lone surrogate, which decoding cannot give (but which makes the string twice as wide).
    mark = "\udc0a" if "\x7f" in text else "\x7f"
    escaped = encode_basestring(text.replace("\n", mark))[1:-1]
    return _HEAD + escaped.replace(mark, "\\n" + tail + '{"log":"').encode() + end


def _render_partial(data: bytes, tail: str) -> bytes:
    """One record of text without its newline."""
    return _HEAD + (encode_basestring(data.decode("utf-8", "replace"))[1:-1] + tail).encode()
