"""The person's end of an attached container: raw terminal, window size, frames split to stdout and stderr."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty
from collections.abc import Callable, Iterator

from boxwright.client import Hijacked

DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q, which the engine takes for the wish to leave
# What asks something of the program; the rest is between the terminal and this process.
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
HEADER = struct.Struct(">BxxxI")  # stream number, three zero bytes, length (Docker API, "Attach to a container")


def window_size() -> tuple[int, int]:
    """Rows and columns of the terminal on stdout; (24, 80) when it is none."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(1, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


@contextlib.contextmanager
def raw_terminal(resize: Callable[[int, int], None]) -> Iterator[None]:
    """stdin in raw mode, `resize(rows, columns)` at each change of the window; both undone at the end."""
    saved = termios.tcgetattr(0)
    previous = signal.signal(signal.SIGWINCH, lambda *_: resize(*window_size()))
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
        signal.signal(signal.SIGWINCH, previous)


@contextlib.contextmanager
def forwarded_signals(send: Callable[[int], None]) -> Iterator[None]:
    """Signals that come to this process are the container's, by `send(number)`, as with `docker run`.

    The third SIGINT or SIGTERM ends this process: a program that is PID 1 may well take no notice of them.
    """
    ends = 0

    def forward(number: int, frame: object) -> None:
        nonlocal ends
        ends += number in (signal.SIGINT, signal.SIGTERM)
        if ends == 3:
            sys.exit("got 3 SIGTERM/SIGINTs, forcefully exiting")
        send(number)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Demultiplexer:
    """Turns the framed stream into writes on stdout and stderr; frames may be cut anywhere."""

    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self.write, self.pending = write, b""

    def feed(self, data: bytes) -> None:
        self.pending += data
        while len(self.pending) >= HEADER.size:
            stream, length = HEADER.unpack_from(self.pending)
            if len(self.pending) < HEADER.size + length:
                return
            self.write(2 if stream == 2 else 1, self.pending[HEADER.size : HEADER.size + length])
            self.pending = self.pending[HEADER.size + length :]


def write_all(fd: int, data: bytes) -> None:
    """Write to stdout or stderr whole; a reader that is gone ends us as it ends any program in a pipe."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def pump(stream: Hijacked, stdin: bool) -> bool:
    """Copy until the container's output ends; the end of stdin half-closes the connection.

    Returns True when it ended right after `DETACH_KEYS` were typed: the program goes on.
    """
    sock = stream.sock
    feed = Demultiplexer(write_all).feed if stream.multiplexed else (lambda data: write_all(1, data))
    sys.stdout.flush()
    if stream.early:
        feed(stream.early)
    sources: list[int] = [sock.fileno(), *([0] if stdin else [])]
    last = b""
    while True:
        ready, _, _ = select.select(sources, [], [])
        if sock.fileno() in ready:
            data = sock.recv(65536)
            if not data:
                return last == DETACH_KEYS
            feed(data)
        if 0 in ready:
            typed = os.read(0, 65536)
            if typed:
                last = (last + typed)[-len(DETACH_KEYS) :]
                with contextlib.suppress(BrokenPipeError):
                    sock.sendall(typed)
            else:
                sources.remove(0)
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
