"""Receivers of logs for tests: sockets that read what a driver sends, each until it is told to stop."""

import contextlib
import datetime
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEADLINE = 20.0


class Receiver:
    """A listening socket and what came in on it; `lines` is what the records said, in the order of arrival."""

    def __init__(self, sock: socket.socket, understand: Callable[[bytes], list[bytes]], context: Any = None) -> None:
        self.sock, self._understand, self._context = sock, understand, context
        self.raw, self.datagrams = b"", list[bytes]()
        self._change = threading.Condition()
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    @property
    def lines(self) -> list[bytes]:
        """What arrived, as the lines that were logged."""
        if self.sock.type == socket.SOCK_DGRAM:
            return [line for datagram in self.datagrams for line in self._understand(datagram)]
        return self._understand(self.raw)

    def wait(self, count: int) -> list[bytes]:
        """The lines, once there are so many."""
        with self._change:
            assert self._change.wait_for(lambda: len(self.lines) >= count, DEADLINE), f"{len(self.lines)} of {count}"
            return self.lines

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                if self.sock.type == socket.SOCK_DGRAM:
                    self._take_datagram()
                else:
                    connection, _ = self.sock.accept()
                    self._connections.append(connection)
                    self._read(connection)

    def _take_datagram(self) -> None:
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 18, 4)
        for fd in fds:
            data += os.pread(fd, 1 << 24, 0)
            os.close(fd)
        with self._change:
            self.datagrams.append(data)
            self._change.notify_all()

    def _read(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            while data := connection.recv(1 << 16):
                with self._change:
                    self.raw += data
                    self._change.notify_all()
                if (answer := acknowledgement(data)) is not None:
                    connection.sendall(answer)
            if isinstance(connection, ssl.SSLSocket):
                connection.unwrap()

    def close(self) -> None:
        for sock in (*self._connections, self.sock):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._thread.join(DEADLINE)


def listen(kind: int = socket.SOCK_STREAM, path: Path | None = None) -> socket.socket:
    """A socket that waits for senders, on the loopback or at `path`."""
    sock = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, kind)
    sock.bind(("127.0.0.1", 0) if path is None else str(path))
    if kind == socket.SOCK_STREAM:
        sock.listen(8)
    return sock


def syslog_lines(data: bytes) -> list[bytes]:
    """Messages of any of the forms, each ended by a newline, as what they say."""
    found = []
    for line in data.split(b"\n")[:-1]:
        head = re.match(rb"(?:\d+ )?<\d+>(?:1 \S+ \S+ \S+ \d+ \S+ - |[A-Z].*?\[\d+\]: )", line)
        assert head, line
        found.append(line[head.end() :])
    return found


def gelf_messages(data: list[bytes]) -> list[dict[str, Any]]:
    """GELF messages of datagrams: chunks put together, unpacked."""
    whole: list[bytes] = []
    parts: dict[bytes, dict[int, bytes]] = {}
    for datagram in data:
        if not datagram.startswith(b"\x1e\x0f"):
            whole.append(datagram)
            continue
        known = parts.setdefault(datagram[2:10], {})
        known[datagram[10]] = datagram[12:]
        if len(known) == datagram[11]:
            whole.append(b"".join(known[number] for number in sorted(known)))
    return [json.loads(message if message[:1] == b"{" else zlib.decompress(message, 47)) for message in whole]


def gelf_stream(data: bytes) -> list[bytes]:
    return [json.loads(message)["short_message"].encode() for message in data.split(b"\0")[:-1]]


def journal_fields(entry: bytes) -> dict[str, bytes]:
    """The fields of one native entry."""
    fields = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        fields[name.decode()] = value
        entry = rest
    return fields


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The MessagePack value at `at` and where it ends; IndexError when it is not all there."""
    kind = data[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if 0x80 <= kind <= 0x8F or kind == 0xDE:
        count, at = (kind & 15, at) if kind != 0xDE else (int.from_bytes(data[at : at + 2], "big"), at + 2)
        found = {}
        for _ in range(count):
            key, at = unpack(data, at)
            found[key], at = unpack(data, at)
        return found, at
    if 0x90 <= kind <= 0x9F:
        values = []
        for _ in range(kind & 15):
            value, at = unpack(data, at)
            values.append(value)
        return values, at
    if 0xA0 <= kind <= 0xBF:
        size = kind & 31
    elif kind in (0xD9, 0xDA, 0xDB):
        width = {0xD9: 1, 0xDA: 2, 0xDB: 4}[kind]
        size, at = int.from_bytes(data[at : at + width], "big"), at + width
    elif kind == 0xCE:
        return int.from_bytes(data[at : at + 4], "big"), at + 4
    elif kind == 0xD7:
        return (int.from_bytes(data[at + 1 : at + 5], "big"), int.from_bytes(data[at + 5 : at + 9], "big")), at + 9
    else:
        raise AssertionError(f"unexpected MessagePack type {kind:#x}")
    if at + size > len(data):
        raise IndexError
    return data[at : at + size].decode(), at + size


def forwarded(data: bytes) -> list[list[Any]]:
    """The forward protocol's messages."""
    found, at = [], 0
    with contextlib.suppress(IndexError):
        while at < len(data):
            message, at = unpack(data, at)
            found.append(message)
    return found


def forwarded_lines(data: bytes) -> list[bytes]:
    return [message[2]["log"].encode() for message in forwarded(data)]


def acknowledgement(data: bytes) -> bytes | None:
    """The answer to a forwarded message that asks for one."""
    if not data.startswith(b"\x94"):
        return None
    chunk = forwarded(data)[-1][3]["chunk"].encode()
    return b"\x81\xa3ack" + bytes([0xA0 | len(chunk)]) + bytes(chunk)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, made by openssl."""
    key, made = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN=test-{datetime.date.today()}", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


@contextlib.contextmanager
def receiving(
    understand: Callable[[bytes], list[bytes]],
    kind: int = socket.SOCK_STREAM,
    path: Path | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[Receiver]:
    """A receiver, for the time of a block."""
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    receiver = Receiver(listen(kind, path), understand, context)
    try:
        yield receiver
    finally:
        receiver.close()
