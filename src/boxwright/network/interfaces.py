"""Interfaces of bridges and containers, over netlink.  Everything here blocks and runs on the netlink thread."""

import errno
import os
import socket

from boxwright.errdefs import System
from boxwright.linux import netlink
from boxwright.network.endpoint import Endpoint
from boxwright.network.model import Network
from boxwright.network.options import parse_mac

CONTAINER_INTERFACE = "eth0"


class Host:
    """The host's side: one netlink socket, opened by the first use in the thread's network namespace."""

    def __init__(self, instance: str) -> None:
        self._mark = f"boxwright:{instance}"
        self._mac = b"\x02\x42" + bytes.fromhex(instance)
        self._socket: netlink.Socket | None = None
        self._indexes: dict[str, int] = {}

    @property
    def socket(self) -> netlink.Socket:
        if self._socket is None:
            self._socket = netlink.Socket()
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def find_bridge(self, name: str) -> tuple[bool, str]:
        """(ours, "address/length" or "") of the bridge `name`; ours is True when it does not exist yet.

        Raises System when another engine made it: two engines on one bridge would give out the same addresses.
        """
        info = netlink.link(self.socket, name)
        if info is None:
            return True, ""
        if info.alias.startswith("boxwright:") and info.alias != self._mark:
            raise System(f"bridge {name} belongs to another boxwright engine ({info.alias}): choose another --bridge")
        for index, address, length in netlink.addresses(self.socket):
            if index == info.index:
                return info.alias == self._mark, f"{socket.inet_ntoa(address)}/{length}"
        return info.alias == self._mark, ""

    def make_bridge(self, network: Network) -> None:
        """Make or adopt the network's bridge: up, with the gateway's address, able to route localhost."""
        name = network.bridge
        info = netlink.link(self.socket, name)
        if info is None:
            self.socket.transact(netlink.new_bridge(name, self._mac, network.mtu, self._mark))
            info = netlink.link(self.socket, name)
            assert info is not None
        self.socket.transact([netlink.route_localnet(name), netlink.set_up(name)])
        gateway = network.gateway_bytes()
        held = [(address, length) for index, address, length in netlink.addresses(self.socket) if index == info.index]
        if (gateway, network.prefix_length) not in held:
            address = netlink.new_address(info.index, gateway, network.prefix_length, network.broadcast(), name)
            self.socket.transact([address])
        self._indexes[name] = info.index

    def remove_bridge(self, name: str) -> None:
        """Delete a bridge of ours; ports that are left lose their master."""
        info = netlink.link(self.socket, name)
        if info is not None and info.alias == self._mark:
            self.delete(name)

    def delete(self, name: str) -> None:
        """Delete an interface, which may be gone already."""
        try:
            self.socket.transact([netlink.delete_link(name)])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def names(self) -> set[str]:
        """Every interface."""
        return {info.name for info in netlink.links(self.socket)}

    def ports(self, prefix: str) -> list[str]:
        """Ports of our bridges whose name begins with `prefix`.

        The prefix holds only half of the instance's id; the bridge tells whose port it is.
        """
        masters = set(self._indexes.values())
        found = netlink.links(self.socket)
        return [info.name for info in found if info.name.startswith(prefix) and info.master in masters]

    def routes(self) -> list[tuple[bytes, int, int]]:
        """IPv4 routes: (destination, prefix length, interface index)."""
        return netlink.routes(self.socket)

    def bridge_index(self, name: str) -> int:
        """Index of a bridge, 0 when it does not exist."""
        info = netlink.link(self.socket, name)
        return info.index if info is not None else 0

    def join(self, network: Network, endpoint: Endpoint, netns_fd: int, netlink_fd: int) -> None:
        """Put a veth between the bridge and the namespace and configure its far side."""
        if endpoint.evicts:
            self.delete(endpoint.evicts)
        mac = parse_mac(endpoint.mac_address)
        index = self._indexes[network.bridge]
        self.socket.transact([netlink.new_veth(endpoint.link, index, CONTAINER_INTERFACE, netns_fd, mac, network.mtu)])
        disable_ipv6(endpoint.link)
        messages = [netlink.set_up(endpoint.link)]
        if endpoint.published:
            messages.append(netlink.set_hairpin(endpoint.link))
        self.socket.transact(messages)
        configure(network, endpoint, netlink_fd)


def disable_ipv6(port: str) -> None:
    """Let the host not take part in IPv6 by a port of a bridge, by which it is on that network anyway.

    Each address of its own there has four routes, and the kernel walks through all of them whenever an interface goes.
    To be called while the port is down.  A host without IPv6 has nothing to disable.
    """
    try:
        fd = os.open(f"/proc/sys/net/ipv6/conf/{port}/disable_ipv6", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"1")
    except OSError:  # it costs time, and nothing else
        return
    finally:
        os.close(fd)


def configure(network: Network, endpoint: Endpoint, netlink_fd: int) -> None:
    """Set up lo and the container's interface over the socket that the child opened in its namespace."""
    with netlink.Socket(netlink_fd) as inside:
        index = netlink.LinkInfo(inside.transact([netlink.get_link(CONTAINER_INTERFACE)])[0][1]).index
        address = socket.inet_aton(endpoint.address)
        messages = [
            netlink.set_up("lo"),
            netlink.no_ipv6_address(CONTAINER_INTERFACE),
            netlink.new_address(index, address, endpoint.prefix_length, network.broadcast(), endpoint.address),
            netlink.set_up(CONTAINER_INTERFACE),
        ]
        if endpoint.gateway and not network.internal:
            messages.append(netlink.default_route(socket.inet_aton(endpoint.gateway), endpoint.gateway))
        inside.transact(messages)
