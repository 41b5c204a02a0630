"""Hijacked connections: attach and exec, as old and new clients open them and end them."""

import select
import socket

import pytest
from api.conftest import ServedFake

UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
ATTACH = b"POST /v1.44/containers/box/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: docker\r\n"


def test_upgrade(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(ATTACH + UPGRADE + b"\r\n")
        head = client.head()
        assert head.status == 101
        assert head.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
        assert (head.headers["connection"], head.headers["upgrade"]) == ("Upgrade", "tcp")
        assert head.headers["api-version"] == "1.51"
        assert client.exactly(6) == b"hello\n"
        client.send(b"ping")
        assert client.exactly(4) == b"ping"
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b"<eof>"


def test_old_clients_do_not_ask_for_the_upgrade(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(ATTACH.replace(b"v1.44", b"v1.41") + b"Content-Length: 0\r\n\r\n")
        head = client.head()
        assert head.status == 200
        assert head.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert client.exactly(6) == b"hello\n"
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.exactly(18) == b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("upgrade", [UPGRADE, b""])
def test_early_input_is_kept(fake: ServedFake, upgrade: bytes) -> None:
    with fake.client() as client:
        client.send(ATTACH + upgrade + b"\r\nearly \x00\xff")
        client.send(b"bird")
        client.sock.shutdown(socket.SHUT_WR)
        client.head()
        assert client.rest() == b"hello\nearly \x00\xffbird<eof>"


def test_a_head_in_pieces(fake: ServedFake) -> None:
    whole = ATTACH + UPGRADE + b"\r\nearly"
    with fake.client() as client:
        for at in range(len(whole)):
            client.send(whole[at : at + 1])
        client.sock.shutdown(socket.SHUT_WR)
        assert client.head().status == 101
        assert client.rest() == b"hello\nearly<eof>"


@pytest.mark.parametrize("upgrade", [UPGRADE, b""])
@pytest.mark.parametrize("pieces", [1, 3])
def test_exec_start_has_a_body_before_the_stream(fake: ServedFake, upgrade: bytes, pieces: int) -> None:
    body = b'{"Detach":false,"Tty":true,"ConsoleSize":[24,80]}'
    head = b"POST /exec/abc/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: %d\r\n" % len(body) + upgrade + b"\r\n" + body + b"typed"
    step = len(whole) // pieces + 1
    with fake.client() as client:
        for at in range(0, len(whole), step):
            client.send(whole[at : at + step])
        client.sock.shutdown(socket.SHUT_WR)
        assert client.head().status == (101 if upgrade else 200)
        assert client.rest() == b"hello\ntyped<eof>"
    assert ("exec_start", "abc", False, True, (24, 80)) in fake.backend.seen


def test_detached_exec_is_plain_http(fake: ServedFake) -> None:
    with fake.client() as client:
        assert client.request("POST", "/exec/abc/start", b'{"Detach":true}').status == 200
        assert client.request("GET", "/_ping").body == b"OK"


@pytest.mark.parametrize("upgrade", [{"Connection": "Upgrade", "Upgrade": "tcp"}, {}])
def test_refusals_are_plain_http(fake: ServedFake, upgrade: dict[str, str]) -> None:
    with fake.client() as client:
        reply = client.request("POST", "/containers/nope/attach?stream=1", b"", **upgrade)
        assert (reply.status, reply.message) == (404, "No such container: nope")
        assert client.request("POST", "/exec/busy/start", b"{}", **upgrade).status == 409
        assert client.request("GET", "/_ping").body == b"OK"


def test_refusal_with_early_input_closes(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(ATTACH.replace(b"/box/", b"/nope/") + UPGRADE + b"\r\nPOST /containers/box/pause HTTP/1.1\r\n\r\n")
        assert client.reply().status == 404
        assert client.rest() == b""
    assert fake.backend.seen == []


def test_a_large_stream_both_ways(fake: ServedFake) -> None:
    """More than every buffer on the way: both sides have to wait for each other, and nothing is lost."""
    data = bytes(range(256)) * 32768
    sent, got = 0, b""
    with fake.client() as client:
        client.send(ATTACH + UPGRADE + b"\r\n")
        client.head()
        got = client.left
        client.sock.setblocking(False)
        while len(got) < 6 + len(data):
            readable, writable, _ = select.select([client.sock], [client.sock] if sent < len(data) else [], [], 10)
            assert readable or writable
            if readable:
                got += client.sock.recv(1 << 20)
            if writable:
                sent += client.sock.send(data[sent : sent + (1 << 20)])
        assert got == b"hello\n" + data


def test_input_waits_for_the_engine(fake: ServedFake) -> None:
    """The engine does not read (the echo is stuck on a client that does not read): the client's writes block."""
    with fake.client() as client:
        client.send(ATTACH + UPGRADE + b"\r\n")
        client.head()
        client.sock.setblocking(False)
        sent = 0
        while select.select([], [client.sock], [], 0.5)[1]:
            sent += client.sock.send(b"x" * 65536)
            assert sent < 64 << 20
        assert sent > 256 * 1024


def test_a_client_that_leaves_ends_the_stream(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(ATTACH + UPGRADE + b"\r\n")
        client.head()
        client.exactly(6)
    fake.until(fake.backend.stream_ended)


def test_the_head_is_read_before_the_output(fake: ServedFake) -> None:
    """docker-py reads the head with one recv and loses what came with it."""
    for _ in range(20):
        with fake.client() as client:
            client.send(ATTACH + UPGRADE + b"\r\n")
            assert client.sock.recv(65536).endswith(b"\r\n\r\n")
            assert client.sock.recv(65536) == b"hello\n"


def test_a_body_that_ends_early(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /exec/abc/start HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n" + UPGRADE + b'\r\n{"De')
        client.sock.shutdown(socket.SHUT_WR)
        assert client.reply().status == 400
