"""Malformed and hostile requests: each gets a 4xx with a message that says why, and the engine is what it was.

The table runs twice: against the API over the fake backend, and against a real engine.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from api.conftest import ServedFake
from api.raw import Client, Reply
from support.engine import Engine


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def post(target: str, body: bytes | str = b"", *headers: str, type: str = "application/json") -> bytes:
    data = body.encode() if isinstance(body, str) else body
    own = [f"Content-Type: {type}"] if type else []
    return get(target, f"Content-Length: {len(data)}", *own, *headers, method="POST") + data


def create(body: Any, name: str = "hostile") -> bytes:
    return post(f"/containers/create?name={name}", body if isinstance(body, str | bytes) else json.dumps(body))


def host(**fields: Any) -> bytes:
    return create({"Image": "busybox", "HostConfig": fields})


DEEP = "[" * 20_000 + "]" * 20_000
MIB = 1 << 20

# name → (bytes, status, a part of the message)
REQUESTS: dict[str, tuple[bytes, int, str]] = {
    # HTTP itself
    "no http at all": (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS to a plain port\r\n\r\n",
        400,
        "malformed request",
    ),
    "nonsense line": (b"HELLO WORLD\r\n\r\n", 400, "malformed request"),
    "unknown http version": (b"GET /_ping HTTP/9.9\r\nHost: x\r\n\r\n", 400, "malformed request"),
    "invalid method": (b"GE T /_ping HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request"),
    "lower-case method": (b"get /_ping HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request"),
    "proxy connect": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", 400, ""),
    "absolute target": (b"GET http://example.com/info HTTP/1.1\r\nHost: example.com\r\n\r\n", 400, "invalid path"),
    "no host": (b"GET /_ping HTTP/1.1\r\n\r\n", 400, "Host"),
    "two hosts": (b"GET /_ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, ""),
    "space in a field name": (b"GET /_ping HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", 400, "malformed request"),
    "NUL in a field": (b"GET /_ping HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400, "malformed request"),
    "folded field": (b"GET /_ping HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, ""),
    "field without colon": (b"GET /_ping HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n", 400, "malformed request"),
    "head too large": (get("/_ping", *(f"X-{n}: {'a' * 9000}" for n in range(150))), 431, "too large"),
    "one field too large": (get("/_ping", "X-Registry-Auth: " + "a" * (MIB + 100)), 431, "too large"),
    "request line too long": (get("/_ping?" + "a" * (MIB + 100)), 431, "too large"),
    "too many fields": (get("/_ping", *(f"X-{n}: a" for n in range(600))), 400, "malformed request"),
    # Lengths and chunks
    "negative length": (get("/containers/create", "Content-Length: -1", method="POST"), 400, "malformed request"),
    "length is no number": (get("/containers/create", "Content-Length: 1x", method="POST"), 400, "malformed request"),
    "two lengths": (get("/build", "Content-Length: 1", "Content-Length: 2", method="POST") + b"ab", 400, "malformed"),
    "length and chunks": (
        get("/containers/create", "Content-Length: 3", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n",
        400,
        "malformed request",
    ),
    "chunk size is no number": (
        get("/containers/create", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
        + b"zz\r\n",
        400,
        "malformed",
    ),
    "chunk longer than said": (
        get("/containers/create", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
        + b"2\r\n{}}}\r\n0\r\n\r\n",
        400,
        "malformed",
    ),
    "unknown transfer coding": (get("/containers/create", "Transfer-Encoding: gzip", method="POST"), 400, ""),
    "unknown expectation": (post("/containers/create", "{}", "Expect: the-unexpected"), 400, "unknown expectation"),
    "body too large": (
        get("/containers/create", "Content-Type: application/json", f"Content-Length: {64 * MIB}", method="POST"),
        413,
        "request body too large",
    ),
    "chunked body too large": (
        get("/containers/create", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
        + b"100000\r\n%s\r\n" % (b" " * MIB) * 5,
        413,
        "request body too large",
    ),
    "compressed body": (
        post("/containers/create", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "Content-Encoding: gzip"),
        400,
        "invalid JSON",
    ),
    # Paths
    "dot-dot": (get("/containers/../info"), 400, "invalid path"),
    "encoded dot-dot": (get("/containers/%2e%2e/json"), 400, "invalid path"),
    "encoded slash and dot-dot": (get("/containers/a%2F..%2f..%2Fb/json"), 400, "invalid path"),
    "dot-dot behind the version": (get("/v1.41/../../etc/passwd"), 400, "invalid path"),
    "backslash": (get("/containers/..%5c..%5cx/json"), 400, "invalid path"),
    "encoded twice": (get("/containers/%252e%252e%252fetc/json"), 404, "No such container"),
    "NUL in a path": (get("/containers/box%00/json"), 400, "invalid path"),
    "newline in a path": (get("/containers/box%0d%0aX:%20y/json"), 400, "invalid path"),
    "bad escape": (get("/containers/%zz/json"), 400, 'invalid URL escape "%zz"'),
    "cut escape": (get("/containers/box/json%2"), 400, 'invalid URL escape "%2"'),
    "path is not UTF-8": (get("/containers/%ff%fe/json"), 400, "not UTF-8"),
    "raw bytes in a path": (get("/containers/b\xf6x/json"), 400, ""),
    "empty name": (get("/containers//json"), 404, "page not found"),
    "unknown path": (get("/favicon.ico"), 404, "page not found"),
    "root": (get("/"), 404, "page not found"),
    "wrong method": (get("/containers/create", method="DELETE"), 404, "No such container"),
    "no such method": (get("/info", method="PATCH"), 405, "method not allowed"),
    "preflight": (get("/containers/create", "Access-Control-Request-Method: POST", method="OPTIONS"), 405, ""),
    "trace": (get("/_ping", method="TRACE"), 405, ""),
    # Versions
    "version too old": (get("/v1.0/info"), 400, "client version 1.0 is too old"),
    "version too new": (get("/v99.99/info"), 400, "client version 99.99 is too new"),
    "version of many digits": (get(f"/v{'9' * 5000}.1/info"), 400, "is too old"),
    "version of dots": (get("/v..../info"), 400, "is too old"),
    # Browsers
    "another origin": (post("/containers/create", "{}", "Origin: http://evil.example"), 403, "cross-origin"),
    "null origin": (get("/containers/json", "Origin: null"), 403, "cross-origin"),
    "cross-site fetch": (get("/containers/json", "Sec-Fetch-Site: cross-site"), 403, "cross-origin"),
    "simple form post": (
        post("/containers/create", '{"Image":"busybox"}', type="text/plain"),
        400,
        "unsupported Content-Type header (text/plain): must be 'application/json'",
    ),
    "cross-origin websocket": (
        get(
            "/containers/box/attach/ws?stream=1",
            "Origin: http://evil.example",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        403,
        "cross-origin",
    ),
    # Queries
    "semicolon": (get("/containers/json?all=1;limit=2"), 400, "invalid semicolon separator in query"),
    "bad escape in a query": (get("/containers/json?all=%4"), 400, 'invalid URL escape "%4"'),
    "query is not UTF-8": (get("/containers/json?filters=%ff"), 400, "invalid query"),
    "NUL in a query": (get("/containers/create?name=a%00b", method="POST"), 400, "NUL"),
    "too many parameters": (get("/containers/json?" + "a=1&" * 5000), 400, "invalid query"),
    "limit is no number": (get("/containers/json?limit=many"), 400, 'strconv.Atoi: parsing "many": invalid syntax'),
    "limit out of range": (get("/containers/json?limit=" + "9" * 30), 400, "value out of range"),
    "limit of many digits": (get("/containers/json?limit=" + "9" * 9000), 400, "value out of range"),
    "timeout is no number": (post("/containers/box/stop?t=1.5", type=""), 400, "invalid syntax"),
    "height is no number": (post("/containers/box/resize?h=x&w=1", type=""), 400, 'invalid resize height "x"'),
    "negative width": (post("/containers/box/resize?h=1&w=-1", type=""), 400, 'invalid resize width "-1"'),
    "since is no time": (get("/events?since=yesterday"), 400, "invalid syntax"),
    "until of many digits": (get("/containers/box/logs?stdout=1&until=" + "9" * 5000), 400, "invalid syntax"),
    "no log stream": (get("/containers/box/logs"), 400, "you must choose at least one stream"),
    "filters are no JSON": (get("/containers/json?filters={status"), 400, "invalid filter"),
    "filters are a list": (get("/containers/json?filters=[1]"), 400, "invalid filter"),
    "filter of numbers": (get('/images/json?filters={"label":[1]}'), 400, "invalid filter 'label'"),
    "filter of objects": (get('/networks?filters={"name":{"a":{}}}'), 400, "invalid filter 'name'"),
    "deep filters": (get("/containers/json?filters=" + DEEP), 400, "exceeded max depth"),
    "unknown filter": (get('/containers/json?filters={"colour":["red"]}'), 400, "invalid filter 'colour'"),
    "unknown volume filter": (get('/volumes?filters={"colour":["red"]}'), 400, "invalid filter 'colour'"),
    # Bodies
    "no body": (post("/containers/create"), 400, "got EOF while reading request body"),
    "no media type": (post("/containers/create", "{}", type=""), 400, "malformed Content-Type header"),
    "malformed media type": (
        post("/containers/create", "{}", type="json"),
        400,
        "malformed Content-Type header (json)",
    ),
    "empty object": (create("{}"), 400, "config cannot be empty in order to create a container"),
    "null": (create("null"), 400, "config cannot be empty in order to create a container"),
    "cut body": (create('{"Image":"busybox"'), 400, "unexpected EOF"),
    "two bodies": (create('{"Image":"busybox"}{"Image":"busybox"}'), 400, "unexpected content after JSON"),
    "deep body": (create('{"Image":"busybox","X":' + DEEP + "}"), 400, "exceeded max depth"),
    "array": (create("[]"), 400, "cannot unmarshal array"),
    "body is not UTF-8": (create(b'{"Image":"\xff"}'), 400, "invalid JSON"),
    "half a surrogate": (create(b'{"Image":"busybox","Hostname":"\\ud800"}'), 400, "invalid JSON"),
    "NUL in a body": (create({"Image": "busybox", "Env": ["A=\0"]}), 400, "invalid character '\\x00'"),
    "bare NaN": (create('{"Image":"busybox","StopTimeout":NaN}'), 400, "invalid JSON"),
    "image is a number": (create({"Image": 5}), 400, "CreateRequest.Image of type string"),
    "memory is text": (host(Memory="1g"), 400, 'string "1g" into Go struct field CreateRequest.HostConfig.Memory'),
    "memory is a fraction": (host(Memory=0.5), 400, "number 0.5"),
    "memory overflows": (host(Memory=2**63), 400, "HostConfig.Memory of type int64"),
    "weight wraps": (host(BlkioWeight=65536), 400, "HostConfig.BlkioWeight of type uint16"),
    "binds are an object": (host(Binds={}), 400, "HostConfig.Binds of type []string"),
    "bindings are a list": (host(PortBindings=[]), 400, "HostConfig.PortBindings of type"),
    "ports are text": (create({"Image": "busybox", "ExposedPorts": "80"}), 400, "ExposedPorts of type"),
    "environment of numbers": (create({"Image": "busybox", "Env": [1]}), 400, "CreateRequest.Env of type string"),
    "start with text": (post("/containers/box/start", "hello", type="text/plain"), 400, "unsupported Content-Type"),
    "start with nonsense": (post("/containers/box/start", "{"), 400, "unexpected EOF"),
    "exec without body": (post("/containers/box/exec"), 400, "got EOF"),
    "network without body": (post("/networks/create"), 400, "got EOF"),
    "volume is a list": (post("/volumes/create", "[]"), 400, "cannot unmarshal array"),
    # Names and objects that do not exist
    "no such container": (get("/containers/nope/json"), 404, "No such container: nope"),
    "no such container to start": (post("/containers/nope/start", type=""), 404, "No such container: nope"),
    "no such image": (get("/images/missing/json"), 404, "No such image: missing"),
    "create from no such image": (create({"Image": "missing"}), 404, "No such image: missing:latest"),
    "attach to nothing": (post("/containers/nope/attach?stream=1", type=""), 404, "No such container: nope"),
    "attach in chunks": (
        get("/containers/box/attach", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n",
        400,
        "cannot be hijacked",
    ),
    "websocket without handshake": (get("/containers/box/attach/ws?stream=1"), 400, "WebSocket"),
    "load of nothing": (post("/images/load", b"not a tar" * 100, type="application/x-tar"), 400, ""),
    "import from nowhere": (post("/images/create", type=""), 400, "fromImage or fromSrc"),
}

# What only a whole engine checks.
ENGINE_REQUESTS: dict[str, tuple[bytes, int, str]] = {
    "name with a slash": (create({"Image": "busybox"}, "a%2Fb"), 400, "Invalid container name (a/b)"),
    "name with a newline": (create({"Image": "busybox"}, "a%0Ab"), 400, "Invalid container name"),
    "name that is an option": (create({"Image": "busybox"}, "-rf"), 400, "Invalid container name (-rf)"),
    "name in use": (create({"Image": "busybox"}, "box"), 409, 'The container name "/box" is already in use'),
    "image is a path": (create({"Image": "../../etc"}), 400, "invalid reference format"),
    "image in capitals": (create({"Image": "BusyBox"}), 400, "must be lowercase"),
    "no image": (create({"Cmd": ["true"]}), 400, ""),
    "bind of a relative path": (host(Binds=["../x:/x"]), 400, ""),
    "bind onto nothing": (host(Binds=["/tmp:"]), 400, "invalid volume specification"),
    "negative memory": (host(Memory=-5), 400, ""),
    "swappiness beyond 100": (host(MemorySwappiness=400), 400, ""),
    "port beyond 65535": (host(PortBindings={"99999/tcp": [{}]}), 400, ""),
    "restart policy of a dream": (host(RestartPolicy={"Name": "sometimes"}), 400, "sometimes"),
    "volume name with dots": (post("/volumes/create", '{"Name":"../../x"}'), 400, ""),
    "bad signal": (post("/containers/box/kill?signal=SIGNONSENSE", type=""), 400, "SIGNONSENSE"),
    "bad wait condition": (post("/containers/box/wait?condition=maybe", type=""), 400, "maybe"),
    "exec of nothing": (post("/containers/box/exec", '{"Cmd":[]}'), 400, "No exec command specified"),
    "rename to nothing": (post("/containers/box/rename?name=", type=""), 400, ""),
    "tag with a bad name": (post("/images/busybox/tag?repo=..%2Fx&tag=1", type=""), 400, "invalid reference format"),
}


def check(client: Client, request: bytes, status: int, text: str) -> None:
    try:
        client.send(request)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it answered and closed before it had read everything
    reply: Reply = client.reply()
    assert reply.status == status, reply.body[:500]
    assert text in reply.message
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", REQUESTS)
def test_over_the_fake(fake: ServedFake, name: str) -> None:
    with fake.client() as client:
        check(client, *REQUESTS[name])
        assert client.left == b""
    with fake.client() as client:
        assert client.request("GET", "/_ping").body == b"OK"
    assert fake.backend.seen == []


@pytest.fixture(scope="module")
def target(engine: Engine) -> Iterator[Engine]:
    """A real engine with one container, which was never started."""
    engine.ok("create", "--name", "box", "busybox", "true")
    yield engine
    engine.ok("rm", "box")


def state(engine: Engine) -> list[Any]:
    lists = ("/containers/json?all=1", "/images/json?all=1", "/volumes", "/networks")
    return [engine.api("GET", path).json for path in lists]


@pytest.mark.root
@pytest.mark.parametrize("name", [*REQUESTS, *ENGINE_REQUESTS])
def test_over_an_engine(target: Engine, name: str) -> None:
    before = state(target)
    with Client(target.socket) as client:
        check(client, *(REQUESTS.get(name) or ENGINE_REQUESTS[name]))
    assert state(target) == before


@pytest.mark.parametrize("cut", [1, 20, 60, 100])
def test_a_request_that_is_cut_off(fake: ServedFake, cut: int) -> None:
    whole = create({"Image": "busybox"})
    with fake.client() as client:
        client.send(whole[:cut])
        client.sock.shutdown(socket.SHUT_WR)
        client.sock.settimeout(5)
        assert b" 20" not in client.rest()[:15]
    assert fake.backend.seen == []


def test_many_silent_connections(fake: ServedFake) -> None:
    clients = [fake.client() for _ in range(300)]
    for client in clients:
        client.send(b"GET /_p")
    with fake.client() as client:
        assert client.request("GET", "/_ping").status == 200
    for client in clients:
        client.sock.close()
