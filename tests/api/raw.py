"""An HTTP client that sends exactly the bytes it is told to."""

import json
import socket
from typing import Any


class Reply:
    """One answer: `status`, `headers` (lower-case names), `body`."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Client:
    """A connection; every wait ends after ten seconds."""

    def __init__(self, path: str = "", port: int = 0) -> None:
        if path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(10)
            self.sock.connect(path)
        else:
            self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.left = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send a request with these headers (underscores are dashes) and read the answer."""
        lines = [f"{method} {target} HTTP/1.1", "Host: docker"]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
            headers.setdefault("Content_Type", "application/json")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        return self.reply(bodyless=method == "HEAD")

    def head(self) -> Reply:
        """The next head; what follows it stays in `left`."""
        while b"\r\n\r\n" not in self.left:
            self._more()
        head, _, self.left = self.left.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Reply(int(first.split(" ")[1]), headers, b"")

    def reply(self, bodyless: bool = False) -> Reply:
        """The next answer whole."""
        reply = self.head()
        if bodyless or reply.status in (204, 304) or reply.status < 200:
            return reply
        if "content-length" in reply.headers:
            reply.body = self.exactly(int(reply.headers["content-length"]))
        elif reply.headers.get("transfer-encoding") == "chunked":
            while chunk := self.chunk():
                reply.body += chunk
        else:
            reply.body = self.rest()
        return reply

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" is the last one."""
        while b"\r\n" not in self.left:
            self._more()
        size, _, self.left = self.left.partition(b"\r\n")
        return self.exactly(int(size, 16) + 2)[:-2]

    def exactly(self, n: int) -> bytes:
        while len(self.left) < n:
            self._more()
        data, self.left = self.left[:n], self.left[n:]
        return data

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while data := self.sock.recv(65536):
            self.left += data
        data, self.left = self.left, b""
        return data

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError(f"closed by the server after {self.left[:200]!r}")
        self.left += data
