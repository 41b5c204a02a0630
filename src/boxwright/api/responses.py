"""Answers: JSON bodies, errors, and the headers that every answer of Docker's engine carries."""

from typing import Any

import msgspec
from aiohttp import web

from boxwright import __version__

from .versions import MAXIMUM_TEXT

# Go's client reads the operating system out of "Docker/… (…)".
SERVER = f"Docker/boxwright-{__version__} (linux)"

HEADERS = {
    "Api-Version": MAXIMUM_TEXT,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": SERVER,
}
HEAD_LINES = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items()).encode()

_JSON = {**HEADERS, "Content-Type": "application/json"}
_encode = msgspec.json.Encoder().encode


def json(value: Any, status: int = 200) -> web.Response:
    """A JSON body, with the newline that Go's encoder ends it with."""
    return web.Response(status=status, body=_encode(value) + b"\n", headers=_JSON)


def line(value: Any) -> bytes:
    """One line of a JSON stream; Docker ends them with CRLF."""
    return _encode(value) + b"\r\n"


def text(body: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A plain text body."""
    plain = {**HEADERS, "Content-Type": "text/plain; charset=utf-8", **(headers or {})}
    return web.Response(status=status, body=body.encode(), headers=plain)


def empty(status: int = 204) -> web.Response:
    """No body."""
    return web.Response(status=status, headers=HEADERS)


def error(status: int, message: str) -> web.Response:
    """An error's body, `{"message": …}`; 304 has none."""
    return empty(status) if status == 304 else json({"message": message}, status)


def raw_error(status: int, message: str) -> bytes:
    """The same as bytes, for when there is no request to answer."""
    body = _encode({"message": message}) + b"\n"
    start = f"HTTP/1.1 {status} \r\nConnection: close\r\nContent-Type: application/json\r\n"
    return start.encode() + HEAD_LINES + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


class Hijacked(web.StreamResponse):
    """What a handler returns when its connection has become a stream: nothing is left to send."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing: the head has been sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the stream's owner has ended it."""
