"""The packet filter: tables of our own through libnftables, with one map element for one published port.

The static part (chains, rules) follows from the networks and is written in one atomic transaction when the engine
starts and when a network comes or goes; the kernel swaps old and new with no moment between them, and connections that
are established do not notice.  A container only adds and deletes elements (0.1 ms; an `nft` process takes 3.5 ms).

Table `ip boxwright_<instance>`:
 - prerouting, output → publish: DNAT by two maps: host port → container address and port, for all host addresses and
   for a named one.  127.0.0.0/8 is published to the host itself only: a neighbour can send such a packet, and DNAT
   happens before the kernel would call it a martian.
 - postrouting: masquerade what leaves a subnet, what a container sends to a published port of its own subnet (hairpin),
   and what the host sends from a loopback address (a container cannot answer 127.0.0.1).
 - forward: what may enter a network.  icc off: between containers only linked ports, and published ones.
 - guard: only when we turned on ip_forward (see `write`).
 - raw: route_localnet on a bridge lets the host use published ports by localhost; it would also let a container reach
   services that the host binds to 127.0.0.1 only (CVE-2020-8558), so such packets from a bridge are dropped.
Table `bridge boxwright_<instance>` (only with an icc-off network): frames between two of its ports never reach the IP
layer unless br_netfilter is loaded.  With br_netfilter, a packet to a published port is translated inside the bridge
and passes here with the container's own address, so published ports are let through (but those for localhost only).
"""

import errno
import logging
import os
from collections.abc import Iterable, Sequence

from boxwright.errdefs import System
from boxwright.linux import conntrack, netlink
from boxwright.network.endpoint import Endpoint, Link, Published
from boxwright.network.model import Network
from boxwright.network.nftables import Nftables, NftablesError

log = logging.getLogger(__name__)


class Firewall:
    """The tables of one engine.  Every method blocks; they all run on one thread, where `open` is called first."""

    def __init__(self, instance: str) -> None:
        self.table = f"boxwright_{instance}"
        self._nft: Nftables | None = None
        self._conntrack: netlink.Socket | None = None

    @property
    def nft(self) -> Nftables:
        if self._nft is None:
            self._nft = Nftables()
        return self._nft

    def close(self) -> None:
        """Free the library's context; the tables stay."""
        if self._nft is not None:
            self._nft.close()
            self._nft = None
        if self._conntrack is not None:
            self._conntrack.close()
            self._conntrack = None

    def guards(self) -> bool:
        """True when an earlier start (since the machine's) has turned on ip_forward and made the guard."""
        chains = (item.get("chain", {}) for item in self.nft.query("list chains ip"))
        return any(c.get("table") == self.table and c.get("name") == "guard" for c in chains)

    def write(self, networks: Sequence[Network], endpoints: Iterable[Endpoint], guard: bool) -> None:
        """Replace our tables by what these networks and endpoints need, in one transaction.

        guard: ip_forward was off before we turned it on, so nothing else was meant to be routed: packets that neither
        come from a bridge nor go to one are dropped, as dockerd does by FORWARD's policy.  By kind, not by name, so
        that other engines' bridges (and virtual machines') are not cut off.
        """
        bridges = [n for n in networks if n.bridge]
        isolated = {n.id for n in bridges if not n.icc}
        # "add" first makes the "delete" valid when there is no table yet.
        parts = [f"add table {family} {self.table}\ndelete table {family} {self.table}" for family in ("ip", "bridge")]
        parts.append(_ip_table(self.table, bridges, guard))
        if isolated:
            parts.append(_bridge_table(self.table))
        for endpoint in endpoints:
            parts += self._elements("add", endpoint, endpoint.network_id in isolated)
        self.nft.run("\n".join(parts))

    def remove(self) -> None:
        """Delete our tables and our accept rules in other people's chains."""
        for family in ("ip", "bridge"):
            self.nft.run(f"add table {family} {self.table}\ndelete table {family} {self.table}")
        self._delete_accept_rules()

    def add(self, endpoint: Endpoint, isolated: bool) -> None:
        """Open what the endpoint publishes and links to.  Raises NftablesError, and then nothing was added."""
        if commands := self._elements("add", endpoint, isolated):
            self.nft.run("\n".join(commands))
        if ports := {p.host_port for p in endpoint.published if p.protocol == "udp"}:
            self._forget_udp(ports)

    def relink(self, old: Endpoint, new: Endpoint) -> None:
        """Exchange the links of an endpoint in an isolated network, in one transaction."""
        out, into = self._elements("delete", old, True), self._elements("add", new, True)
        same = {command.partition(" ")[2] for command in out} & {command.partition(" ")[2] for command in into}
        commands = [command for command in (*out, *into) if command.partition(" ")[2] not in same]
        if commands:
            self.nft.run("\n".join(commands))

    def _forget_udp(self, ports: set[int]) -> None:
        """Clients that have been sending to these ports reach the new container with their next packet."""
        if self._conntrack is None:
            self._conntrack = netlink.Socket(protocol=conntrack.NETLINK_NETFILTER)
        try:
            with netlink.Socket() as route:
                local = {address for _, address, _ in netlink.addresses(route)}
            conntrack.forget_udp(self._conntrack, ports, min(ports) if len(ports) == 1 else 0, local)
        except OSError as error:
            # Without nf_conntrack_netlink: such a client has to pause for 30 to 120 s, or use another port.
            log.debug("connections to UDP ports %s could not be forgotten: %s", sorted(ports), error)

    def delete(self, endpoint: Endpoint, isolated: bool) -> None:
        """Take the endpoint's elements out, also when some of them are not there (any more)."""
        commands = self._elements("delete", endpoint, isolated)
        if not commands:
            return
        try:
            self.nft.run("\n".join(commands))
        except NftablesError:
            # Delete fails for an element that is missing, and "destroy" came with 1.0.8: make each one first.
            self.nft.run("\n".join([*self._elements("add", endpoint, isolated), *commands]))

    def _elements(self, verb: str, endpoint: Endpoint, isolated: bool) -> list[str]:
        commands = [f"{verb} element ip {self.table} {_port(p, endpoint.address)}" for p in endpoint.published]
        if isolated and endpoint.link:
            commands.append(f'{verb} element bridge {self.table} ports {{ "{endpoint.link}" }}')
            for p in endpoint.published:
                if not p.host_ip.startswith("127."):
                    element = f"{{ {endpoint.address} . {p.protocol} . {p.container_port} }}"
                    commands.append(f"{verb} element bridge {self.table} open {element}")
            for link in endpoint.links:
                for element in _link(link, endpoint.address):
                    commands += [f"{verb} element {f} {self.table} links {element}" for f in ("ip", "bridge")]
        return list(dict.fromkeys(commands))  # two links to one container are one element

    def accept_in_foreign_chains(self, bridges: Sequence[str]) -> list[str]:
        """Where another program drops forwarded packets by default, insert marked accept rules for our bridges.

        An accept in our own tables cannot override another table's drop, so a host where Docker or ufw set FORWARD to
        drop would cut containers off.  Returns a line for each chain, for people to read.
        """
        report = _legacy_report(bridges)
        try:
            self._delete_accept_rules()
        except NftablesError as error:  # a chain of somebody's that this library cannot read
            report.append(f"accept rules of an earlier start may be left in foreign chains: {error}")
        for chain in self._dropping_chains():
            where = f"{chain['family']} {chain['table']} {chain['name']}"
            rules = []
            for bridge in bridges:
                for match in ("iifname", "oifname"):
                    rules.append(f'insert rule {where} {match} "{bridge}" counter accept comment "{self.table}"')
            try:
                self.nft.run("\n".join(rules))
                report.append(f"chain '{where}' drops forwarded packets by default: accept rules were inserted")
            except NftablesError as error:
                report.append(f"chain '{where}' drops forwarded packets and takes no rule of ours: {error}")
        return report

    def _dropping_chains(self) -> list[dict[str, object]]:
        found = []
        for item in self.nft.query("list chains"):
            chain = item.get("chain", {})
            if (
                chain.get("hook") == "forward"
                and chain.get("policy") == "drop"
                and chain.get("family") in ("ip", "inet")
            ):
                found.append(chain)
        return [chain for chain in found if not str(chain["table"]).startswith("boxwright_")]

    def _delete_accept_rules(self) -> None:
        for item in self.nft.query("list chains"):
            chain = item.get("chain", {})
            if chain.get("hook") != "forward" or chain.get("family") not in ("ip", "inet"):
                continue
            if str(chain["table"]).startswith("boxwright_"):
                continue
            where = f"{chain['family']} {chain['table']} {chain['name']}"
            for listed in self.nft.query(f"list chain {where}"):
                rule = listed.get("rule", {})
                if rule.get("comment") == self.table:
                    self.nft.run(f"delete rule {where} handle {rule['handle']}")


def _port(published: Published, address: str) -> str:
    """`map { element }` of a published port."""
    key = f"{published.protocol} . {published.host_port}"
    target = f"{address} . {published.container_port}"
    if published.host_ip in ("", "0.0.0.0"):
        return f"published {{ {key} : {target} }}"
    return f"published_at {{ {published.host_ip} . {key} : {target} }}"


def _link(link: Link, address: str) -> list[str]:
    return [f"{{ {address} . {link.address} . {protocol} . {port} }}" for protocol, port in link.ports]


def _ip_table(name: str, networks: Sequence[Network], guard: bool) -> str:
    postrouting, entries, chains = [], [], []
    for network in networks:
        bridge, chain = network.bridge, f"to_{network.id[:12]}"
        if network.masquerade:
            postrouting.append(f'ip saddr {network.subnet} oifname != "{bridge}" masquerade')
        postrouting.append(f'ip saddr {network.subnet} oifname "{bridge}" ct status dnat masquerade')
        postrouting.append(f'ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade')
        entries.append(f'"{bridge}" : jump {chain}')
        chains.append(f"chain {chain} {{\n{_entry_rules(network)}\n}}")
    guarded = ", ".join(f'"{n.bridge}"' for n in networks)
    raw = forward = guarding = ""
    if guard:
        guarding = """chain guard {
        type filter hook forward priority 10; policy accept;
        meta iifkind != "bridge" meta oifkind != "bridge" drop
    }"""
    if networks:
        raw = f"iifname {{ {guarded} }} ip daddr 127.0.0.0/8 drop\niifname {{ {guarded} }} ip saddr 127.0.0.0/8 drop"
        forward = f"oifname vmap {{ {', '.join(entries)} }}"
    return f"""
table ip {name} {{
    map published {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map published_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    set links {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; }}
    chain publish {{
        meta l4proto {{ tcp, udp, sctp }} dnat to ip daddr . meta l4proto . th dport map @published_at
        meta l4proto {{ tcp, udp, sctp }} dnat to meta l4proto . th dport map @published
    }}
    chain prerouting {{
        type nat hook prerouting priority -100; policy accept;
        ip daddr != 127.0.0.0/8 fib daddr type local jump publish
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        fib daddr type local jump publish
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        {chr(10).join(postrouting)}
    }}
    chain raw {{
        type filter hook prerouting priority -300; policy accept;
        {raw}
    }}
    {chr(10).join(chains)}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        {forward}
    }}
    {guarding}
}}
"""


def _entry_rules(network: Network) -> str:
    """What may enter a network: answers, published ports, and its own containers (or only linked ones)."""
    inside = f'iifname "{network.bridge}"'
    rules = ["ct state established,related accept", "ct status dnat accept"]
    if network.icc:
        rules.append(f"{inside} accept")
    else:
        rules.append(f"{inside} ip saddr . ip daddr . meta l4proto . th dport @links accept")
        rules.append(f"{inside} ip daddr . ip saddr . meta l4proto . th sport @links accept")
    return "\n".join([*rules, "drop"])


def _bridge_table(name: str) -> str:
    return f"""
table bridge {name} {{
    set ports {{ type ifname; }}
    set open {{ type ipv4_addr . inet_proto . inet_service; }}
    set links {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; }}
    chain isolated {{
        ether type arp accept
        ip daddr . ip protocol . th dport @open accept
        ip saddr . ip protocol . th sport @open accept
        ip saddr . ip daddr . ip protocol . th dport @links accept
        ip daddr . ip saddr . ip protocol . th sport @links accept
        drop
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname @ports oifname @ports jump isolated
    }}
}}
"""


def _legacy_report(bridges: Sequence[str]) -> list[str]:
    """A line when the old iptables has a filter table: nftables does not show it, and its policy may be to drop."""
    try:
        with open("/proc/thread-self/net/ip_tables_names") as file:
            tables = file.read(4096).split()
    except OSError:
        return []
    if "filter" not in tables:
        return []
    return [
        "iptables-legacy has a filter table: should its FORWARD chain drop, accept both directions of"
        f" {', '.join(bridges)} there (iptables-legacy -I FORWARD -i {bridges[0]} -j ACCEPT; likewise -o)"
    ]


def forward_ipv4() -> bool:
    """Turn on net.ipv4.ip_forward in the calling thread's network namespace; False when it was on."""
    path = "/proc/sys/net/ipv4/ip_forward"
    with open(path) as file:
        if file.read(1) == "1":
            return False
    try:
        with open(path, "w") as file:
            file.write("1")
        return True
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise System(
                f"{path} cannot be set ({os.strerror(error.errno)}): containers would have no network"
            ) from error
        raise
