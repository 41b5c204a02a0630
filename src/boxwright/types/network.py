"""Networks and endpoints: what create, connect and disconnect take."""

from typing import ClassVar

from msgspec import field

from .base import Int64, Model


class PortBinding(Model):
    """Where a port is published: an address of the host ("" is all) and a port, a range, or "" for any."""

    host_ip: str = ""
    host_port: str = ""


class EndpointIPAMConfig(Model):
    """Addresses that the client asks for."""

    omitempty: ClassVar = frozenset({"ipv4_address", "ipv6_address", "link_local_ips"})
    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_ips: list[str] | None = field(default=None, name="LinkLocalIPs")


class EndpointSettings(Model):
    """One container's connection to one network: the wishes of the client first, then what the engine has chosen."""

    ipam_config: EndpointIPAMConfig | None = field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: Int64 = 0
    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: Int64 = field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = field(default="", name="IPv6Gateway")
    global_ipv6_address: str = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: Int64 = field(default=0, name="GlobalIPv6PrefixLen")
    dns_names: list[str] | None = field(default=None, name="DNSNames")


class NetworkingConfig(Model):
    """Networks of a new container, by name or id; a null value asks for the network without further wishes."""

    endpoints_config: dict[str, EndpointSettings | None] | None = None


class IPAMPool(Model):
    """One address pool of a network (`IPAM.Config`)."""

    omitempty: ClassVar = frozenset({"subnet", "ip_range", "gateway", "auxiliary_addresses"})
    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class IPAM(Model):
    """Address management of a network."""

    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IPAMPool] | None = None


class ConfigReference(Model):
    """The configuration-only network whose configuration another one takes."""

    network: str = ""


class NetworkCreateRequest(Model):
    """Body of POST /networks/create."""

    name: str = ""
    check_duplicate: bool | None = None
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = field(default=None, name="EnableIPv6")
    ipam: IPAM | None = field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class NetworkConnectRequest(Model):
    """Body of POST /networks/{id}/connect."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnectRequest(Model):
    """Body of POST /networks/{id}/disconnect."""

    container: str = ""
    force: bool = False
