"""An endpoint: one container's attachment to one network, for one life (generation) of that container."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(slots=True)
class EndpointRequest:
    """What a container asks of a network.

    network: name or id; "default" is the default bridge.
    container_name: without the leading slash.
    bindings: HostConfig.PortBindings as sent: {"80/tcp": [{"HostIp": "", "HostPort": "8080"}] or None}.
    exposed: "port/protocol" strings (or "8000-8010/tcp" ranges) that the image or the user exposes.
    publish_all: give every exposed port that has no binding a random host port.
    links: what the linked containers (`--link`) offer; only needed where containers may not talk freely (icc off).
    ipv4_address: an address that the user wants, or "".
    """

    container_id: str
    generation: int
    network: str = "bridge"
    container_name: str = ""
    mac_address: str = ""
    ipv4_address: str = ""
    aliases: Sequence[str] = ()
    bindings: Mapping[str, Sequence[Mapping[str, str]] | None] = field(default_factory=dict)
    exposed: Iterable[str] = ()
    publish_all: bool = False
    links: Sequence["Link"] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A linked container: its address and its exposed ports as (protocol, port)."""

    address: str
    ports: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """One host port that leads to one container port.  protocol: tcp, udp or sctp."""

    protocol: str
    host_ip: str
    host_port: int
    container_port: int


@dataclass(slots=True)
class Endpoint:
    """A planned or connected attachment; all of it is in the database before anything is made in the kernel.

    link: the host side's interface name, "" for drivers that make none.
    address: dotted IPv4, "" for drivers that give none; prefix_length in bits.
    exposed: "port/protocol" strings, for the `Ports` of inspect.
    published: by the packet filter, on IPv4.  relayed: by a relay of the container's shim, on IPv6.
    evicts: interface whose death must be forced before this address may be used again, or "".
    """

    id: str
    network_id: str
    network: str
    driver: str
    container_id: str
    container_name: str
    generation: int
    link: str = ""
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""
    mac_address: str = ""
    aliases: list[str] = field(default_factory=list)
    exposed: list[str] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    relayed: list[Published] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    evicts: str = ""

    def to_row(self) -> str:
        """The JSON document that the database keeps; `from_row` is its inverse."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_row(cls, document: str) -> "Endpoint":
        """Rebuild an endpoint from the document of `to_row`."""
        return msgspec.json.decode(document, type=cls)

    def to_docker(self) -> dict[str, Any]:
        """EndpointSettings as `NetworkSettings.Networks[name]` of inspect shows it."""
        return {
            "IPAMConfig": None,
            "Links": None,
            "Aliases": self.aliases or None,
            "MacAddress": self.mac_address,
            "DriverOpts": None,
            "GwPriority": 0,
            "NetworkID": self.network_id,
            "EndpointID": self.id,
            "Gateway": self.gateway,
            "IPAddress": self.address,
            "IPPrefixLen": self.prefix_length,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": None,
        }

    def ports_to_docker(self) -> dict[str, list[dict[str, str]] | None]:
        """`NetworkSettings.Ports` of inspect: exposed ports without a host port map to None.

        Empty without an address of its own: nothing can be published in host mode.
        """
        if not self.address:
            return {}
        ports: dict[str, list[dict[str, str]] | None] = dict.fromkeys(self.exposed)
        for p in (*self.published, *self.relayed):
            key = f"{p.container_port}/{p.protocol}"
            found = ports.get(key)
            if found is None:
                found = ports[key] = []
            found.append({"HostIp": p.host_ip, "HostPort": str(p.host_port)})
        return ports
