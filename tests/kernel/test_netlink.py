"""Route netlink by hand: what the kernel makes of our messages, and how failures read."""

import errno
import os
import select
from collections.abc import Iterator

import pytest
from kernel.netns import Namespace, wait_until

from boxwright.linux import netlink

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]

MAC = bytes([2, 0x42, 10, 0, 0, 2])


@pytest.fixture
def space() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.end()


@pytest.fixture
def sock(space: Namespace) -> Iterator[netlink.Socket]:
    with space.entered():
        made = netlink.Socket()
    with made:
        yield made


def test_a_bridge_with_address_and_alias(space: Namespace, sock: netlink.Socket) -> None:
    sock.transact([*netlink.new_bridge("br0", MAC, 1400, "boxwright:x"), netlink.route_localnet("br0")])
    info = netlink.link(sock, "br0")
    assert info is not None
    assert (info.name, info.alias, info.address, info.up) == ("br0", "boxwright:x", MAC, True)
    sock.transact([netlink.new_address(info.index, b"\x0a\0\0\1", 24, b"\x0a\0\0\xff", "10.0.0.1")])
    assert netlink.addresses(sock) == [(info.index, b"\x0a\0\0\1", 24)]
    assert (b"\x0a\0\0\0", 24, info.index) in netlink.routes(sock)
    assert "mtu 1400" in space.run("ip", "link", "show", "br0")
    assert space.run("cat", "/proc/sys/net/ipv4/conf/br0/route_localnet") == "1\n"
    assert netlink.link(sock, "nope") is None
    sock.transact([netlink.delete_link("br0")])
    assert [info.name for info in netlink.links(sock)] == ["lo"]


def test_a_veth_is_a_port_of_its_bridge_and_its_peer_is_inside(space: Namespace, sock: netlink.Socket) -> None:
    inner = Namespace()
    sock.transact(netlink.new_bridge("br0", MAC, 0, "x"))
    bridge = netlink.link(sock, "br0")
    assert bridge is not None
    sock.transact([netlink.new_veth("v0", bridge.index, "eth0", inner.netns_fd, MAC, 1300)])
    made = netlink.link(sock, "v0")
    assert made is not None
    assert (made.master, made.up) == (bridge.index, False)
    sock.transact([netlink.set_up("v0"), netlink.set_hairpin("v0")])
    made = netlink.link(sock, "v0")
    assert made is not None
    assert (made.master, made.up) == (bridge.index, True)
    assert "hairpin on" in space.run("ip", "-d", "link", "show", "v0")
    with netlink.Socket(inner.netlink_fd) as inside:
        found = netlink.link(inside, "eth0")
        assert found is not None
        assert (found.address, found.up) == (MAC, False)
        inside.transact([netlink.no_ipv6_address("eth0"), netlink.set_up("eth0")])
    os.fstat(inner.netlink_fd)  # a borrowed descriptor stays open
    assert "mtu 1300" in inner.run("ip", "link", "show", "eth0")
    assert inner.run("ip", "-6", "addr", "show", "dev", "eth0") == ""
    inner.end()


def test_a_failure_names_operation_path_and_the_kernels_words(space: Namespace, sock: netlink.Socket) -> None:
    with pytest.raises(OSError) as missing:
        sock.transact([netlink.set_up("nope")])
    assert (missing.value.errno, missing.value.filename) == (errno.ENODEV, "nope")
    assert str(missing.value.strerror).startswith("set up")
    with pytest.raises(OSError) as master:
        sock.transact([netlink.new_veth("v0", 4242, "eth0", space.netns_fd, MAC, 0)])
    assert "create veth" in str(master.value.strerror)
    assert netlink.link(sock, "v0") is None  # nothing half made


def test_later_messages_are_carried_out_after_a_failure_and_the_next_exchange_is_clean(sock: netlink.Socket) -> None:
    with pytest.raises(OSError, match="nope"):
        sock.transact([netlink.set_up("nope"), netlink.set_up("lo"), netlink.set_up("nope2")])
    info = netlink.link(sock, "lo")
    assert info is not None
    assert info.up


def test_the_monitor_reports_ends_of_interfaces_and_nothing_else(space: Namespace, sock: netlink.Socket) -> None:
    with space.entered():
        monitor = netlink.DeletionMonitor()
    inner = Namespace()
    sock.transact(netlink.new_bridge("br0", MAC, 0, "x"))
    bridge = netlink.link(sock, "br0")
    assert bridge is not None
    for number in range(3):
        sock.transact([netlink.new_veth(f"v{number}", bridge.index, f"eth{number}", inner.netns_fd, MAC, 0)])
    assert monitor.read() == []
    space.run("ip", "link", "set", "v0", "nomaster")  # a port that leaves its bridge lives on
    assert monitor.read() == []
    inner.end()
    names: set[str] = set()

    def all_gone() -> bool:
        select.select([monitor], [], [], 0.1)
        names.update(monitor.read() or [])
        return names == {"v0", "v1", "v2"}

    wait_until(all_gone, "three ends are reported")
    monitor.close()
