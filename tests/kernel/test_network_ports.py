"""Published ports on a real kernel, inside namespaces of the test's own: who reaches them, conflicts, ranges, protocols."""

import contextlib
import os
import socket

import pytest
from kernel.netns import Namespace, Net, World, off, published

from boxwright.errdefs import System

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]

TABLE = "boxwright_0011aabb"


@pytest.mark.parametrize("br_netfilter", ["0", "1"])
def test_published_ports_are_reached_from_everywhere(world: World, path: str, br_netfilter: str) -> None:
    """Neighbour, host by address and by localhost, the container itself (hairpin), its sibling; tcp and udp."""
    switch = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    if not os.path.exists(switch):
        pytest.skip("br_netfilter is not there")

    async def body() -> None:
        async with Net(path) as net:
            await off(world.host.run, "sh", "-c", f"echo {br_netfilter} > {switch}")
            space, sibling = world.container(), world.container()
            bindings = {"80/tcp": [{"HostPort": "8080"}], "53/udp": [{"HostPort": "5353"}]}
            endpoint = await net.join(space, bindings=bindings)
            await net.join(sibling)
            await off(reach, endpoint.gateway, space, sibling)

    def reach(gateway: str, space: Namespace, sibling: Namespace) -> None:
        for kind, inner, outer in ((socket.SOCK_STREAM, 80, 8080), (socket.SOCK_DGRAM, 53, 5353)):
            with contextlib.closing(space.listen(kind, port=inner)) as server:
                assert world.neighbour.reaches(server, World.HOST, outer) == World.NEIGHBOUR
                assert world.host.reaches(server, World.HOST, outer) == World.HOST
                assert world.host.reaches(server, "127.0.0.1", outer) == gateway
                for client in (space, sibling):
                    assert client.reaches(server, World.HOST, outer) == gateway
                    assert client.reaches(server, gateway, outer) == gateway

    world.run(body)


def test_what_is_not_published_is_not_reached(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            space = world.container()
            bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
            endpoint = await net.join(space, bindings=bindings)
            await off(world.neighbour.run, "ip", "route", "add", "172.16.0.0/12", "via", World.HOST)
            # A neighbour that sends packets for 127.0.0.1 at the host (the martian check comes after DNAT).
            await off(world.neighbour.run, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
            await off(world.neighbour.run, "ip", "route", "add", "127.0.0.0/8", "via", World.HOST)
            await off(
                world.neighbour.run,
                "sh",
                "-c",
                "for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $f; done",
            )
            await off(tries, endpoint.address, space)

    def tries(address: str, space: Namespace) -> None:
        with contextlib.closing(space.listen(port=80)) as server:
            assert world.host.reaches(server, "127.0.0.1", 8080)
            assert not world.neighbour.reaches(server, World.HOST, 8080, timeout=0.5)
            assert not world.neighbour.reaches(server, address, 80, timeout=0.5)
            assert not world.neighbour.reaches(server, "127.0.0.1", 8080, timeout=0.5, bind=World.NEIGHBOUR)

    world.run(body)


def test_a_container_does_not_reach_services_on_the_hosts_loopback(world: World, path: str) -> None:
    """route_localnet on the bridge must not let a container with raw sockets speak to 127.0.0.1 (CVE-2020-8558)."""

    async def body() -> None:
        async with Net(path) as net:
            space = world.container()
            endpoint = await net.join(space)
            await off(tries, space, endpoint.gateway)

    def tries(space: Namespace, gateway: str) -> None:
        space.run("sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $f; done")
        space.run("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
        space.run("ip", "route", "add", "127.0.0.0/8", "via", gateway)
        with contextlib.closing(world.host.listen(address="127.0.0.1", port=99)) as server:
            assert world.host.reaches(server, "127.0.0.1", 99)
            assert not space.reaches(server, "127.0.0.1", 99, timeout=0.5, bind="172.17.0.2")

    world.run(body)


def test_sctp(world: World, path: str) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        pytest.skip("this kernel has no sctp sockets")

    async def body() -> None:
        async with Net(path) as net:
            space = world.container()
            await net.join(space, bindings={"80/sctp": [{"HostPort": "8080"}]})
            server = await off(space.listen, socket.SOCK_STREAM, "0.0.0.0", 80, socket.IPPROTO_SCTP)
            with contextlib.closing(server):
                assert await off(world.neighbour.reaches, server, World.HOST, 8080) == World.NEIGHBOUR

    world.run(body)


def test_sctp_has_its_element_also_without_sockets(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            space = world.container()
            await net.join(space, bindings={"80/sctp": [{"HostPort": "8080"}]})
            listed = await off(world.host.run, "nft", "list", "map", "ip", TABLE, "published")
            assert "sctp . 8080 : 172.17.0.2 . 80" in listed

    world.run(body)


def test_port_conflicts(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            first = net.plan(bindings={"80/tcp": [{"HostPort": "8080"}], "53/udp": [{"HostPort": "8080"}]})
            with pytest.raises(System) as refused:
                net.plan(container_name="web", bindings={"81/tcp": [{"HostPort": "8080"}]})
            prefix, _, rest = str(refused.value).partition("(")
            assert prefix == "driver failed programming external connectivity on endpoint web "
            assert rest.endswith("): Bind for 0.0.0.0:8080 failed: port is already allocated")
            with pytest.raises(System, match=r"Bind for 127\.0\.0\.1:8080 failed: port is already allocated"):
                net.plan(bindings={"81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]})
            # The same port on different addresses of the host is no conflict.
            one = net.plan(bindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "7000"}]})
            two = net.plan(bindings={"80/tcp": [{"HostIp": World.HOST, "HostPort": "7000"}]})
            assert published(one) + published(two) == [("127.0.0.1", 7000), (World.HOST, 7000)]
            # Nothing of a refused plan stays.
            await net.controller.release(first)
            assert published(net.plan(bindings={"81/tcp": [{"HostPort": "8080"}]})) == [("0.0.0.0", 8080)]
            with pytest.raises(
                System, match=r"failed to bind host port for 203\.0\.113\.9:9:.*assign requested address"
            ):
                net.plan(bindings={"81/tcp": [{"HostIp": "203.0.113.9", "HostPort": "9"}]})

    world.run(body)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_foreign_programs_port_is_not_taken_and_ours_is_not_either(world: World, path: str, kind: int) -> None:
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"

    async def body() -> None:
        async with Net(path) as net:
            with contextlib.closing(await off(world.host.listen, kind, "127.0.0.1", 8080)):
                with pytest.raises(System, match=f"failed to bind host port.*/{protocol}: address already in use"):
                    net.plan(bindings={f"80/{protocol}": [{"HostPort": "8080"}]})
                with pytest.raises(System, match="address already in use"):
                    net.plan(bindings={f"80/{protocol}": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]})
            endpoint = net.plan(bindings={f"80/{protocol}": [{"HostPort": "8080"}]})
            with pytest.raises(OSError, match="in use"):
                await off(world.host.listen, kind, "0.0.0.0", 8080)
            await net.controller.release(endpoint)
            (await off(world.host.listen, kind, "0.0.0.0", 8080)).close()

    world.run(body)


def test_random_ports_and_ranges(world: World, path: str) -> None:
    async def body() -> None:
        await off(world.host.run, "sh", "-c", "echo 40000 40005 > /proc/sys/net/ipv4/ip_local_port_range")
        async with Net(path) as net:
            any_port = {"80/tcp": [{"HostPort": ""}]}
            with contextlib.closing(await off(world.host.listen, socket.SOCK_STREAM, "0.0.0.0", 40001)):
                ends = [net.plan(bindings=any_port) for _ in range(3)]
                assert [published(e)[0][1] for e in ends] == [40000, 40002, 40003]
            await net.controller.release(ends[0])
            assert [published(net.plan(bindings=any_port))[0][1] for _ in range(3)] == [40004, 40005, 40000]
            net.plan(bindings=any_port)
            with pytest.raises(System, match="all ports are allocated"):
                net.plan(bindings=any_port)
            window = {"80/tcp": [{"HostPort": "9000-9001"}]}
            assert [published(net.plan(bindings=window))[0][1] for _ in range(2)] == [9000, 9001]
            with pytest.raises(System, match="all ports are allocated"):
                net.plan(bindings=window)
            mixed = {"80/tcp": [{"HostPort": "9010-9011"}], "81/tcp": [{"HostPort": "9010"}]}
            assert published(net.plan(bindings=mixed)) == [("0.0.0.0", 9011), ("0.0.0.0", 9010)]
            both = net.plan(exposed=["99/udp", "98/udp"], publish_all=True)
            assert [p.container_port for p in both.published] == [98, 99]
            assert [b["HostPort"] for b in both.ports_to_docker()["98/udp"] or ()] == ["40000", "40000"]

    world.run(body)


def test_a_udp_client_that_keeps_sending_reaches_the_next_container(world: World, path: str) -> None:
    """NAT is decided by a connection's first packet: entries of before must be forgotten."""

    async def body() -> None:
        async with Net(path) as net:
            client = world.neighbour.open_socket(socket.SOCK_DGRAM)
            client.bind((World.NEIGHBOUR, 7777))
            client.sendto(b"early", (World.HOST, 5353))
            for expected in ("172.17.0.2", "172.17.0.3"):
                space = world.container()
                endpoint = await net.join(space, bindings={"53/udp": [{"HostPort": "5353"}]})
                assert endpoint.address == expected
                with contextlib.closing(await off(space.listen, socket.SOCK_DGRAM, "0.0.0.0", 53)) as server:
                    client.sendto(expected.encode(), (World.HOST, 5353))
                    assert await off(server.recv, 64) == expected.encode()
                await net.controller.release(endpoint)
            client.close()

    world.run(body)
