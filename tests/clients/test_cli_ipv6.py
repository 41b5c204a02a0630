"""Published ports on IPv6 through the docker CLI: what is reached at [::1], shown, refused, and outlives the engine."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.engine import DEADLINE, Engine, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="needs IPv6"),
]

SERVER = ("busybox", "sh", "-c", "echo hello >/tmp/index.html; exec httpd -f -p 80 -h /tmp")


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    yield "six"
    engine.docker("rm", "-f", "six")


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET6, kind) as probe:
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


def fetch(address: str, port: int) -> bytes:
    """The page; b"" while there is nobody, or nobody behind it."""
    try:
        with socket.create_connection((address, port), timeout=DEADLINE) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(4096), b"")).partition(b"\r\n\r\n")[2]
    except ConnectionError:
        return b""


def test_a_port_is_published_on_both(engine: Engine, name: str) -> None:
    port = free_port()
    engine.ok("run", "-d", "--name", name, "-p", f"{port}:80", *SERVER)
    for address in ("::1", "127.0.0.1"):
        assert wait_for(lambda address=address: fetch(address, port), f"the server at {address}") == b"hello\n"
    assert engine.ok("port", name).splitlines() == [f"80/tcp -> 0.0.0.0:{port}", f"80/tcp -> [::]:{port}"]
    assert engine.ok("ps", "--format", "{{.Ports}}") == f"0.0.0.0:{port}->80/tcp, [::]:{port}->80/tcp"
    assert engine.inspect(name)["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}, {"HostIp": "::", "HostPort": str(port)}]
    }
    engine.ok("restart", "-t", "0", name)
    assert wait_for(lambda: fetch("::1", port), "the server after a restart") == b"hello\n"
    engine.ok("stop", "-t", "0", name)
    assert fetch("::1", port) == b""
    with socket.create_server(("::", port), family=socket.AF_INET6):
        pass  # nothing is left on it


def test_it_outlives_the_engine(engine: Engine, name: str) -> None:
    port = free_port()
    engine.ok("run", "-d", "--name", name, "-p", f"{port}:80", *SERVER)
    wait_for(lambda: fetch("::1", port), "the server")
    engine.kill()
    assert fetch("::1", port) == b"hello\n"
    engine.restart()
    assert fetch("::1", port) == b"hello\n"
    assert f"[::]:{port}" in engine.ok("port", name)
    refused = engine.docker("run", "--rm", "-p", f"[::1]:{port}:80", "busybox", "true")
    assert f"Bind for ::1:{port} failed: port is already allocated" in refused.err


def test_an_address_that_is_named_is_the_only_one(engine: Engine, name: str) -> None:
    four, six = free_port(), free_port()
    engine.ok("run", "-d", "--name", name, "-p", f"127.0.0.1:{four}:80", "-p", f"[::1]:{six}:80", *SERVER)
    assert wait_for(lambda: fetch("127.0.0.1", four), "the server") == b"hello\n"
    assert wait_for(lambda: fetch("::1", six), "the server") == b"hello\n"
    assert fetch("::1", four) == fetch("127.0.0.1", six) == b""
    assert sorted(engine.ok("port", name).splitlines()) == [f"80/tcp -> 127.0.0.1:{four}", f"80/tcp -> [::1]:{six}"]


def test_any_port_is_the_same_on_both(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "-p", "80", *SERVER)
    four, six = engine.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"]
    assert (four["HostIp"], six["HostIp"]) == ("0.0.0.0", "::")
    assert four["HostPort"] == six["HostPort"]
    assert wait_for(lambda: fetch("::1", int(six["HostPort"])), "the server") == b"hello\n"


def test_another_program_on_ipv6_is_a_conflict(engine: Engine, name: str) -> None:
    port = free_port()
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", port))
        other.listen()
        refused = engine.docker("run", "-d", "--name", name, "-p", f"{port}:80", "busybox", "true")
        assert refused.code == 125
        assert f"failed to bind host port for [::]:{port}:" in refused.err
        assert "address already in use" in refused.err
    engine.ok("start", name)


# Answers each datagram with itself; busybox has no server of them.
ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("0.0.0.0", 53))
    print("ready", flush=True)
    while True:
        data, sender = sock.recvfrom(100)
        sock.sendto(data, sender)
"""


def test_datagrams(engine: Engine, name: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    engine.ok("run", "-d", "--name", name, "-p", f"{port}:53/udp", "busybox", "sleep", "600")
    inside = ["nsenter", "-t", str(engine.inspect(name)["State"]["Pid"]), "-n", sys.executable, "-c", ECHO]
    with subprocess.Popen(inside, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout and server.stdout.readline() == b"ready\n"
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                sock.settimeout(DEADLINE)
                sock.connect(("::1", port))
                for word in (b"hello", b"again"):
                    sock.send(word)
                    assert sock.recv(100) == word
        finally:
            server.kill()


def test_without_the_proxy_there_is_ipv4(engine: Engine) -> None:
    plain = Engine("--userland-proxy=false")
    try:
        plain.start().load()
        port = free_port()
        plain.ok("run", "-d", "--name", "four", "-p", f"{port}:80", *SERVER)
        assert wait_for(lambda: fetch("127.0.0.1", port), "the server") == b"hello\n"
        assert plain.ok("port", "four") == f"80/tcp -> 0.0.0.0:{port}"
        assert fetch("::1", port) == b""
        refused = plain.docker("run", "-p", f"[::1]:{port}:80", "busybox", "true")
        assert "publishing a port on an IPv6 address (::1)" in refused.err
        plain.ok("rm", "-f", "four")
    finally:
        plain.close()
