"""A network: what is configured, as the database keeps it."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

PREDEFINED = ("bridge", "host", "none")


@dataclass(slots=True)
class Network:
    """One network.  id: 64 hex digits.  created: RFC 3339 with nanoseconds.

    subnet, gateway, ip_range: IPv4 in text form, "" for drivers that give no addresses; containers get addresses of
    `ip_range` (inside `subnet`) only, when it is set.  bridge: the interface's name, "" without one.
    ours: the bridge was made by us (and may be removed by us); False when the user gave one that existed.
    """

    id: str
    name: str
    driver: str
    created: str
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    bridge: str = ""
    ours: bool = True
    default: bool = False
    icc: bool = True
    masquerade: bool = True
    internal: bool = False
    mtu: int = 0
    host_ip: str = "0.0.0.0"
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def to_row(self) -> str:
        """The JSON document that the database keeps; `from_row` is its inverse."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_row(cls, document: str) -> "Network":
        """Rebuild a network from the document of `to_row`."""
        return msgspec.json.decode(document, type=cls)

    @property
    def prefix_length(self) -> int:
        return int(self.subnet.rpartition("/")[2] or 0)

    def host_range(self) -> tuple[int, int]:
        """The lowest and highest address that a container may get, as integers."""
        whole = IPv4Network(self.subnet)
        part = IPv4Network(self.ip_range) if self.ip_range else whole
        first, last = int(whole.network_address), int(whole.broadcast_address)
        if whole.prefixlen < 31:
            first, last = first + 1, last - 1
        return max(first, int(part.network_address)), min(last, int(part.broadcast_address))

    def broadcast(self) -> bytes:
        """The subnet's broadcast address in network order."""
        return IPv4Network(self.subnet).broadcast_address.packed

    def gateway_bytes(self) -> bytes:
        """The gateway in network order."""
        return IPv4Address(self.gateway).packed

    def to_docker(self, containers: dict[str, Any] | None = None) -> dict[str, Any]:
        """Docker's JSON of a network; the list leaves `containers` empty."""
        pools = [{"Subnet": self.subnet, "Gateway": self.gateway}] if self.subnet else None
        if pools and self.ip_range:
            pools[0]["IPRange"] = self.ip_range
        return {
            "Name": self.name,
            "Id": self.id,
            "Created": self.created,
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": pools},
            "Internal": self.internal,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": containers or {},
            "Options": self.options,
            "Labels": self.labels,
        }
