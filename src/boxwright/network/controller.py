"""The network controller: networks, endpoints and their life, over the drivers.

A container's endpoint is *planned* inside the engine's transaction (address, MAC, interface name and host ports are in
the database, the ports are reserved on the host), then *connected* once its namespace exists, and *released* when it
ends.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from boxwright.config import Settings
from boxwright.db.connection import Database
from boxwright.errdefs import Forbidden, InvalidParameter, NotImplemented_, System
from boxwright.linux.netlink import DeletionMonitor
from boxwright.network import ipam, listing, options, startlock
from boxwright.network.defaults import builtin_networks, default_bridge
from boxwright.network.drivers import Driver
from boxwright.network.drivers.bridge import BridgeDriver
from boxwright.network.drivers.passive import PassiveDriver
from boxwright.network.endpoint import Endpoint, EndpointRequest, Link
from boxwright.network.firewall import Firewall, forward_ipv4
from boxwright.network.interfaces import Host
from boxwright.network.model import PREDEFINED, Network
from boxwright.network.netlink_thread import Worker
from boxwright.network.ports import PortMapper

log = logging.getLogger(__name__)

_TOGETHER = 0.05  # seconds that the ends of interfaces are collected


class Controller:
    """All networks of one engine.  Sockets and threads are opened by `start`, in the caller's network namespace.

    container_name: what a container is called now, by id; for the `Containers` of an inspected network.
    """

    def __init__(self, db: Database, instance: str, config: Settings) -> None:
        self._db, self._instance, self._config = db, instance, config
        self._ports = PortMapper(db)
        self._networks: dict[str, Network] = {}
        self._drivers: dict[str, Driver] = {}
        self._live: set[str] = set()
        self._ended: set[str] = set()  # interfaces that are gone, of which the database does not know it yet
        self._released = 0
        self._releasing: dict[str, asyncio.Event] = {}
        self._warnings: list[str] = []
        self._started = False
        self.container_name: Callable[[str], str] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make or adopt bridges and tables, reserve the ports of live endpoints, remove orphans of ours; idempotent.

        Raises System or InvalidParameter when the host or the flags do not allow it.
        """
        if self._started:
            return
        self._loop = asyncio.get_running_loop()
        self._netlink, self._filter = Worker("netlink"), Worker("nftables")
        self._host, self._firewall = Host(self._instance), Firewall(self._instance)
        self._monitor = DeletionMonitor()
        self._loop.add_reader(self._monitor.fileno(), self._links_gone)
        bridge = BridgeDriver(self._host, self._netlink, self._firewall, self._filter)
        self._drivers = {"bridge": bridge, "host": PassiveDriver("host"), "null": PassiveDriver("null")}
        self._started = True
        try:
            with await self._netlink.submit(startlock.acquire):
                await self._load_networks()
                await self._open_networks()
            await self._reconcile()
        except BaseException:
            await self.close()
            raise

    async def close(self, remove: bool = False) -> None:
        """End threads and sockets.  Kernel objects stay, for the containers that live on.

        remove: also remove bridges and tables, unless an endpoint still needs them.
        """
        if not self._started:
            return
        if remove and not self._db.query("SELECT 1 FROM network_endpoints LIMIT 1"):
            for network in self._networks.values():
                await self._drivers[network.driver].close(network)
            if self._config.iptables:
                try:
                    await self._filter.submit(self._firewall.remove)
                except System as error:
                    log.warning("the packet filter's tables stay: %s", error)
        self._started = False
        self._loop.remove_reader(self._monitor.fileno())
        self._monitor.close()
        await self._netlink.submit(self._host.close)
        await self._filter.submit(self._firewall.close)
        await self._netlink.close()
        await self._filter.close()
        self._ports.close()

    def warnings(self) -> list[str]:
        """What people should know about this host's network, one line each (for /info and the doctor)."""
        return list(self._warnings)

    async def _load_networks(self) -> None:
        """Read the networks; make the predefined ones on the first start; follow the flags of the default bridge."""
        rows = self._db.query("SELECT document FROM networks")
        networks = {network.name: network for network in (Network.from_row(row[0]) for row in rows)}
        for network in builtin_networks():
            networks.setdefault(network.name, network)
        if self._config.bridge == "none":
            networks.pop("bridge", None)
        else:
            known = networks.get("bridge")
            in_use = known is not None and self._in_use(known)
            found = await self._netlink.submit(default_bridge, self._config, self._host, known, in_use)
            networks["bridge"] = found
        with self._db.transaction():
            for network in networks.values():
                sql = (
                    "INSERT INTO networks (id, name, driver, created, document) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET document = excluded.document"
                )
                self._db.execute(sql, (network.id, network.name, network.driver, network.created, network.to_row()))
                if network.gateway:
                    ipam.reserve_gateway(self._db, network)
        self._networks = {network.id: network for network in networks.values()}

    def _in_use(self, network: Network) -> bool:
        return bool(self._db.query("SELECT 1 FROM network_endpoints WHERE network = ? LIMIT 1", (network.id,)))

    async def _open_networks(self) -> None:
        for network in self._networks.values():
            await self._drivers[network.driver].open(network)
        bridges = [network.bridge for network in self._networks.values() if network.bridge]
        if not bridges:
            return
        turned_on = self._config.ip_forward and forward_ipv4()
        if self._config.iptables:
            endpoints = self.endpoints()
            guard = turned_on or await self._filter.submit(self._firewall.guards)
            await self._filter.submit(self._firewall.write, list(self._networks.values()), endpoints, guard)
            self._warnings = await self._filter.submit(self._firewall.accept_in_foreign_chains, bridges)
            for line in self._warnings:
                log.warning("%s", line)

    async def _reconcile(self) -> None:
        """Compare the database with the kernel: interfaces nobody planned go, addresses whose interface is gone end."""
        endpoints = self.endpoints()
        for endpoint in endpoints:
            for lost in self._ports.hold(endpoint.id, endpoint.published):
                log.warning("port of container %s was taken by another program: %s", endpoint.container_id, lost)
        present = await self._netlink.submit(self._host.names)
        planned = {endpoint.link for endpoint in endpoints if endpoint.link}
        waiting = set(ipam.quarantined(self._db))
        self._live = (planned | waiting) & present
        (self._released,) = self._db.query("SELECT coalesce(max(released), 0) FROM network_addresses")[0]
        with self._db.transaction():
            ipam.end_quarantine(self._db, sorted(waiting - present))
        for name in await self._netlink.submit(self._host.ports, f"bw{self._instance[:4]}"):
            if name not in planned and name not in waiting:
                log.info("removing interface %s, which no container has", name)
                await self._netlink.submit(self._host.delete, name)

    # --- endpoints ------------------------------------------------------------------------------------------------

    def plan(self, request: EndpointRequest) -> Endpoint:
        """Allocate what the endpoint needs and write it down; call it inside the engine's transaction.

        Raises NotFound (no such network), InvalidParameter (settings), System (no address or port left), with Docker's
        texts; nothing stays allocated when the transaction fails.
        """
        network = self.resolve(request.network)
        self._verify(network, request)
        endpoint = Endpoint(
            id=secrets.token_hex(32),
            network_id=network.id,
            network=network.name,
            driver=network.driver,
            container_id=request.container_id,
            container_name=request.container_name,
            generation=request.generation,
            aliases=list(request.aliases),
            exposed=options.exposed_ports([*request.exposed, *request.bindings]),
        )
        if self._drivers[network.driver].addresses:
            self._plan_address(network, request, endpoint)
            self._plan_ports(network, request, endpoint)
        sql = "INSERT INTO network_endpoints (id, network, container, generation, document) VALUES (?, ?, ?, ?, ?)"
        row = (endpoint.id, network.id, endpoint.container_id, endpoint.generation, endpoint.to_row())
        self._db.execute(sql, row)
        return endpoint

    async def connect(self, endpoint: Endpoint, netns_fd: int, netlink_fd: int) -> None:
        """Join the container's namespace to the network.  The descriptors stay the caller's; System when it fails.

        netlink_fd: a route netlink socket that the child opened in its new namespace.
        """
        network = self._networks[endpoint.network_id]
        if endpoint.link:
            self._live.add(endpoint.link)
        try:
            await self._drivers[network.driver].connect(network, endpoint, netns_fd, netlink_fd)
        except BaseException:
            # No end will be reported of an interface that was never made.
            if endpoint.link not in await self._netlink.submit(self._host.names):
                self._live.discard(endpoint.link)
            raise

    async def release(self, endpoint: Endpoint) -> None:
        """Take the endpoint back: ports and rules at once, the address when its interface is gone; idempotent.

        Also right after a `plan` or `connect` that failed, or when the namespace is gone already.
        """
        if endpoint.id in self._releasing:
            await self._releasing[endpoint.id].wait()
            return
        if not self._db.query("SELECT 1 FROM network_endpoints WHERE id = ?", (endpoint.id,)):
            return
        done = self._releasing[endpoint.id] = asyncio.Event()
        try:
            await self._release(endpoint)
        finally:
            del self._releasing[endpoint.id]
            done.set()

    async def _release(self, endpoint: Endpoint) -> None:
        network = self._networks[endpoint.network_id]
        await self._drivers[network.driver].disconnect(network, endpoint)
        self._released += 1
        with self._db.transaction():
            ipam.release(self._db, endpoint.id, link_is_gone=endpoint.link not in self._live, order=self._released)
            self._ports.free(endpoint.id)
            self._db.execute("DELETE FROM network_endpoints WHERE id = ?", (endpoint.id,))
        self._ports.let_go(endpoint.id)

    async def relink(self, endpoint: Endpoint, links: Sequence[Link]) -> None:
        """A linked container has another address now: exchange the endpoint's links (matters where icc is off)."""
        network = self._networks[endpoint.network_id]
        if network.icc or not self._db.query("SELECT 1 FROM network_endpoints WHERE id = ?", (endpoint.id,)):
            return
        before = replace(endpoint)
        endpoint.links = [link for link in links if link.address and link.ports]
        self._db.execute("UPDATE network_endpoints SET document = ? WHERE id = ?", (endpoint.to_row(), endpoint.id))
        await self._filter.submit(self._firewall.relink, before, replace(endpoint))

    def endpoints(self, container_id: str | None = None) -> list[Endpoint]:
        """Endpoints that are planned or connected: all, or one container's."""
        sql, parameters = "SELECT document FROM network_endpoints", ()
        if container_id is not None:
            sql, parameters = f"{sql} WHERE container = ?", (container_id,)  # type: ignore[assignment]
        return [Endpoint.from_row(row[0]) for row in self._db.query(sql, parameters)]

    def _verify(self, network: Network, request: EndpointRequest) -> None:
        if network.name in PREDEFINED:
            if request.ipv4_address:
                raise InvalidParameter("user specified IP address is supported on user defined networks only")
            if request.aliases:
                raise InvalidParameter("network-scoped alias is supported only for containers in user defined networks")

    def _plan_address(self, network: Network, request: EndpointRequest, endpoint: Endpoint) -> None:
        endpoint.link = f"bw{self._instance[:4]}{secrets.token_hex(4)}"
        if request.ipv4_address:
            address, endpoint.evicts = ipam.claim(self._db, network, request.ipv4_address, endpoint.link, endpoint.id)
        else:
            address, endpoint.evicts = ipam.allocate(self._db, network, endpoint.link, endpoint.id)
        packed = address.to_bytes(4)
        endpoint.address = socket.inet_ntoa(packed)
        endpoint.prefix_length, endpoint.gateway = network.prefix_length, network.gateway
        # From the address, so that a neighbour's ARP entry stays right when the address is given out again.
        mac = options.parse_mac(request.mac_address) if request.mac_address else b"\x02\x42" + packed
        endpoint.mac_address = mac.hex(":")

    def _plan_ports(self, network: Network, request: EndpointRequest, endpoint: Endpoint) -> None:
        relays = self._config.userland_proxy
        wanted = options.bindings(request.bindings, endpoint.exposed, request.publish_all, network.host_ip, relays)
        if wanted and not self._config.iptables:
            raise System("publishing ports needs the packet filter, which is switched off (iptables=false)")
        if wanted:
            try:
                taken = self._ports.allocate(endpoint.id, endpoint.address, wanted)
            except System as error:
                raise System(
                    "driver failed programming external connectivity on endpoint "
                    f"{request.container_name} ({endpoint.id}): {error}"
                ) from error
            endpoint.published = [port for port in taken if ":" not in port.host_ip]
            endpoint.relayed = [port for port in taken if ":" in port.host_ip]
        if not network.icc:
            endpoint.links = [link for link in request.links if link.address and link.ports]

    def _links_gone(self) -> None:
        """The kernel reported ends of interfaces (readable monitor): their addresses leave quarantine."""
        names = self._monitor.read()
        if names is None:
            self._loop.create_task(self._look_again())
            return
        ours = self._live.intersection(names)
        if ours:
            self._live -= ours
            if not self._ended:
                self._loop.call_later(_TOGETHER, self._end_quarantine)
            self._ended |= ours

    def _end_quarantine(self) -> None:
        """Of all interfaces whose ends came shortly one after the other, in one transaction.

        An engine that dies before it looks at the kernel's interfaces when it comes back.
        """
        ended, self._ended = self._ended, set()
        if self._started:
            with self._db.transaction():
                ipam.end_quarantine(self._db, sorted(ended))

    async def _look_again(self) -> None:
        """Reports were lost (the socket overflowed): ask for all interfaces."""
        before = set(self._live)
        present = await self._netlink.submit(self._host.names)
        gone = before - present
        self._live -= gone
        with self._db.transaction():
            ipam.end_quarantine(self._db, sorted(gone))

    # --- networks -------------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> Network:
        """The network with this name, id or unique id prefix; raises NotFound or InvalidParameter."""
        return listing.resolve(self._networks.values(), "bridge" if name in ("", "default") else name)

    def gateway_address(self) -> str:
        """What `host-gateway` stands for: the flag's address or the default bridge's, "" without one."""
        if self._config.host_gateway_ips:
            return self._config.host_gateway_ips[0]
        return next((n.gateway for n in self._networks.values() if n.default), "")

    def networks(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[dict[str, Any]]:
        """Docker's list of networks.  filters: as in the API, values by filter name; InvalidParameter when unknown."""
        used = {row[0] for row in self._db.query("SELECT DISTINCT network FROM network_endpoints")}
        chosen = listing.choose(self._networks.values(), filters or {}, used)
        return [network.to_docker() for network in chosen]

    def inspect(self, name: str, verbose: bool = False) -> dict[str, Any]:
        """Docker's JSON of one network with its containers; `verbose` adds nothing outside of a swarm."""
        network = self.resolve(name)
        sql = "SELECT document FROM network_endpoints WHERE network = ?"
        endpoints = [Endpoint.from_row(row[0]) for row in self._db.query(sql, (network.id,))]
        return network.to_docker(listing.containers(endpoints, self.container_name))

    async def create(self, request: Any) -> dict[str, Any]:
        """POST /networks/create; user-defined networks are not implemented yet."""
        if request.name in (*PREDEFINED, "default"):
            raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
        raise NotImplemented_("networks create: user-defined networks are not implemented")

    async def remove(self, name: str) -> None:
        """DELETE /networks/{id}."""
        network = self.resolve(name)
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        raise NotImplemented_("networks remove: user-defined networks are not implemented")

    async def connect_container(self, name: str, container_id: str, settings: Any) -> None:
        """POST /networks/{id}/connect."""
        self.resolve(name)
        raise NotImplemented_("networks connect: user-defined networks are not implemented")

    async def disconnect_container(self, name: str, container_id: str, force: bool) -> None:
        """POST /networks/{id}/disconnect."""
        self.resolve(name)
        raise NotImplemented_("networks disconnect: user-defined networks are not implemented")

    def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """POST /networks/prune: only user-defined networks are ever pruned, and there are none."""
        listing.check_prune_filters(filters or {})
        return {"NetworksDeleted": None}
