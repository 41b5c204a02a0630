"""The predefined networks, and what the default bridge looks like on this host with these flags."""

import secrets
import time
from datetime import UTC, datetime
from ipaddress import IPv4Interface, IPv4Network

from boxwright.config import Settings
from boxwright.errdefs import InvalidParameter, System
from boxwright.network import files, ipam
from boxwright.network.interfaces import Host
from boxwright.network.model import Network


def builtin_networks() -> list[Network]:
    """`host` and `none`, as they are on the first start."""
    return [_new("host", "host"), _new("none", "null")]


def default_bridge(config: Settings, host: Host, known: Network | None, in_use: bool) -> Network:
    """The network `bridge`: its subnet as before, else --bip, else the address of an existing bridge, else a free pool.

    known: the network as the database has it.  in_use: endpoints have addresses of its subnet.  Blocking (netlink).
    Raises InvalidParameter for impossible flags, System when the flags contradict containers that are running.
    """
    ours, existing = host.find_bridge(config.bridge)
    network = known or _new("bridge", "bridge")
    interface = _address(config, host, network, ours, existing)
    if in_use and (network.bridge != config.bridge or network.subnet != str(interface.network)):
        raise System(
            f"the default bridge cannot change from {network.bridge} ({network.subnet}) to {config.bridge}"
            f" ({interface.network}) while containers are attached to it: stop them first"
        )
    network.subnet, network.gateway = str(interface.network), str(interface.ip)
    network.ip_range = _fixed_cidr(config, interface.network)
    network.bridge, network.ours, network.default = config.bridge, ours, True
    network.icc, network.masquerade, network.mtu = config.icc, config.ip_masq, config.mtu
    network.host_ip = config.ip
    network.options = {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": str(config.icc).lower(),
        "com.docker.network.bridge.enable_ip_masquerade": str(config.ip_masq).lower(),
        "com.docker.network.bridge.host_binding_ipv4": config.ip,
        "com.docker.network.bridge.name": config.bridge,
        "com.docker.network.driver.mtu": str(config.mtu or 1500),
    }
    return network


def _address(config: Settings, host: Host, network: Network, ours: bool, existing: str) -> IPv4Interface:
    """The bridge's own address with its subnet."""
    if config.bip:
        try:
            interface = IPv4Interface(config.bip)
        except ValueError as error:
            raise InvalidParameter(f"invalid bip: {error}") from error
        if interface.ip == interface.network.network_address or interface.network.prefixlen > 30:
            raise InvalidParameter(f"invalid bip {config.bip}: it must be a host's address in a subnet of at least /30")
        return interface
    if not ours and existing:
        return IPv4Interface(existing)
    index = host.bridge_index(config.bridge)
    taken = [IPv4Network((dst, length)) for dst, length, oif in host.routes() if length and oif != index]
    taken += [
        IPv4Network(f"{server}/32") for server in files.nameservers(files.host_resolv_conf()) if ":" not in server
    ]
    if network.subnet and network.bridge == config.bridge:
        # A route of the host that came later must not move containers that are there, but a free bridge gives way.
        before = IPv4Network(network.subnet)
        if index or not any(before.overlaps(other) for other in taken):
            return IPv4Interface(f"{network.gateway}/{before.prefixlen}")
    pools = [(pool.base, pool.size) for pool in config.default_address_pools]
    subnet = ipam.choose_subnet(pools, taken)
    return IPv4Interface((int(subnet.network_address) + 1, subnet.prefixlen))


def _fixed_cidr(config: Settings, subnet: IPv4Network) -> str:
    if not config.fixed_cidr:
        return ""
    try:
        part = IPv4Network(config.fixed_cidr, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"invalid fixed-cidr: {error}") from error
    if not part.subnet_of(subnet):
        raise InvalidParameter(f"invalid fixed-cidr: {part} is not inside the bridge's subnet {subnet}")
    return str(part)


def _new(name: str, driver: str) -> Network:
    return Network(id=secrets.token_hex(32), name=name, driver=driver, created=_now())


def _now() -> str:
    nanoseconds = time.time_ns()
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z"
