"""A container's endpoints: planned with the intent, connected by the driver's hook, released at the exit; and the files
of the container that tell of them (`/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from boxwright.engine import links
from boxwright.network import files, options
from boxwright.network.endpoint import Endpoint, EndpointRequest, Link
from boxwright.types.network import EndpointSettings

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

HOSTS_BYTES = 1 << 20  # of the host's own /etc/hosts, copied for host mode


def plan(eng: Engine, container: Container, generation: int) -> dict[str, Endpoint]:
    """Allocate everything the container's networks will need; inside the transaction of the intent.

    Returns the endpoints by network name: none when the container shares another one's network, or is to have none.
    """
    kind, _ = options.network_mode(container.host_config.network_mode)
    if kind == "container" or container.config.network_disabled:
        return {}
    planned = {}
    for name, wishes in _wanted(container).items():
        endpoint = eng.network.plan(_request(eng, container, generation, name, wishes))
        planned[endpoint.network] = endpoint
    return planned


def _wanted(container: Container) -> dict[str, EndpointSettings]:
    """The networks to connect to, the one of the network mode first, with what the client wishes of each."""
    mode = container.host_config.network_mode
    wanted = {_canonical(mode): EndpointSettings()}
    wanted |= {_canonical(name): wishes for name, wishes in container.record.networks.items()}
    return wanted


def _canonical(network: str) -> str:
    return "bridge" if network in ("", "default") else network


def _request(
    eng: Engine, container: Container, generation: int, network: str, wishes: EndpointSettings
) -> EndpointRequest:
    config, host_config = container.config, container.host_config
    bindings: Mapping[str, Any] = {
        port: [{"HostIp": b.host_ip, "HostPort": b.host_port} for b in wanted or ()]
        for port, wanted in (host_config.port_bindings or {}).items()
    }
    return EndpointRequest(
        container_id=container.id,
        generation=generation,
        network=network,
        container_name=container.name,
        mac_address=wishes.mac_address or config.mac_address,
        ipv4_address=wishes.ipam_config.ipv4_address if wishes.ipam_config else "",
        aliases=wishes.aliases or (),
        bindings=bindings,
        exposed=list(config.exposed_ports or ()),
        publish_all=host_config.publish_all_ports,
        links=[_link(child) for child in links.children(eng.store, container).values()] if host_config.links else (),
    )


def _link(child: Container) -> Link:
    """What a linked container offers where containers may not talk freely."""
    ports = (port.partition("/") for port in options.exposed_ports(child.config.exposed_ports or ()))
    return Link(links.address(child), tuple((protocol, int(number)) for number, _, protocol in ports))


def announce(eng: Engine, container: Container, action: str) -> None:
    """Publish `connect` or `disconnect` of each network."""
    for endpoint in container.endpoints.values():
        attributes = {"container": container.id, "name": endpoint.network, "type": endpoint.driver}
        eng.bus.publish("network", action, endpoint.network_id, attributes)


def write_files(eng: Engine, container: Container) -> None:
    """Write the files that this start's addresses and links go into; they are bound over those of the image."""
    kind, _ = options.network_mode(container.host_config.network_mode)
    if kind == "container":
        return  # it uses the files of the other container
    host_config, settings = container.host_config, eng.config
    resolver = _resolv_conf(
        kind == "host",
        files.host_resolv_conf(),
        tuple(host_config.dns or settings.dns),
        tuple(host_config.dns_search or settings.dns_search),
        tuple(host_config.dns_options or settings.dns_opts),
    )
    _write(eng, container, "resolv.conf", resolver)
    _write(eng, container, "hostname", files.hostname(container.config.hostname))
    _write_hosts(eng, container)
    for parent in links.parents(eng.store, container):
        # This container's address may be a new one.  A parent that has lost another of its links keeps what it has.
        if parent.running is not None and all(
            c.state.running or c is container for c in links.children(eng.store, parent).values()
        ):
            _write_hosts(eng, parent, container)


@lru_cache(maxsize=64)
def _resolv_conf(
    host_mode: bool, host_text: str, dns: tuple[str, ...], search: tuple[str, ...], settings: tuple[str, ...]
) -> str:
    """The same for most containers: its addresses are parsed once."""
    return (files.host_mode_resolv_conf if host_mode else files.resolv_conf)(host_text, dns, search, settings)


def _write_hosts(eng: Engine, container: Container, starting: Container | None = None) -> None:
    config = container.config
    gateway = eng.network.gateway_address()
    extra = files.extra_hosts(container.host_config.extra_hosts or [], gateway)
    extra += links.hosts(eng, container, starting)
    addresses = [endpoint.address for endpoint in container.endpoints.values() if endpoint.address]
    copied = _host_file("/etc/hosts") if container.host_config.network_mode == "host" else None
    _write(eng, container, "hosts", files.hosts(config.hostname, config.domainname, addresses, extra, copied))


def _write(eng: Engine, container: Container, name: str, text: str) -> None:
    """In place: a file that is bound into a running container keeps its inode."""
    with open(f"{eng.container_dir(container.id)}/{name}", "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def _host_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(HOSTS_BYTES)
    except OSError:
        return b""  # a host without one has nothing to copy


async def release(eng: Engine, container: Container) -> None:
    """Give back addresses, ports and rules; the links themselves go with the network namespace."""
    for endpoint in tuple(container.endpoints.values()):
        await eng.network.release(endpoint)
    announce(eng, container, "disconnect")
    container.endpoints = {}
