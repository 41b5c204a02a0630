"""What users write about networks and ports, parsed: network modes, exposed ports, port bindings, their conflicts.

Texts of errors are Docker's (runconfig, go-connections/nat), because clients match on them.
"""

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

from boxwright.errdefs import InvalidParameter, NotImplemented_

PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class Binding:
    """One container port to publish.  host_low..host_high: take the first free one; 0..0: any ephemeral port.

    both: on [::] too, by the same number, where the host has IPv6.
    """

    protocol: str
    container_port: int
    host_ip: str
    host_low: int
    host_high: int
    both: bool = False


def network_mode(mode: str) -> tuple[str, str]:
    """HostConfig.NetworkMode as (kind, target); kind: "host", "none", "bridge", "container" or "user" (a network)."""
    if mode in ("", "default", "bridge"):
        return "bridge", "bridge"
    if mode in ("host", "none"):
        return mode, mode
    kind, colon, target = mode.partition(":")
    if kind == "container":
        if not colon or not target:
            raise InvalidParameter("Invalid network mode: invalid container format container:<name|id>")
        return "container", target
    return "user", mode


def verify(host_config: Any, config: Any) -> None:
    """Refuse settings that the network mode rules out; takes types.HostConfig and types.ContainerConfig."""
    kind, _ = network_mode(host_config.network_mode)
    if kind == "container":
        _verify_shared(host_config, config)
    if kind == "host" and host_config.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links."
            " This would result in undefined behavior"
        )
    for mac in filter(None, [config.mac_address]):
        parse_mac(mac)


def _verify_shared(host_config: Any, config: Any) -> None:
    """Settings that belong to the container whose network is shared."""
    refusals = (
        (config.hostname or config.domainname, "hostname and the network mode"),
        (
            host_config.links,
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (host_config.dns, "dns and the network mode"),
        (host_config.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (config.mac_address, "mac-address and the network mode"),
        (
            host_config.port_bindings or host_config.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (config.exposed_ports, "port exposing and the container type network mode"),
    )
    for present, text in refusals:
        if present:
            raise InvalidParameter(f"conflicting options: {text}")


def parse_port(spec: str) -> list[tuple[int, str]]:
    """ "80", "80/udp" or "8000-8010/tcp" as [(port, protocol)]; raises InvalidParameter."""
    ports, slash, protocol = spec.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {_quoted(protocol)}")
    low, high = _range(ports, spec)
    if low == 0:
        raise InvalidParameter(f"invalid port specification: {_quoted(spec)}")
    return [(port, protocol) for port in range(low, high + 1)]


def exposed_ports(specs: Iterable[str]) -> list[str]:
    """Exposed ports as sorted, distinct "port/protocol" strings; ranges are expanded."""
    found = {pair for spec in specs for pair in parse_port(spec)}
    return [f"{port}/{protocol}" for port, protocol in sorted(found)]


def bindings(
    wanted: Mapping[str, Sequence[Any] | None],
    exposed: Iterable[str],
    publish_all: bool,
    default_ip: str,
    relays: bool = False,
) -> list[Binding]:
    """What to publish, in the order of the container's ports.

    wanted: HostConfig.PortBindings; its values are mappings with HostIp and HostPort, or types.PortBinding.
    Without any binding a port in `wanted` is only exposed; with `publish_all` every exposed port is published.
    relays: IPv6 is served too: where an IPv6 address is named, and where none is and the default is all of the host's.
    Raises InvalidParameter, NotImplemented_ (an IPv6 address without relays, or for sctp).
    """
    result: list[Binding] = []
    bound = set()
    for spec, targets in wanted.items():
        for index, (port, protocol) in enumerate(parse_port(spec)):
            for target in targets or ():
                host_ip, host_port = _target(target)
                low, high = _host_range(host_port, index)
                address = _host_ip(host_ip, default_ip, relays and protocol != "sctp")
                both = relays and protocol != "sctp" and not host_ip and address == "0.0.0.0"
                result.append(Binding(protocol, port, address, low, high, both))
                bound.add((port, protocol))
    if publish_all:
        for spec in exposed:
            for port, protocol in parse_port(spec):
                if (port, protocol) not in bound:
                    both = relays and protocol != "sctp" and default_ip == "0.0.0.0"
                    result.append(Binding(protocol, port, default_ip, 0, 0, both))
    return sorted(result, key=lambda b: (b.container_port, b.protocol))


def parse_mac(text: str) -> bytes:
    """Six bytes of a MAC address written with colons or dashes; raises InvalidParameter."""
    parts = text.replace("-", ":").split(":")
    digits = "".join(parts)
    if len(parts) != 6 or any(len(p) != 2 for p in parts) or not all(c in string.hexdigits for c in digits):
        raise InvalidParameter(f"invalid MAC address: {_quoted(text)}")
    return bytes.fromhex(digits)


def ephemeral_range() -> tuple[int, int]:
    """The host's range of ephemeral ports, both ends included; Docker's default where it cannot be read."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read(64).split())
            return low, high
    except (OSError, ValueError):
        return 49153, 65535


def _target(target: Any) -> tuple[str, str]:
    if isinstance(target, Mapping):
        return str(target.get("HostIp") or ""), str(target.get("HostPort") or "")
    return target.host_ip, target.host_port


def _host_ip(text: str, default: str, relayed: bool) -> str:
    """The host address in its shortest form; one of IPv6 that cannot be served is refused by name."""
    try:
        address = ip_address(text or default)
    except ValueError as error:
        raise InvalidParameter(f"invalid IP address in port mapping: {_quoted(text)}") from error
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, IPv6Address) and not relayed:
        if address == IPv6Address("::"):  # all addresses of the host, as far as this engine publishes then: IPv4
            return "0.0.0.0"
        raise NotImplemented_(
            f"publishing a port on an IPv6 address ({address}) needs tcp or udp, and a userland proxy"
        )
    return str(address)


def _host_range(text: str, index: int) -> tuple[int, int]:
    """Ends of "8080" or "8000-8010"; 0..0, any port, for "" and "0".  index: position in a range of container ports."""
    if not text:
        return 0, 0
    low, high = _range(text, text)
    if high == 0:
        return 0, 0
    if low == high:
        low = high = low + index
    return low, high


def _range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    last = last if dash else first
    # isdecimal takes digits of other scripts; a port is ASCII.
    if (
        not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit())
        or len(first) > 5
        or len(last) > 5
    ):
        raise InvalidParameter(f"invalid port specification: {_quoted(whole)}")
    low, high = int(first), int(last)
    if low > 65535 or high > 65535 or low > high:
        raise InvalidParameter(f"invalid port specification: {_quoted(whole)}")
    return low, high


def _quoted(text: str) -> str:
    """As Go's %q shows it, near enough: escaped, in double quotes, and not endless."""
    return json.dumps(text[:80])
