"""A program's stdio on real pipes and sockets, with the loop turned by hand."""

import os
import pty
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from boxwright.launcher import fanout, streams
from boxwright.launcher.loop import Loop
from boxwright.launcher.streams import Stdio

DEADLINE = 20.0
BOTH = {"stdin": True, "stdout": True, "stderr": True, "mux": False}


class Log:
    """A log driver that remembers."""

    dropped, error, ready = 0, "", True

    def __init__(self) -> None:
        self.text = {"stdout": b"", "stderr": b""}
        self.flushed: list[str] = []

    def write(self, stream: str, data: bytes, now: int = 0) -> None:
        self.text[stream] += data

    def flush(self, stream: str) -> None:
        self.flushed.append(stream)

    def close(self) -> None: ...

    def finish(self, done: Callable[[], None]) -> None:
        done()


class Program:
    """The other side of the pipes."""

    def __init__(self, stdin_once: bool = False) -> None:
        self.loop, self.log = Loop(), Log()
        self.stdio = Stdio(self.loop, self.log, False, stdin_once)
        self.clients: list[socket.socket] = []
        self.stdin = self.stdout = self.stderr = -1

    def begin(self) -> None:
        self.stdin, ours_in = os.pipe()
        ours_out, self.stdout = os.pipe()
        ours_err, self.stderr = os.pipe()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self.stdio.connect(ours_in, ours_out, ours_err)

    def attach(self, **options: bool) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.stdio.attach(theirs.detach(), {**BOTH, **options})
        self.clients.append(ours)
        return ours

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, "nothing happened"
            self.loop.turn(0.01)

    def settle(self) -> None:
        """Turn until nothing happens any more."""
        for _ in range(5):
            self.loop.turn(0)

    def write_all(self, data: bytes) -> None:
        """What a program does that is in no hurry."""
        while data:
            try:
                data = data[os.write(self.stdout, data) :]
            except BlockingIOError:
                self.loop.turn(0.01)

    def end(self) -> None:
        for name in ("stdin", "stdout", "stderr"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def close(self) -> None:
        self.end()
        self.stdio.close()
        self.stdio.finish()
        for client in self.clients:
            client.close()
        self.settle()
        self.loop.close()


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.close()


@pytest.fixture
def once() -> Iterator[Program]:
    made = Program(stdin_once=True)
    yield made
    made.close()


class Reader:
    """Collects what a client receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.data, self.ended = sock, b"", False

    def read(self, most: int = 1 << 20) -> bytes:
        try:
            while not self.ended and most > 0:
                piece = self.sock.recv(min(most, 1 << 16))
                self.ended = not piece
                self.data += piece
                most -= len(piece)
        except BlockingIOError:
            pass
        return self.data


def test_output_goes_to_the_log_and_to_every_client(program: Program) -> None:
    clients = [Reader(program.attach(stdin=False)) for _ in range(5)]
    program.begin()
    os.write(program.stdout, b"out\n")
    program.until(lambda: all(c.read() == b"out\n" for c in clients))
    os.write(program.stderr, b"err\n")
    program.until(lambda: all(c.read() == b"out\nerr\n" for c in clients))
    assert program.log.text == {"stdout": b"out\n", "stderr": b"err\n"}


def test_frames_carry_stream_and_length(program: Program) -> None:
    client = Reader(program.attach(mux=True, stdin=False))
    program.begin()
    os.write(program.stderr, b"oh")
    program.until(lambda: client.read() == b"\2\0\0\0\0\0\0\2oh")


def test_a_client_gets_only_the_streams_it_wants(program: Program) -> None:
    client = Reader(program.attach(stdin=False, stdout=False))
    program.begin()
    os.write(program.stdout, b"not this")
    program.until(lambda: program.log.text["stdout"] == b"not this")
    os.write(program.stderr, b"this")
    program.until(lambda: client.read() == b"this")


def test_a_slow_client_loses_nothing(program: Program) -> None:
    client = Reader(program.attach(stdin=False))
    program.begin()
    sent = b"".join(b"%07d\n" % n for n in range(500_000))  # 4 MB, four times what is kept for a client
    rest = sent
    while len(client.data) < len(sent):
        try:
            rest = rest[os.write(program.stdout, rest[: 1 << 16]) :] if rest else rest
        except BlockingIOError:
            client.read(50_000)
        if not rest:
            client.read()
        program.loop.turn(0)
    assert client.data == sent == program.log.text["stdout"]


def test_a_stuck_client_stalls_neither_the_program_nor_the_others(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "STALL_NS", 50_000_000)
    stuck, other = Reader(program.attach(mux=True)), Reader(program.attach())
    program.begin()
    data = b"#" * (8 << 20)
    rest = data
    end = time.monotonic() + DEADLINE
    while len(other.read()) < len(data):
        assert time.monotonic() < end
        try:
            rest = rest[os.write(program.stdout, rest[: 1 << 16]) :] if rest else rest
        except BlockingIOError:
            pass
        program.loop.turn(0.001)
    assert len(program.log.text["stdout"]) == len(data)
    # It wakes up: it gets what was kept for it, is told what it missed, and goes on with the present.
    program.until(lambda: b"were skipped" in stuck.read())
    skipped = int(stuck.data.rpartition(b"[boxwright: ")[2].split()[0])
    assert stuck.data.count(b"#") + skipped == len(data)
    os.write(program.stdout, b"live")
    program.until(lambda: stuck.read().endswith(b"live"))


def test_a_client_that_leaves_disturbs_nobody(program: Program) -> None:
    leaving, other = program.attach(), Reader(program.attach())
    program.begin()
    leaving.close()
    os.write(program.stdout, b"on\n")
    program.until(lambda: other.read() == b"on\n")
    assert not program.stdio.idle


def test_early_input_waits_for_the_program(program: Program) -> None:
    client = program.attach()
    client.send(b"early ")
    program.settle()
    program.begin()
    client.send(b"late")
    got = b""

    def arrived() -> bool:
        nonlocal got
        try:
            got += os.read(program.stdin, 100)
        except BlockingIOError:
            pass
        return got == b"early late"

    program.until(arrived)


def test_half_close_ends_stdin_after_the_last_byte(once: Program) -> None:
    client = once.attach()
    reader = Reader(client)
    data = b"x" * 300_000  # more than a pipe holds
    once.begin()
    rest, got = data, b""
    end = time.monotonic() + DEADLINE
    while True:
        assert time.monotonic() < end
        if rest:
            try:
                rest = rest[client.send(rest) :]
            except BlockingIOError:
                pass
            if not rest:
                client.shutdown(socket.SHUT_WR)
        once.loop.turn(0.001)
        try:
            piece = os.read(once.stdin, 10_000)
        except BlockingIOError:
            continue
        if not piece:
            break
        got += piece
    assert got == data
    os.write(once.stdout, b"answer")  # output still flows
    once.until(lambda: reader.read() == b"answer")


def test_without_stdin_once_a_half_close_ends_only_that_client(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "FAREWELL_NS", 50_000_000)
    leaving, staying = Reader(program.attach()), program.attach()
    program.begin()
    leaving.sock.shutdown(socket.SHUT_WR)
    program.loop.turn(0)
    os.write(program.stdout, b"the answer to the last input")
    program.until(lambda: leaving.read() == b"the answer to the last input" and leaving.ended)
    staying.send(b"still")
    program.until(lambda: os.read(program.stdin, 10) == b"still" if program.loop.turn(0.01) is None else False)


def test_a_client_that_dies_has_its_last_words_delivered(once: Program) -> None:
    client = once.attach()
    once.begin()
    client.send(b"last words")
    client.close()
    once.until(lambda: once.stdio.idle)
    assert os.read(once.stdin, 100) == b"last words"
    assert os.read(once.stdin, 100) == b""


def test_a_program_that_closes_its_stdin_does_not_hold_clients(program: Program) -> None:
    client = program.attach()
    program.begin()
    os.close(program.stdin)
    program.stdin = -1
    total = 0
    end = time.monotonic() + DEADLINE
    while total < 1_000_000:
        assert time.monotonic() < end
        try:
            total += client.send(b"y" * 10_000)
        except BlockingIOError:
            program.loop.turn(0.01)


def test_drain_reads_what_is_left_and_ends_the_clients(program: Program) -> None:
    client = Reader(program.attach(stdin=False))
    program.begin()
    os.write(program.stdout, b"last")
    program.end()
    done: list[bool] = []
    program.stdio.drain(lambda: done.append(True))
    assert done == [True]
    assert program.log.text["stdout"] == b"last"
    assert sorted(program.log.flushed) == ["stderr", "stdout"]
    program.stdio.finish()
    program.until(lambda: client.read() == b"last" and client.ended)
    assert program.stdio.idle


def test_drain_is_bounded_when_somebody_holds_the_pipe(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "QUIET_NS", 30_000_000)
    monkeypatch.setattr(streams, "DRAIN_NS", 300_000_000)
    program.begin()
    os.write(program.stdout, b"said before")
    done: list[float] = []
    begin = time.monotonic()
    program.stdio.drain(lambda: done.append(time.monotonic()))
    program.until(lambda: bool(done))
    assert done[0] - begin < 5
    assert program.log.text["stdout"] == b"said before"


def test_drain_ends_while_somebody_floods_the_pipe(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "DRAIN_NS", 200_000_000)
    program.begin()
    done: list[bool] = []
    program.stdio.drain(lambda: done.append(True))

    def flood() -> bool:
        try:
            os.write(program.stdout, b"z" * 4096)
        except (BlockingIOError, BrokenPipeError):
            pass
        return bool(done)

    program.until(flood)


def test_the_backlog_is_delivered_after_the_end(program: Program) -> None:
    client = Reader(program.attach(stdin=False))
    program.begin()
    program.write_all(b"x" * 700_000)
    program.end()
    done: list[bool] = []
    program.stdio.drain(lambda: done.append(True))
    program.stdio.finish()
    assert done and not program.stdio.idle
    program.until(lambda: len(client.read()) == 700_000 and client.ended)
    assert program.stdio.idle


def test_a_client_that_never_fetches_its_backlog_is_let_go(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "LINGER_NS", 50_000_000)
    program.attach(stdin=False)
    program.begin()
    program.write_all(b"x" * 700_000)
    program.end()
    program.stdio.drain(lambda: None)
    program.stdio.finish()
    program.until(lambda: program.stdio.idle)


def test_a_terminal_is_input_and_output_and_has_a_size() -> None:
    loop, log = Loop(), Log()
    stdio = Stdio(loop, log, True, True)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stdio.attach(theirs.detach(), {**BOTH, "mux": True})
    master, slave = pty.openpty()
    stdio.connect_console(master, True)
    stdio.resize(33, 101)
    assert os.get_terminal_size(slave) == (101, 33)
    ours.send(b"typed\n")
    client = Reader(ours)
    end = time.monotonic() + DEADLINE
    while b"typed\r\n" not in client.read():  # echoed, raw: a terminal's stream has no frames
        assert time.monotonic() < end
        loop.turn(0.01)
    assert os.read(slave, 100) == b"typed\n"
    os.close(slave)
    done: list[bool] = []
    stdio.drain(lambda: done.append(True))
    assert done
    stdio.finish()
    ours.close()
    loop.close()
