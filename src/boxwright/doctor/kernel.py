"""Kernel objects of ours against the database: cgroups, interfaces, firewall elements; the network's rows."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address

from boxwright.doctor.findings import Finding, orphan
from boxwright.doctor.known import Known
from boxwright.errdefs import System
from boxwright.libcontainer import cgroups
from boxwright.libcontainer.cgroups import files as cgroup_files
from boxwright.linux import netlink
from boxwright.network.endpoint import Endpoint
from boxwright.network.nftables import Nftables

_ID = 64
_MAPS = ("published", "published_at")


def check(data_root: str, known: Known, cgroup_parent: str) -> Iterator[Finding]:
    """cgroup_parent: of the engine's settings, "" for its own."""
    parents = {parent or cgroup_parent or f"/boxwright-{known.instance}" for parent in {"", *known.cgroup_parents}}
    yield from _cgroups(parents, known)
    yield from _interfaces(known)
    yield from _elements(known)
    yield from _rows(f"{data_root}/boxwright.db", known)


def _cgroups(parents: set[str], known: Known) -> Iterator[Finding]:
    for parent in sorted(parents):
        found: set[str] = set()
        for directory in cgroups.manager("", parent, "").directories():
            if os.path.isdir(directory):
                found |= {os.path.basename(child) for child in cgroup_files.children(directory)}
        for name in sorted(found):
            # In a parent that is not ours alone, only what is named as a container is.
            if len(name) == _ID and name not in known.containers and not name.strip("0123456789abcdef"):
                yield orphan("cgroup", f"{parent}/{name}", "no container has it", _end_cgroup(parent, name))


def _end_cgroup(parent: str, name: str) -> Callable[[], None]:
    def end() -> None:
        group = cgroups.manager("", parent, name)
        group.kill()
        group.destroy()

    return end


def _interfaces(known: Known) -> Iterator[Finding]:
    planned = {endpoint.link for endpoint in known.endpoints.values()}
    waiting = {link for _, _, link, endpoint in known.addresses if endpoint is None}
    with netlink.Socket() as sock:
        links = list(netlink.links(sock))
    ours = {info.index for info in links if info.alias == f"boxwright:{known.instance}"}
    present = {info.name for info in links}
    for info in links:
        ours_by_name = info.name.startswith(f"bw{known.instance[:4]}") and info.master in ours
        if ours_by_name and info.name not in planned and info.name not in waiting:
            yield orphan("interface", info.name, "no container has it", _delete_link(info.name))
    for network, address, link, endpoint in known.addresses:
        if endpoint is None and link not in present:
            what = f"{IPv4Address(address)} in {known.networks.get(network, {}).get('name', network)}"
            yield Finding(
                "warning",
                "address",
                what,
                "in quarantine for an interface that is gone",
                "the engine's next start frees it",
            )


def _delete_link(name: str) -> Callable[[], None]:
    def delete() -> None:
        with netlink.Socket() as sock:
            sock.transact([netlink.delete_link(name)])

    return delete


def _elements(known: Known) -> Iterator[Finding]:
    table = f"boxwright_{known.instance}"
    wanted = {key for endpoint in known.endpoints.values() for key in _keys(endpoint)}
    try:
        nft = Nftables()
    except System:
        return  # the host's checks name the library
    with closing(nft):
        tables = {str(t["name"]) for item in nft.query("list tables ip") if (t := item.get("table"))}
        if table not in tables:
            return
        for name in _MAPS:
            for item in nft.query(f"list map ip {table} {name}"):
                for key in _parsed(item.get("map", {}).get("elem")):
                    if (name, key) not in wanted:
                        text = " . ".join(key)
                        what, mend = f"{table} {name} {text}", _delete_element(table, name, text)
                        yield orphan("firewall element", what, "no container publishes it", mend)


def _keys(endpoint: Endpoint) -> Iterator[tuple[str, tuple[str, ...]]]:
    for p in endpoint.published:
        key = (p.protocol, str(p.host_port))
        everywhere = p.host_ip in ("", "0.0.0.0")
        yield (_MAPS[0], key) if everywhere else (_MAPS[1], (p.host_ip, *key))


def _parsed(elements: object) -> Iterator[tuple[str, ...]]:
    for element in elements if isinstance(elements, list) else ():
        yield tuple(str(part) for part in element[0]["concat"])


def _delete_element(table: str, name: str, key: str) -> Callable[[], None]:
    def delete() -> None:
        with closing(Nftables()) as nft:
            nft.run(f"delete element ip {table} {name} {{ {key} }}")

    return delete


def _rows(database: str, known: Known) -> Iterator[Finding]:
    """Addresses, ports and endpoints in the database that lead nowhere."""
    for id, endpoint in known.endpoints.items():
        if endpoint.container_id not in known.containers:
            what = f"{endpoint.address or endpoint.network} of {endpoint.container_id[:12]}"
            statement = "DELETE FROM network_endpoints WHERE id = ?"
            yield orphan("endpoint", what, "its container is gone", _execute(database, statement, (id,)))
    for network, address, _, owner in known.addresses:
        if owner not in (None, "gateway") and owner not in known.endpoints:
            statement = "DELETE FROM network_addresses WHERE network = ? AND address = ?"
            text = str(IPv4Address(address))
            yield orphan("address", text, "no endpoint has it", _execute(database, statement, (network, address)))
    for protocol, port, host_ip, owner in known.ports:
        if owner not in known.endpoints:
            statement = "DELETE FROM network_ports WHERE protocol = ? AND port = ? AND host_ip = ?"
            text = f"{host_ip or '0.0.0.0'}:{port}/{protocol}"
            yield orphan("port", text, "no endpoint has it", _execute(database, statement, (protocol, port, host_ip)))


def _execute(database: str, statement: str, values: tuple[str | int, ...]) -> Callable[[], None]:
    def execute() -> None:
        with closing(sqlite3.connect(database, isolation_level=None)) as db:
            db.execute(statement, values)

    return execute
