"""The default bridge on a real kernel, inside namespaces of the test's own: addresses, NAT, published ports, filters."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from kernel.netns import Namespace, Net, World, elements, links, off, ruleset, wait_until

from boxwright.errdefs import Forbidden, InvalidParameter, NotFound, NotImplemented_, System
from boxwright.network.endpoint import Link

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]

TABLE = "boxwright_0011aabb"


def test_a_container_on_the_bridge(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            space = world.container()
            endpoint = await net.join(space)
            assert endpoint.address == "172.17.0.2"
            assert endpoint.link.startswith("bw0011")
            shown = await off(space.run, "ip", "-4", "-o", "addr", "show")
            assert "lo    inet 127.0.0.1/8" in shown
            assert "eth0    inet 172.17.0.2/16 brd 172.17.255.255 scope global eth0" in shown
            assert "default via 172.17.0.1 dev eth0" in await off(space.run, "ip", "route")
            assert "02:42:ac:11:00:02" in await off(space.run, "ip", "link", "show", "eth0")
            # No IPv6 on a network that has none: neighbours could reach it past the IPv4 rules.
            assert "eth0" not in await off(space.run, "ip", "-6", "-o", "addr", "show")
            # Each of a port's own would make the end of every other container slower.
            assert endpoint.link not in await off(world.host.run, "ip", "-6", "addr", "show")
            assert endpoint.link not in await off(world.host.run, "ip", "-6", "route", "show", "table", "all")
            assert endpoint.to_docker()["IPAddress"] == "172.17.0.2"
            await off(world.host.run, "busybox", "ping", "-c1", "-W5", "172.17.0.2")
            assert await off(world.host.run, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"

    world.run(body)


def test_the_wishes_of_a_container(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path, mtu=1400, bip="10.77.0.1/24", fixed_cidr="10.77.0.128/25") as net:
            space = world.container()
            endpoint = await net.join(space, mac_address="02:42:99:00:00:01")
            assert endpoint.address == "10.77.0.128"
            shown = await off(space.run, "ip", "link", "show", "eth0")
            assert "02:42:99:00:00:01" in shown
            assert "mtu 1400" in shown
            shown = net.controller.inspect("bridge")
            assert shown["IPAM"]["Config"] == [
                {"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1", "IPRange": "10.77.0.128/25"}
            ]
            assert shown["Containers"][endpoint.container_id]["IPv4Address"] == "10.77.0.128/24"
            for wish, text in (
                ({"ipv4_address": "10.77.0.9"}, "user specified IP address is supported on user defined networks only"),
                ({"aliases": ["a"]}, "network-scoped alias is supported only for containers in user defined networks"),
                ({"mac_address": "zz"}, "invalid MAC address"),
            ):
                with pytest.raises(InvalidParameter, match=text):
                    net.plan(**wish)  # type: ignore[arg-type]
            with pytest.raises(NotFound, match="network nope not found"):
                net.plan(network="nope")
            assert len(net.controller.endpoints()) == 1

    world.run(body)


@pytest.mark.parametrize("masquerade", [True, False])
def test_outgoing_connections(world: World, path: str, masquerade: bool) -> None:
    async def body() -> None:
        async with Net(path, ip_masq=masquerade) as net:
            space = world.container()
            endpoint = await net.join(space)
            await off(world.neighbour.run, "ip", "route", "add", "172.16.0.0/12", "via", World.HOST)
            with contextlib.closing(await off(world.neighbour.listen)) as server:
                seen = await off(space.reaches, server, World.NEIGHBOUR, 80)
                assert seen == (World.HOST if masquerade else endpoint.address)

    world.run(body)


@pytest.mark.parametrize("br_netfilter", ["0", "1"])
def test_icc_off_with_links(world: World, path: str, br_netfilter: str) -> None:
    async def body() -> None:
        async with Net(path, icc=False) as net:
            switch = "/proc/sys/net/bridge/bridge-nf-call-iptables"
            await off(world.host.run, "sh", "-c", f"test ! -e {switch} || echo {br_netfilter} > {switch}")
            child, parent, other = world.container(), world.container(), world.container()
            bindings = {"82/tcp": [{"HostPort": "8082"}], "83/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8083"}]}
            served = await net.join(child, exposed=["80/tcp"], bindings=bindings)
            linked = await net.join(parent, links=[Link(served.address, (("tcp", 80),))])
            await net.join(other)
            await off(tries, served.address, served.gateway, child, parent, other)
            await net.controller.release(linked)
            assert await off(elements, world.host, TABLE, "links") == []

    def tries(address: str, gateway: str, child: Namespace, parent: Namespace, other: Namespace) -> None:
        with contextlib.ExitStack() as stack:
            servers = {p: stack.enter_context(contextlib.closing(child.listen(port=p))) for p in (80, 81, 82, 83)}
            assert parent.reaches(servers[80], address, 80)
            assert not parent.reaches(servers[81], address, 81, timeout=0.5)
            assert not other.reaches(servers[80], address, 80, timeout=0.5)
            # Over the gateway, where the bridge's own filter does not see it.
            other.run("ip", "route", "add", f"{address}/32", "via", gateway)
            assert not other.reaches(servers[80], address, 80, timeout=0.5)
            # What is published is for everybody.
            assert other.reaches(servers[82], World.HOST, 8082)
            assert not other.reaches(servers[83], address, 83, timeout=0.5)
            assert world.host.reaches(servers[80], address, 80)

    world.run(body)


def test_a_host_whose_forward_chain_drops(world: World, path: str) -> None:
    """As Docker or ufw leave it: our accepts cannot override it, a marked rule inside it can."""
    foreign = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }\n}"

    async def body() -> None:
        await off(world.host.run, "nft", foreign)
        async with Net(path) as net:
            space = world.container()
            await net.join(space, bindings={"80/tcp": [{"HostPort": "8080"}]})
            assert "ip filter FORWARD" in net.controller.warnings()[0]
            with contextlib.closing(await off(space.listen)) as server:
                assert await off(world.neighbour.reaches, server, World.HOST, 8080)
            with contextlib.closing(await off(world.neighbour.listen)) as server:
                assert await off(space.reaches, server, World.NEIGHBOUR, 80)
        net = Net(path)
        await net.controller.start()
        listed = await off(world.host.run, "nft", "list", "chain", "ip", "filter", "FORWARD")
        assert listed.count(f'comment "{TABLE}"') == 2  # not once more after each start
        for endpoint in net.controller.endpoints():
            await net.controller.release(endpoint)
        await net.controller.close(remove=True)
        net.db.close()
        assert TABLE not in str(await off(ruleset, world.host))

    world.run(body)


def test_addresses_stay_in_quarantine_until_the_link_is_gone(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path, bip="10.77.0.1/29") as net:
            spaces = [world.container() for _ in range(3)]
            ends = [await net.join(space) for space in spaces]
            for endpoint in ends:
                await net.controller.release(endpoint)
                await net.controller.release(endpoint)  # twice is once
            held = "SELECT count(*) FROM network_addresses WHERE endpoint IS NULL"
            assert net.db.query(held) == [(3,)]
            assert net.plan().address == "10.77.0.5"
            await off(spaces[0].end)
            await until(lambda: net.db.query(held) == [(2,)])
            # Five addresses: two are free, two are waiting; the fifth container evicts a dying interface.
            assert {net.plan().address, net.plan().address} == {"10.77.0.6", "10.77.0.2"}
            space = world.container()
            forced = await net.join(space)
            assert (forced.address, forced.evicts) == ("10.77.0.3", ends[1].link)
            assert ends[1].link not in await off(links, world.host)
            await off(world.host.run, "busybox", "ping", "-c1", "-W5", "10.77.0.3")

    world.run(body)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop work (the monitor's reader) until `condition`."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 10 s")


def test_lost_reports_of_the_kernel_are_made_good(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            space = world.container()
            endpoint = await net.join(space)
            await net.controller.release(endpoint)
            monitor = net.controller._monitor
            asyncio.get_running_loop().remove_reader(monitor.fileno())
            await off(space.end)
            await off(wait_until, lambda: endpoint.link not in links(world.host), "the link is gone")
            assert monitor.read() == [endpoint.link]
            await net.controller._look_again()  # what an overflow of the socket leads to
            assert net.db.query("SELECT count(*) FROM network_addresses WHERE endpoint IS NULL") == [(0,)]

    world.run(body)


def test_a_restart_finds_everything_and_removes_what_nobody_planned(world: World, path: str) -> None:
    async def body() -> None:
        space, dead, stray = (world.container() for _ in range(3))
        async with Net(path) as net:
            kept = await net.join(space, bindings={"80/tcp": [{"HostPort": "8080"}]})
            lost = await net.join(dead, bindings={"81/tcp": [{"HostPort": "8081"}]})
            ids = {n["Name"]: (n["Id"], n["Created"]) for n in net.controller.networks()}
            gone = await net.join(stray)
            # The engine dies between the intent and its end: the row is lost, the interface is not.
            net.db.execute("DELETE FROM network_endpoints WHERE id = ?", (gone.id,))
            net.db.execute("DELETE FROM network_addresses WHERE endpoint = ?", (gone.id,))
            await net.controller.release(lost)
        await off(world.host.run, "nft", "add", "element", "ip", TABLE, "published", "{ tcp . 1 : 172.17.0.9 . 1 }")
        await off(dead.end)
        await off(wait_until, lambda: lost.link not in links(world.host), "the link is gone")
        async with Net(path) as net:
            assert net.controller.endpoints(kept.container_id) == [kept]
            assert {n["Name"]: (n["Id"], n["Created"]) for n in net.controller.networks()} == ids
            present = await off(links, world.host)
            assert kept.link in present
            assert gone.link not in present
            assert len(await off(elements, world.host, TABLE)) == 1
            assert net.db.query("SELECT count(*) FROM network_addresses WHERE endpoint IS NULL") == [(0,)]
            with contextlib.closing(await off(space.listen)) as server:
                assert await off(world.neighbour.reaches, server, World.HOST, 8080)
            with pytest.raises(OSError, match="in use"):  # the port is reserved again
                await off(world.host.listen, socket.SOCK_STREAM, "0.0.0.0", 8080)
            net.count = 9
            assert net.plan().address == "172.17.0.5"  # the cycle goes on where it was

    world.run(body)


def test_tables_that_somebody_flushed_come_back_with_a_restart(world: World, path: str) -> None:
    async def body() -> None:
        space = world.container()
        async with Net(path) as net:
            endpoint = await net.join(space, bindings={"80/tcp": [{"HostPort": "8080"}]})
            await off(world.host.run, "nft", "flush", "ruleset")
            await net.controller.start()  # idempotent: nothing while it runs
        async with Net(path) as net:
            assert len(await off(elements, world.host, TABLE)) == 1
            await off(world.host.run, "nft", "flush", "map", "ip", TABLE, "published")
            await net.controller.release(endpoint)  # elements that are missing are no obstacle
            assert await off(elements, world.host, TABLE) == []

    world.run(body)


def test_a_connect_that_fails_leaves_nothing(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            space = world.container()
            endpoint = net.plan(bindings={"80/tcp": [{"HostPort": "8080"}]})
            with pytest.raises(Exception, match="create veth"):
                await net.controller.connect(endpoint, space.netlink_fd, space.netlink_fd)  # not a namespace
            await net.controller.release(endpoint)
            assert await off(elements, world.host, TABLE) == []
            assert not [name for name in await off(links, world.host) if name.startswith("bw0011")]
            assert net.db.query("SELECT count(*) FROM network_ports") == [(0,)]
            assert net.db.query("SELECT count(*) FROM network_addresses") == [(1,)]

    world.run(body)


def test_the_first_subnet_that_the_host_does_not_use_survives_restarts(world: World, path: str) -> None:
    async def body() -> None:
        await off(world.host.run, "ip", "route", "add", "172.17.128.0/24", "dev", "wire")
        async with Net(path) as net:
            assert net.controller.inspect("bridge")["IPAM"]["Config"][0]["Subnet"] == "172.18.0.0/16"
            assert net.controller.gateway_address() == "172.18.0.1"
        await off(world.host.run, "ip", "route", "del", "172.17.128.0/24", "dev", "wire")
        async with Net(path) as net:
            assert net.controller.gateway_address() == "172.18.0.1"
            endpoint = net.plan()
        with pytest.raises(System, match="cannot change"):
            async with Net(path, bip="10.5.0.1/16"):
                pass
        async with Net(path) as net:
            await net.controller.release(endpoint)
        async with Net(path, bip="10.5.0.1/16") as net:
            assert net.plan().address == "10.5.0.2"

    world.run(body)


def test_a_bridge_of_the_users(world: World, path: str) -> None:
    async def body() -> None:
        await off(world.host.run, "ip", "link", "add", "mine", "type", "bridge")
        await off(world.host.run, "ip", "addr", "add", "10.9.0.1/24", "dev", "mine")
        async with Net(path, bridge="mine") as net:
            space = world.container()
            endpoint = await net.join(space)
            assert endpoint.address == "10.9.0.2"
            await off(world.host.run, "busybox", "ping", "-c1", "-W5", endpoint.address)
            await net.controller.release(endpoint)
            await net.controller.close(remove=True)
        assert "mine" in await off(links, world.host)

    world.run(body)


def test_without_a_default_bridge(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path, bridge="none") as net:
            assert {n["Name"] for n in net.controller.networks()} == {"host", "none"}
            with pytest.raises(NotFound, match="network bridge not found"):
                net.plan()
            assert net.controller.gateway_address() == ""

    world.run(body)


def test_two_engines_side_by_side(world: World, tmp_path: Path) -> None:
    async def body() -> None:
        one = Net(str(tmp_path / "one"), "0011aabb", bridge="bwone")
        two = Net(str(tmp_path / "two"), "0011ccdd", bridge="bwtwo")  # the same prefix of interface names
        async with one, two:
            spaces = [world.container(), world.container()]
            first = await one.join(spaces[0], bindings={"80/tcp": [{"HostPort": "8080"}]})
            second = await two.join(spaces[1], bindings={"80/tcp": [{"HostPort": "8081"}]})
            assert (first.address, second.address) == ("172.17.0.2", "172.18.0.2")
            # They cannot share a host port.
            with pytest.raises(System, match="address already in use"):
                two.plan(bindings={"80/tcp": [{"HostPort": "8080"}]})
            for endpoint, space, port in ((first, spaces[0], 8080), (second, spaces[1], 8081)):
                with contextlib.closing(await off(space.listen)) as server:
                    assert await off(world.neighbour.reaches, server, World.HOST, port)
                    for client in spaces:
                        assert await off(client.reaches, server, World.HOST, port), (endpoint, port)
            # A restart of one removes nothing of the other.
            before = await off(ruleset, world.host)
            await one.controller.close()
            await one.controller.start()
            assert {e["table"]["name"] for e in before["nftables"] if "table" in e} == {
                "boxwright_0011aabb",
                "boxwright_0011ccdd",
            }
            assert len(await off(elements, world.host, "boxwright_0011ccdd")) == 1
            assert second.link in await off(links, world.host)
            await one.controller.release(first)
            await one.controller.close(remove=True)
            assert "bwone" not in await off(links, world.host)
            with contextlib.closing(await off(spaces[1].listen)) as server:
                assert await off(world.neighbour.reaches, server, World.HOST, 8081)
            with pytest.raises(System, match="belongs to another boxwright engine"):
                async with Net(str(tmp_path / "three"), "00223344", bridge="bwtwo"):
                    pass

    world.run(body)


def test_closing_for_good_leaves_nothing(world: World, path: str) -> None:
    async def body() -> None:
        before = await off(links, world.host)
        async with Net(path, icc=False) as net:
            endpoint = net.plan()
            await net.controller.close(remove=True)
            assert "bwtest0" in await off(links, world.host)  # an endpoint needs it
            await net.controller.start()
            await net.controller.release(endpoint)
            await net.controller.close(remove=True)
        assert await off(links, world.host) == before
        assert [item for item in (await off(ruleset, world.host))["nftables"] if "metainfo" not in item] == []

    world.run(body)


def test_a_burst_of_containers(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            spaces = [world.container() for _ in range(32)]
            ends = await asyncio.gather(*(net.join(s, bindings={"80/tcp": [{"HostPort": ""}]}) for s in spaces))
            assert len({e.address for e in ends}) == 32
            assert len(await off(elements, world.host, TABLE)) == 32
            await asyncio.gather(*(net.controller.release(e) for e in ends))
            assert await off(elements, world.host, TABLE) == []
            for space in spaces:
                await off(space.end)
            await until(lambda: net.db.query("SELECT count(*) FROM network_addresses") == [(1,)])
            assert not net.controller._live

    world.run(body)


def test_verbs_of_user_defined_networks_are_refused_by_name(world: World, path: str) -> None:
    class Request:
        name = "front"

    async def body() -> None:
        async with Net(path) as net:
            controller, request = net.controller, Request()
            with pytest.raises(NotImplemented_, match="user-defined networks"):
                await controller.create(request)
            request.name = "bridge"
            with pytest.raises(Forbidden, match="operation is not permitted on predefined bridge network"):
                await controller.create(request)
            with pytest.raises(Forbidden, match="bridge is a pre-defined network and cannot be removed"):
                await controller.remove("bridge")
            with pytest.raises(NotFound):
                await controller.remove("front")
            with pytest.raises(NotImplemented_):
                await controller.connect_container("none", "c", None)
            with pytest.raises(NotImplemented_):
                await controller.disconnect_container("none", "c", False)
            assert controller.prune() == {"NetworksDeleted": None}

    world.run(body)


@pytest.mark.parametrize("before", ["0", "1"])
def test_turning_on_forwarding_makes_no_router_of_the_host(world: World, path: str, before: str) -> None:
    """Between two wires of the host nothing is routed, unless somebody had turned forwarding on before us."""
    second = Namespace()

    def wire() -> None:
        world.host.run("sh", "-c", f"echo {before} > /proc/sys/net/ipv4/ip_forward")
        far = f"/proc/{os.getpid()}/fd/{second.netns_fd}"
        world.host.run("ip", "link", "add", "wire2", "type", "veth", "peer", "name", "far", "netns", far)
        for space, name, address in ((world.host, "wire2", "203.0.113.1"), (second, "far", "203.0.113.2")):
            space.run("ip", "addr", "add", f"{address}/24", "dev", name)
            space.run("ip", "link", "set", name, "up")
        second.run("ip", "route", "add", "default", "via", "203.0.113.1")
        world.neighbour.run("ip", "route", "add", "default", "via", World.HOST)

    async def body() -> None:
        await off(wire)
        with contextlib.closing(await off(second.listen)) as server:
            for _ in range(2):  # a restart does not forget why
                async with Net(path) as net:
                    reached = await off(world.neighbour.reaches, server, "203.0.113.2", 80, 0.5)
                    assert bool(reached) == (before == "1")
                    space = world.container()
                    await net.join(space)
                    assert await off(space.reaches, server, "203.0.113.2", 80) == "203.0.113.1"

    try:
        world.run(body)
    finally:
        second.end()


def test_links_follow_a_container_that_came_back_with_another_address(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path, icc=False) as net:
            child, parent = world.container(), world.container()
            old = await net.join(child)
            linked = await net.join(parent, links=[Link(old.address, (("tcp", 80), ("udp", 53)))])
            await net.controller.release(old)
            new = await net.join(again := world.container())
            await net.controller.relink(linked, [Link(new.address, (("tcp", 80),))])
            assert net.controller.endpoints(linked.container_id)[0].links == [Link(new.address, (("tcp", 80),))]
            assert len(await off(elements, world.host, TABLE, "links")) == 1
            with contextlib.closing(await off(again.listen)) as server:
                assert await off(parent.reaches, server, new.address, 80)
            await net.controller.relink(linked, [])
            assert await off(elements, world.host, TABLE, "links") == []

    world.run(body)


def test_two_releases_at_once_are_one(world: World, path: str) -> None:
    async def body() -> None:
        async with Net(path) as net:
            endpoint = await net.join(world.container(), bindings={"80/tcp": [{"HostPort": "8080"}]})
            await asyncio.gather(*(net.controller.release(endpoint) for _ in range(3)))
            assert await off(elements, world.host, TABLE) == []
            assert net.controller.endpoints() == []

    world.run(body)


def test_engines_that_start_together_choose_different_subnets(world: World, tmp_path: Path) -> None:
    async def body() -> None:
        nets = [Net(str(tmp_path / str(n)), f"0011aa{n:02x}", bridge=f"bwgang{n}") for n in range(4)]
        await asyncio.gather(*(net.controller.start() for net in nets))
        assert len({net.controller.gateway_address() for net in nets}) == 4
        for net in nets:
            await net.controller.close(remove=True)
            net.db.close()
        assert not [name for name in await off(links, world.host) if name.startswith("bwgang")]

    world.run(body)


def test_a_stranger_cannot_hold_up_a_start(world: World, path: str) -> None:
    """Any user may bind an abstract name; only root's and our own are waited for."""

    def bind() -> socket.socket:
        with world.host.entered():
            sock = socket.socket(socket.AF_UNIX)
        os.setresuid(65534, 65534, 0)  # of the whole process, for a moment: credentials are taken at listen()
        try:
            sock.bind("\0boxwright-subnets")
            sock.listen()
        finally:
            os.setresuid(0, 0, 0)
        return sock

    async def body() -> None:
        with contextlib.closing(await off(bind)):
            async with Net(path) as net:
                assert net.controller.gateway_address() == "172.17.0.1"

    world.run(body, deadline=8)
