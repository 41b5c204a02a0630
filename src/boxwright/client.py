"""A blocking client of the engine's API over its Unix socket, for the command line and for embedding. Standard library
only: it is imported by every verb, and a verb should answer before a person notices that it is Python."""

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

API_VERSION = "v1.51"


class ApiError(Exception):
    """The engine's refusal: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoEngine(Exception):
    """Nothing listens at the address."""


def default_address() -> str:
    """`DOCKER_HOST` when it is set, else this user's own socket: /run for root, the XDG run directory for others."""
    if configured := os.environ.get("DOCKER_HOST"):
        return configured
    if os.geteuid() == 0:
        return "unix:///run/boxwright/boxwright.sock"
    return f"unix://{os.environ.get('XDG_RUNTIME_DIR', f'/run/user/{os.geteuid()}')}/boxwright/boxwright.sock"


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("localhost")
        self.address = address

    def connect(self) -> None:
        scheme, _, rest = self.address.partition("://")
        try:
            if scheme == "unix":
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(rest)
            elif scheme == "tcp":
                host, _, port = rest.rpartition(":")
                self.sock = socket.create_connection((host, int(port)))
            else:
                raise NoEngine(f"{self.address}: only unix:// and tcp:// addresses are known")
        except OSError as error:
            raise NoEngine(f"{self.address}: {error.strerror or error}") from error


class Client:
    """One engine, by its address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def _send(
        self, method: str, path: str, query: dict[str, Any] | None, body: Any, headers: dict[str, str] | None = None
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        connection = _Connection(self.address)
        sent = dict(headers or {})
        if body is not None and not hasattr(body, "read"):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        chosen = {key: value for key, value in (query or {}).items() if value not in (None, "")}
        url = f"/{API_VERSION}{path}" + (f"?{urlencode(chosen)}" if chosen else "")
        connection.request(method, url, body=body, headers=sent, encode_chunked=hasattr(body, "read"))
        answer = connection.getresponse()
        if answer.status >= 400:
            raise ApiError(answer.status, _message(answer.read()))
        return connection, answer

    def call(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """One request; the decoded JSON answer, or None for an empty one. Raises ApiError or NoEngine."""
        connection, answer = self._send(method, path, query, body)
        data = answer.read()
        connection.close()
        return json.loads(data) if data.strip() else None

    def stream(
        self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None
    ) -> http.client.HTTPResponse:
        """The same with the answer left open for reading; a file object as `body` is sent in chunks."""
        headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/x-tar"} if hasattr(body, "read") else {}
        _, answer = self._send(method, path, query, body, headers)
        return answer

    def lines(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Iterator[Any]:
        """A stream of JSON documents, one a line."""
        with self.stream(method, path, query, body) as answer:
            for line in answer:
                if line.strip():
                    yield json.loads(line)

    def hijack(self, path: str, query: dict[str, Any] | None = None, body: Any = None) -> "Hijacked":
        """POST that turns the connection into a raw stream in both directions (HTTP 101).

        http.client reads heads through a buffered file, in which early output would be lost: the head is read here.
        """
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"POST /{API_VERSION}{path}?{urlencode(query or {})} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            f"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection = _Connection(self.address)
        connection.connect()
        sock = connection.sock
        sock.sendall(head.encode() + data)
        received = b""
        while b"\r\n\r\n" not in received:
            if not (part := sock.recv(65536)):
                raise ApiError(502, "the engine closed the connection before it answered")
            received += part
        answer, _, early = received.partition(b"\r\n\r\n")
        status = int(answer.split(None, 2)[1])
        if status >= 400:
            sock.settimeout(5)
            while part := sock.recv(65536):
                early += part
            raise ApiError(status, _message(early))
        return Hijacked(sock, b"multiplexed-stream" in answer, early)


class Hijacked:
    """A connection after its upgrade: the socket, whether its output is in frames, and what came with the head."""

    def __init__(self, sock: socket.socket, multiplexed: bool, early: bytes) -> None:
        self.sock, self.multiplexed, self.early = sock, multiplexed, early


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip() or "the engine gave no reason"
