"""Where the API listens: modes, stale sockets, long paths, and how it closes."""

import asyncio
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from api.conftest import ServedFake
from api.fake_backend import FakeBackend
from api.raw import Client

from boxwright.api import doors, protocol, server
from boxwright.api.app import App
from boxwright.errdefs import Conflict, InvalidParameter


async def _closed(*hosts: str, group: str | None = None) -> list[str]:
    serving = await server.serve(App(FakeBackend()), hosts, group)
    await serving.close(0.1)
    return serving.addresses


def serve(*hosts: str, **options: Any) -> list[str]:
    return asyncio.run(_closed(*hosts, **options))


def test_only_the_group_may_connect(fake: ServedFake) -> None:
    mode = os.stat(fake.path).st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)


def test_the_socket_goes_with_the_server(tmp_path: Path) -> None:
    serve(f"unix://{tmp_path}/s")
    assert list(tmp_path.iterdir()) == []


def test_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    serve(f"unix://{deep}/run.sock")
    assert list(deep.iterdir()) == []


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    serve(f"unix://{path}")


def test_a_socket_in_use_and_a_file_stay(fake: ServedFake, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="in use"):
        serve(f"unix://{fake.path}")
    assert fake.client().request("GET", "/_ping").status == 200
    (tmp_path / "file").write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        serve(f"unix://{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.root
def test_the_group(tmp_path: Path) -> None:
    async def owner() -> int:
        serving = await server.serve(App(FakeBackend()), [f"unix://{tmp_path}/s"], "4711")
        gid = os.stat(tmp_path / "s").st_gid
        await serving.close(0.1)
        return gid

    assert asyncio.run(owner()) == 4711
    with pytest.raises(InvalidParameter, match="group no-such-group not found"):
        serve(f"unix://{tmp_path}/s", group="no-such-group")


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("tcp://0.0.0.0:0", "only loopback"),
        ("tcp://192.0.2.1:2375", "only loopback"),
        ("tcp://[::]:2375", "only loopback"),
        ("tcp://localhost:99999", "an IP address and a port"),
        ("tcp://x:1", "an IP address and a port"),
        ("fd://", "no sockets found via socket activation"),
        ("unix://relative", "absolute"),
        ("ftp://x", "are served"),
        ("/var/run/docker.sock", "are served"),
    ],
)
def test_hosts_that_are_refused(host: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        serve(host)


def test_tcp_names_its_port() -> None:
    [address] = serve("tcp://localhost:0")
    assert int(address.removeprefix("tcp://127.0.0.1:")) > 0


def test_closing_ends_streams_at_once(fake: ServedFake) -> None:
    clients = [fake.client() for _ in range(3)]
    for client, request in zip(
        clients,
        (b"POST /containers/box/wait", b"GET /events", b"POST /containers/box/attach?stdin=1"),
        strict=True,
    ):
        client.send(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
    before = time.monotonic()
    fake.close()
    assert time.monotonic() - before < 5
    for client in clients:
        client.rest()
        client.sock.close()
    assert fake.backend.waiters[0].closed
    assert fake.backend.subscription.closed.is_set()
    assert fake.backend.stream_ended.is_set()


def test_a_flood_over_tcp_leaves_the_unix_socket_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MAX_REMOTE", 2)
    served = ServedFake(str(tmp_path / "b.sock"), server.loop_factory())
    try:
        with Client(port=served.tcp) as first, Client(port=served.tcp) as second:
            assert first.request("GET", "/_ping").status == second.request("GET", "/_ping").status == 200
            with Client(port=served.tcp) as third:
                assert third.reply().status == 503
            with served.client() as local:
                assert local.request("GET", "/_ping").status == 200
            second.request("GET", "/_ping", Connection="close")
            second.rest()
            with Client(port=served.tcp) as fourth:
                assert fourth.request("GET", "/_ping").status == 200
    finally:
        served.close()


def test_one_client_too_many(fake: ServedFake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    with fake.client() as first, fake.client() as second:
        assert first.request("GET", "/_ping").status == 200
        assert second.request("GET", "/_ping").status == 200
        with fake.client() as third:
            assert third.reply().status == 503
        assert first.request("GET", "/_ping").status == 200
