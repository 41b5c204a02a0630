"""Requests with bytes changed, dropped, doubled and moved: never a 5xx of our own making, and the server stays up."""

import random
import socket

import pytest
from api.conftest import ServedFake
from api.fake_backend import FakeEvents
from api.test_hostile_requests import REQUESTS, create, get, post

VALID = [
    get("/_ping"),
    get('/v1.44/containers/json?all=1&filters={"status":["running"]}', "User-Agent: Docker-Client/28.2.2 (linux)"),
    create({"Image": "busybox", "Env": ["A=b"], "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8"}]}}}),
    post("/containers/box/attach?stream=1&stdin=1", b"", "Connection: Upgrade", "Upgrade: tcp") + b"typed",
    post("/exec/abc/start", b'{"Detach":false,"Tty":false}', "Connection: Upgrade", "Upgrade: tcp") + b"typed",
    get("/containers/create", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
    + b'12\r\n{"Image":"busybox"\r\n1\r\n}\r\n0\r\n\r\n',
    get("/containers/box/logs?stdout=1&tail=5"),
    *(request for request, _, _ in REQUESTS.values() if len(request) < 4000),
]
# What the fake answers with a server's error when it is asked for by its right name.
KNOWN = {500, 501, 503}
TOKENS = [
    b"\r\n",
    b"\x00",
    b":",
    b" ",
    b"/",
    b"%",
    b"..",
    b"{",
    b"}",
    b'"',
    b"\xff",
    b"Content-Length: 7\r\n",
    b"0\r\n\r\n",
    b"null",
]


def _no_events() -> FakeEvents:
    events = FakeEvents()
    events.queue.put_nowait(None)
    return events


def mutate(rng: random.Random, request: bytes) -> bytes:
    data = bytearray(request)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 20)]
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 30)]
            case 4:
                other = rng.choice(VALID)
                data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_mutations(fake: ServedFake, seed: int) -> None:
    fake.backend.events = lambda *_: _no_events()  # type: ignore[method-assign]
    rng = random.Random(seed)
    for number in range(150):
        request = mutate(rng, rng.choice(VALID))
        with fake.client() as client:
            client.sock.settimeout(5)
            try:
                for start in range(0, len(request), step := rng.choice([1 << 20, 1 << 20, 40, 7])):
                    client.send(request[start : start + step])
                client.sock.shutdown(socket.SHUT_WR)
                answer = client.rest()
            except (BrokenPipeError, ConnectionResetError):
                continue
            if answer:
                status = int(answer.split(b" ", 2)[1])
                assert status < 500 or status in KNOWN, (seed, number, request)
                assert b"internal error" not in answer, (seed, number, request, answer)
    with fake.client() as client:
        assert client.request("GET", "/_ping").body == b"OK"
