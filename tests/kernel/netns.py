"""Network namespaces for tests: a host of our own, its neighbour on a wire, and containers, all gone with their holders.

A namespace is held by descriptors, without a process: what is measured beside it is not slowed by a fork's page faults.
Nothing of it is visible from the machine's own network namespace.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from boxwright.config import Settings
from boxwright.db.connection import Database
from boxwright.linux import netlink
from boxwright.linux.libc import check, function
from boxwright.network import schema
from boxwright.network.controller import Controller
from boxwright.network.endpoint import Endpoint, EndpointRequest

CLONE_NEWNET = 0x40000000
DEADLINE = 20.0
_unshare = function("unshare", ctypes.c_int)
_setns = function("setns", ctypes.c_int, ctypes.c_int)


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """The calling thread is back in its network namespace at the end."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        check("setns", "", _setns, home, CLONE_NEWNET)
        os.close(home)


class Namespace:
    """A network namespace with a route netlink socket that was opened inside it, as the engine gets from a shim."""

    def __init__(self) -> None:
        with _at_home():
            check("unshare", "", _unshare, CLONE_NEWNET)
            self.netns_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            self.netlink_fd = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE).detach()

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program inside; returns its output."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/self/fd/{self.netns_fd}", *command],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            pass_fds=[self.netns_fd],
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}: {done.stderr}")
        return done.stdout

    def end(self) -> None:
        """Close its descriptors: the namespace dies with the last one."""
        if self.netns_fd >= 0:
            os.close(self.netns_fd)
            os.close(self.netlink_fd)
            self.netns_fd = self.netlink_fd = -1

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside for the body; sockets made there stay there."""
        with _at_home():
            check("setns", "", _setns, self.netns_fd, CLONE_NEWNET)
            yield

    def listen(
        self, kind: int = socket.SOCK_STREAM, address: str = "0.0.0.0", port: int = 80, protocol: int = 0
    ) -> socket.socket:
        with self.entered():
            sock = socket.socket(socket.AF_INET, kind, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen()
        sock.settimeout(5)
        return sock

    def open_socket(self, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        with self.entered():
            sock = socket.socket(socket.AF_INET, kind, protocol)
        sock.settimeout(5)
        return sock

    def reaches(self, server: socket.socket, address: str, port: int, timeout: float = 5, bind: str = "") -> str:
        """Connect from inside to (address, port), expecting `server` to answer; returns the peer it saw, "" if none."""
        client = self.open_socket(server.type, server.proto if server.proto == socket.IPPROTO_SCTP else 0)
        client.settimeout(timeout)
        with client:
            if bind:
                client.bind((bind, 0))
            try:
                client.connect((address, port))
                client.send(b"ping")
                if server.type == socket.SOCK_DGRAM:
                    return self._answer_datagram(server, client, timeout)
                server.settimeout(timeout)
                accepted, peer = server.accept()
            except (TimeoutError, ConnectionRefusedError, OSError):
                return ""
            with accepted:
                accepted.settimeout(timeout)
                assert accepted.recv(4) == b"ping"
                accepted.sendall(b"pong")
                assert client.recv(4) == b"pong"
                return str(peer[0])

    def _answer_datagram(self, server: socket.socket, client: socket.socket, timeout: float) -> str:
        server.settimeout(timeout)
        data, peer = server.recvfrom(16)
        assert data == b"ping"
        server.sendto(b"pong", peer)
        assert client.recv(16) == b"pong"
        return str(peer[0])


class World:
    """A host namespace (where controllers run) with a neighbour on 198.51.100.0/24, and containers on demand."""

    HOST, NEIGHBOUR = "198.51.100.1", "198.51.100.2"

    def __init__(self) -> None:
        self.host, self.neighbour = Namespace(), Namespace()
        self.containers: list[Namespace] = []
        self.host.run("ip", "link", "set", "lo", "up")
        self.host.run(
            "ip",
            "link",
            "add",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "far",
            "netns",
            f"/proc/{os.getpid()}/fd/{self.neighbour.netns_fd}",
        )
        for space, name, address in ((self.host, "wire", self.HOST), (self.neighbour, "far", self.NEIGHBOUR)):
            space.run("ip", "addr", "add", f"{address}/24", "dev", name)
            space.run("ip", "link", "set", name, "up")
        self.neighbour.run("ip", "link", "set", "lo", "up")

    def container(self) -> Namespace:
        self.containers.append(Namespace())
        return self.containers[-1]

    def run(self, body: Callable[[], Coroutine[Any, Any, Any]], deadline: float = 60) -> Any:
        """Run a coroutine function on an event loop of a thread that lives in the host namespace."""
        outcome: list[Any] = []

        def thread() -> None:
            check("setns", "", _setns, self.host.netns_fd, CLONE_NEWNET)
            try:
                outcome.extend([True, asyncio.run(asyncio.wait_for(body(), deadline))])
            except BaseException as error:
                outcome.extend([False, error])

        worker = threading.Thread(target=thread)
        worker.start()
        worker.join()
        if not outcome[0]:
            raise outcome[1]
        return outcome[1]

    def close(self) -> None:
        for space in (*self.containers, self.neighbour, self.host):
            space.end()


class Net:
    """A controller with its database, used as the engine uses it."""

    def __init__(self, path: str, instance: str = "0011aabb", **settings: Any) -> None:
        settings.setdefault("bridge", "bwtest0")
        self.db = Database(path)
        self.db.migrate("network", schema.SCRIPTS)
        self.controller = Controller(self.db, instance, Settings(**settings))
        self.count = 0

    async def __aenter__(self) -> "Net":
        await self.controller.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.controller.close()
        self.db.close()

    def plan(self, **request: Any) -> Endpoint:
        self.count += 1
        request.setdefault("container_id", f"{self.count:064x}")
        request.setdefault("container_name", f"c{self.count}")
        request.setdefault("generation", 1)
        with self.db.transaction():
            return self.controller.plan(EndpointRequest(**request))

    async def join(self, space: Namespace, **request: Any) -> Endpoint:
        endpoint = self.plan(**request)
        await self.controller.connect(endpoint, space.netns_fd, space.netlink_fd)
        return endpoint


def published(endpoint: Endpoint) -> list[tuple[str, int]]:
    return [(p.host_ip, p.host_port) for p in endpoint.published]


def ruleset(space: Namespace) -> dict[str, Any]:
    """All tables of a namespace, as nft prints them in JSON."""
    return json.loads(space.run("nft", "-j", "list", "ruleset"))  # type: ignore[no-any-return]


def elements(space: Namespace, table: str, name: str = "published", family: str = "ip") -> list[Any]:
    listed = json.loads(space.run("nft", "-j", "list", "map" if name != "links" else "set", family, table, name))
    for item in listed["nftables"]:
        if "map" in item or "set" in item:
            return (item.get("map") or item.get("set")).get("elem", [])  # type: ignore[no-any-return]
    raise AssertionError(listed)


def links(space: Namespace) -> set[str]:
    with space.entered(), netlink.Socket() as sock:
        return {info.name for info in netlink.links(sock)}


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 10) -> None:
    """Wait for something of the kernel that sends no event here; fails with `what`."""
    for _ in range(int(deadline / 0.01)):
        if condition():
            return
        select.select([], [], [], 0.01)
    raise AssertionError(f"not within {deadline} s: {what}")


__all__ = ["Namespace", "Net", "World", "elements", "links", "published", "ruleset", "wait_until"]


async def off(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a blocking step of the test in a thread: it may enter namespaces, the loop's thread must not."""
    return await asyncio.to_thread(function, *arguments)
