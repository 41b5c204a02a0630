"""JSON text, on one line, by the C halves of Python's `json`: its Python half loads `re` and `enum`, whose 10 ms are
the OCI runtime's start time and whose pages are every shim's memory."""

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Options:
    """What json.JSONDecoder tells the scanner."""

    strict, object_hook, object_pairs_hook, array_hook = True, None, None, None
    parse_float, parse_int = float, int

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON")


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON-ready")


_scan = make_scanner(_Options)  # type: ignore[arg-type]  # typeshed asks for a scanner
# ASCII only: bytes of a path that are no UTF-8 travel as escaped surrogates.
_encode = make_encoder(None, _unknown, encode_basestring_ascii, None, ": ", ", ", False, False, False)


def dumps(value: object) -> str:
    """JSON text on one line, ASCII.  Raises TypeError for what JSON cannot hold."""
    return "".join(_encode(value, 0))


def loads(data: bytes) -> "Any":
    """The value of UTF-8 JSON text.  Raises ValueError, for text that is nested too deeply as well."""
    text = data.decode().strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError, ImportError):
        # The C half wants to raise an error that its Python half defines, and does not find it.
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value
