"""What every log driver promises; each test runs against all of them, the senders with a real receiver."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import receivers

from boxwright.logger import options, reader
from boxwright.logger.fluentd import Fluentd
from boxwright.logger.formats import BLOCKS, JSON_LINES
from boxwright.logger.gelf import Gelf
from boxwright.logger.journald import Journald
from boxwright.logger.jsonfile import log_path
from boxwright.logger.lines import PARTIAL
from boxwright.logger.local import local_path
from boxwright.logger.remote import Driver, RemoteWriter, Source
from boxwright.logger.syslog import Syslog

SOURCE = Source(
    "f" * 64, "web", "busybox", "sha256:" + "1" * 64, "sh -c true", "2026-01-01T00:00:00Z", "host", "tag", {}
)
DGRAM = socket.SOCK_DGRAM


class Log:
    """A driver under test.

    lines(count): what has been stored or received once there are so many records, newlines left out.
    exact: bytes come as they went; otherwise what is no UTF-8 is replaced.
    """

    def __init__(self, writer: Any, lines: Callable[[int], list[bytes]], exact: bool) -> None:
        self.writer, self.lines, self.exact = writer, lines, exact


def stored(path: str, form: Any) -> list[bytes]:
    async def all_of_it() -> list[bytes]:
        found = reader.read(path, reader.Options(), None, form)
        return [record.line.removesuffix(b"\n") async for batch in found for record in batch]

    return asyncio.run(all_of_it())


@contextlib.contextmanager
def files(directory: Path, kind: str) -> Iterator[Log]:
    form, path = (JSON_LINES, log_path) if kind == "json-file" else (BLOCKS, local_path)
    config = {"max-size": "-1"} if kind == "json-file" else {"max-size": "64k", "max-file": "50"}
    writer = options.open_file(kind, config, str(directory), "id", "")
    yield Log(writer, lambda count: stored(path(str(directory), "id"), form), kind == "local")


def journal_lines(data: bytes) -> list[bytes]:
    return [receivers.journal_fields(data)["MESSAGE"]]


@contextlib.contextmanager
def remote(directory: Path, kind: str) -> Iterator[Log]:
    with contextlib.ExitStack() as stack:
        name, _, how = kind.partition(" ")
        if name == "journald":
            path = directory / "journal"
            receiver = stack.enter_context(receivers.receiving(journal_lines, DGRAM, path))
            driver: Driver = Journald(SOURCE, str(path))
        elif name == "syslog":
            driver, receiver = syslog(stack, directory, how)
        elif name == "gelf":
            receiver = stack.enter_context(receivers.receiving(receivers.gelf_stream))
            driver = Gelf({"gelf-address": f"tcp://127.0.0.1:{receiver.port}"}, SOURCE)
        else:
            receiver = stack.enter_context(receivers.receiving(receivers.forwarded_lines))
            more = {"fluentd-request-ack": "true"} if how == "ack" else {"fluentd-async": "true"} if how else {}
            driver = Fluentd({"fluentd-address": f"127.0.0.1:{receiver.port}", **more}, SOURCE)
        driver.connect()
        exact = name in ("syslog", "journald")
        yield Log(RemoteWriter(driver), receiver.wait, exact)


def syslog(stack: contextlib.ExitStack, directory: Path, how: str) -> tuple[Driver, receivers.Receiver]:
    tls = receivers.certificate(directory) if how == "tls" else None
    path = directory / "log" if how in ("unix", "unixgram") else None
    kind = DGRAM if how in ("udp", "unixgram") else socket.SOCK_STREAM
    receiver = stack.enter_context(receivers.receiving(receivers.syslog_lines, kind, path, tls))
    scheme = "tcp+tls" if tls else how
    address = f"{scheme}://{path}" if path else f"{scheme}://127.0.0.1:{receiver.port}"
    config = {"syslog-address": address, "syslog-format": "rfc3164" if how == "udp" else "rfc5424"}
    if tls:
        config["syslog-tls-ca-cert"] = str(tls[0])
    return Syslog(config, SOURCE), receiver


KINDS = (
    "json-file", "local", "journald", "syslog unix", "syslog unixgram", "syslog udp", "syslog tcp", "syslog tls", "gelf",
    "fluentd", "fluentd ack", "fluentd async",
)  # fmt: skip


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    make = files if request.param in options.FILES else remote
    with make(tmp_path, request.param) as made:
        yield made


def test_lines_arrive_whole_and_in_order(log: Log) -> None:
    for n in range(100):
        log.writer.write("stdout", b"line %d\n" % n)
    log.writer.close()
    assert log.lines(100) == [b"line %d" % n for n in range(100)]
    assert log.writer.dropped == 0


def test_lines_are_put_together_from_any_pieces(log: Log) -> None:
    for piece in (b"a", b"bc\nd", b"", b"e\nf\ng", b"\n"):
        log.writer.write("stdout", piece)
    log.writer.close()
    assert log.lines(4) == [b"abc", b"de", b"f", b"g"]


def test_streams_do_not_mix(log: Log) -> None:
    log.writer.write("stdout", b"out ")
    log.writer.write("stderr", b"err\n")
    log.writer.write("stdout", b"put\n")
    log.writer.close()
    assert log.lines(2) == [b"err", b"out put"]


def test_the_end_of_a_stream_ends_its_line(log: Log) -> None:
    log.writer.write("stdout", b"no newline")
    log.writer.flush("stdout")
    log.writer.flush("stdout")
    log.writer.close()
    assert log.lines(1) == [b"no newline"]


def test_a_long_line_comes_in_parts(log: Log) -> None:
    data = bytes(65 + n % 26 for n in range(5 * PARTIAL))
    for start in range(0, len(data), 10_000):
        log.writer.write("stdout", data[start : start + 10_000])
    log.writer.write("stdout", b"end\nnext\n")
    log.writer.close()
    found = log.lines(7)
    assert [len(part) for part in found[:5]] == [PARTIAL] * 5
    assert b"".join(found[:6]) == data + b"end"
    assert found[6] == b"next"


def test_bytes_that_are_no_text(log: Log) -> None:
    data = bytes(c for c in range(256) if c not in b"\n\0")
    log.writer.write("stdout", data + b"\n")
    log.writer.close()
    assert log.lines(1) == [data if log.exact else data.decode("utf-8", "replace").encode()]


def test_finishing_says_so(log: Log) -> None:
    done: list[bool] = []
    log.writer.write("stdout", b"x\n")
    log.writer.finish(lambda: done.append(True))
    assert done == [True]
    assert log.lines(1) == [b"x"]
