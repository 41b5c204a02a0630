"""What a connection survives: half-closes, clients that leave, slow heads, pipelining, keep-alive."""

import select
import socket
import time

import pytest
from api.conftest import ServedFake
from api.raw import Client

from boxwright.api import protocol


def test_keep_alive_and_pipelining(fake: ServedFake) -> None:
    with fake.client() as client:
        for _ in range(3):
            assert client.request("GET", "/_ping").body == b"OK"
        client.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert [client.reply().body for _ in range(100)] == [b"OK"] * 100


def test_empty_lines_before_a_request(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"\r\n")
        client.send(b"\r\n\r\nGET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.reply().body == b"OK"


def test_half_close_after_the_request(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /containers/box/pause HTTP/1.1\r\nHost: x\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.reply().status == 204
        assert client.rest() == b""


def test_half_close_while_it_waits(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /containers/box/wait HTTP/1.1\r\nHost: x\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.head().status == 200
        fake.call(fake.backend.exited.set)
        assert client.chunk() == b'{"StatusCode":0,"Error":null}\r\n'
        assert client.chunk() == b""


def test_wait_sends_its_head_once_the_waiter_is_registered(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /containers/box/wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.head().status == 200
        assert len(fake.backend.waiters) == 1
        fake.call(fake.backend.exited.set)
        assert b"StatusCode" in client.chunk()


def test_a_waiter_leaves_with_its_client(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /containers/box/wait HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        waiter = fake.backend.waiters[0]
        assert not waiter.closed
    deadline = time.monotonic() + 5
    while not waiter.closed and time.monotonic() < deadline:
        assert fake.client().request("GET", "/_ping").status == 200
    assert waiter.closed


@pytest.mark.parametrize("half", [False, True])
def test_a_mutation_outlives_its_client(fake: ServedFake, half: bool) -> None:
    with fake.client() as client:
        client.send(b"POST /containers/box/restart?t=7 HTTP/1.1\r\nHost: x\r\n\r\n")
        fake.until(fake.backend.in_gate)
        if half:
            client.sock.shutdown(socket.SHUT_WR)
            assert fake.client().request("GET", "/_ping").status == 200
    fake.call(fake.backend.gate.set)
    deadline = time.monotonic() + 5
    while not fake.backend.seen and time.monotonic() < deadline:
        assert fake.client().request("GET", "/_ping").status == 200
    assert fake.backend.seen == [("restart", "box", None, 7)]


def test_followed_log_ends_with_its_client(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"GET /containers/box/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        assert client.chunk().endswith(b"one\n")
    fake.until(fake.backend.log_ended)


def test_followed_log_that_says_nothing_has_a_head(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"GET /containers/box/logs?stdout=1&follow=1&tail=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.head().status == 200
        fake.call(fake.backend.exited.set)
        assert client.chunk().endswith(b"last\n")


def test_a_log_that_is_not_open_yet_has_no_head(fake: ServedFake) -> None:
    """Who has the head may remove the container."""
    with fake.client() as client:
        client.send(b"GET /containers/box/logs?stdout=1&tail=14 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert select.select([client.sock], [], [], 0.2)[0] == []
        fake.call(fake.backend.exited.set)
        assert client.head().status == 200
        assert client.chunk().endswith(b"one\n")


def test_events_end_with_their_client(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"GET /events?since=1.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.head().status == 200
        fake.call(fake.backend.subscription.queue.put_nowait, {"Type": "container"})
        assert client.chunk() == b'{"Type":"container"}\r\n'
    fake.until(fake.backend.subscription.closed)
    assert fake.backend.seen == [("events", {}, 1_500_000_000, None)]


def test_http_1_0_streams_without_chunks(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"GET /containers/box/logs?stdout=1 HTTP/1.0\r\n\r\n")
        head = client.head()
        assert "transfer-encoding" not in head.headers
        assert client.rest().startswith(b"\x01\0\0\0\0\0\0\x04one\n")


def test_expect_continue(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /images/load HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n")
        assert client.head().status == 100
        client.send(b"archive")
        reply = client.reply()
        assert b'{"stream":"7 bytes\\n"}' in reply.body


def test_a_head_has_a_deadline(fake: ServedFake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_DEADLINE", 0.2)
    with fake.client() as client, fake.client() as idle:
        idle.request("GET", "/_ping")
        client.send(b"GET /_ping HTTP/1.1\r\nHost:")
        reply = client.reply()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert client.rest() == b""
        # A connection that rests between requests is not late.
        assert idle.request("GET", "/_ping").status == 200


def test_a_body_has_a_deadline(fake: ServedFake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwright.api.call.BODY_DEADLINE", 0.2)
    with fake.client() as client:
        client.send(b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.send(b"Content-Length: 100\r\n\r\n{")
        assert client.reply().status == 408


def test_a_head_of_any_shape_up_to_the_limit(fake: ServedFake) -> None:
    """X-Registry-Config and build arguments go far beyond the 8 KiB that HTTP libraries start with."""
    with fake.client() as client:
        assert client.request("GET", "/_ping?x=" + "a" * 300_000, X_Registry_Config="b" * 500_000).status == 200
        assert client.request("GET", "/_ping", **{f"X-{n}": "v" for n in range(200)}).status == 200


def test_tcp_on_loopback(fake: ServedFake) -> None:
    with Client(port=fake.tcp) as client:
        assert client.request("GET", "/_ping").body == b"OK"
        client.send(b"POST /containers/box/attach HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nhi")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.head().status == 101
        assert client.rest() == b"hello\nhi<eof>"


def test_a_hijack_right_behind_another_request(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /containers/box/restart HTTP/1.1\r\nHost: x\r\n\r\n")
        fake.until(fake.backend.in_gate)
        client.send(b"POST /containers/box/attach HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nhi")
        assert fake.client().request("GET", "/_ping").status == 200
        fake.call(fake.backend.gate.set)
        assert client.reply().status == 204
        client.sock.shutdown(socket.SHUT_WR)
        assert client.head().status == 101
        assert client.rest() == b"hello\nhi<eof>"


def test_a_chunk_that_goes_wrong_later(fake: ServedFake) -> None:
    with fake.client() as client:
        client.send(b"POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}")
        assert fake.client().request("GET", "/_ping").status == 200
        client.send(b"}}\r\n0\r\n\r\n")
        reply = client.reply()
        assert (reply.status, reply.message) == (400, "malformed request body: invalid chunk")
        assert client.rest() == b""
