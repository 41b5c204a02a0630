"""IPv4 addresses: which subnet a network takes, and which address a container gets.

The truth is in SQLite, so an aborted transaction gives an address back without further work.  Addresses are handed out
cyclically, and one that was released stays in quarantine until the kernel has reported the end of the interface that
had it: neighbours would otherwise still reach a namespace that is being torn down.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network

from boxwright.db.connection import Database
from boxwright.errdefs import Conflict, InvalidParameter, System
from boxwright.network.model import Network

_GATEWAY = "gateway"


def choose_subnet(pools: Sequence[tuple[str, int]], taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first subnet of `pools` ((base, prefix length) pairs) that overlaps none of `taken`.

    Raises System with Docker's text when there is none.
    """
    occupied = list(taken)
    for base, size in pools:
        for candidate in _cut(base, size):
            if not any(candidate.overlaps(other) for other in occupied):
                return candidate
    raise System("all predefined address pools have been fully subnetted")


def _cut(base: str, size: int) -> Iterator[IPv4Network]:
    """Subnets of `size` bits from the base's own address on ("172.17.0.0/12" starts with 172.17, as Docker's does)."""
    try:
        pool = IPv4Network(base, strict=False)
        first = int(IPv4Address(base.partition("/")[0]))
    except ValueError as error:
        raise InvalidParameter(f"invalid default address pool {base}: {error}") from error
    if not pool.prefixlen <= size <= 32:
        raise InvalidParameter(f"invalid default address pool: size {size} does not fit into {base}")
    step = 1 << (32 - size)
    for address in range(first & -step, int(pool.broadcast_address) + 1, step):
        yield IPv4Network((address, size))


def reserve_gateway(db: Database, network: Network) -> None:
    """Keep the gateway's address from being handed out."""
    db.execute("DELETE FROM network_addresses WHERE network = ? AND endpoint = ?", (network.id, _GATEWAY))
    values = (network.id, int(IPv4Address(network.gateway)), _GATEWAY)
    db.execute("INSERT INTO network_addresses (network, address, link, endpoint) VALUES (?, ?, '', ?)", values)


def allocate(db: Database, network: Network, link: str, endpoint: str) -> tuple[int, str]:
    """Take the next free address for `endpoint`, whose interface will be `link`; call it inside a transaction.

    Returns (address, evicted): when only quarantined addresses are left, the one released first is taken, and `evicted`
    names the interface that must be deleted before the address is used again; otherwise it is "".
    Raises System with Docker's text when the network is full.
    """
    low, high = network.host_range()
    (cursor,) = db.query("SELECT cursor FROM networks WHERE id = ?", (network.id,))[0]
    start = cursor + 1 if low <= cursor < high else low
    address = _free(db, network.id, start, high)
    if address is None and start > low:
        address = _free(db, network.id, low, start - 1)
    if address is None:
        return _evict(db, network, link, endpoint)
    _insert(db, network.id, address, link, endpoint)
    db.execute("UPDATE networks SET cursor = ? WHERE id = ?", (address, network.id))
    return address, ""


def claim(db: Database, network: Network, wanted: str, link: str, endpoint: str) -> tuple[int, str]:
    """Take the address that the user asked for; like `allocate`.  Raises InvalidParameter or Conflict."""
    try:
        address = int(IPv4Address(wanted))
    except ValueError as error:
        raise InvalidParameter(f"invalid IPv4 address: {wanted}") from error
    if IPv4Address(address) not in IPv4Network(network.subnet):
        raise InvalidParameter(f"no configured subnet contains IP address {wanted}")
    sql = "SELECT link, endpoint FROM network_addresses WHERE network = ? AND address = ?"
    holder = db.query(sql, (network.id, address))
    if not holder:
        _insert(db, network.id, address, link, endpoint)
        return address, ""
    evicted, owner = holder[0]
    if owner is not None:
        raise Conflict("Address already in use")
    _take_over(db, network.id, address, link, endpoint)
    return address, evicted


def release(db: Database, endpoint: str, *, link_is_gone: bool, order: int) -> None:
    """Give the endpoint's address back: at once when its interface is gone, else into quarantine.

    order: grows with every release; the oldest is taken first when nothing else is left.
    """
    if link_is_gone:
        db.execute("DELETE FROM network_addresses WHERE endpoint = ?", (endpoint,))
    else:
        sql = "UPDATE network_addresses SET endpoint = NULL, released = ? WHERE endpoint = ?"
        db.execute(sql, (order, endpoint))


def end_quarantine(db: Database, links: Sequence[str]) -> None:
    """The kernel has reported that these interfaces are gone: their released addresses are free."""
    sql = "DELETE FROM network_addresses WHERE link = ? AND endpoint IS NULL"
    for link in links:
        db.execute(sql, (link,))


def quarantined(db: Database) -> list[str]:
    """Interfaces whose end is awaited."""
    return [row[0] for row in db.query("SELECT link FROM network_addresses WHERE endpoint IS NULL")]


def _free(db: Database, network: str, start: int, end: int) -> int | None:
    """The first address from start to end that nobody has: `start`, or the first gap behind a run of taken ones."""
    taken = "SELECT 1 FROM network_addresses WHERE network = ? AND address = ?"
    if start > end:
        return None
    if not db.query(taken, (network, start)):
        return start
    gap = """
        SELECT address + 1 FROM network_addresses AS a WHERE network = ? AND address >= ? AND address < ?
        AND NOT EXISTS (SELECT 1 FROM network_addresses AS b WHERE b.network = a.network AND b.address = a.address + 1)
        ORDER BY address LIMIT 1
    """
    found = db.query(gap, (network, start, end))
    return int(found[0][0]) if found else None


def _evict(db: Database, network: Network, link: str, endpoint: str) -> tuple[int, str]:
    low, high = network.host_range()
    sql = """
        SELECT address, link FROM network_addresses WHERE network = ? AND endpoint IS NULL AND address BETWEEN ? AND ?
        ORDER BY released LIMIT 1
    """
    oldest = db.query(sql, (network.id, low, high))
    if not oldest:
        raise System(f"no available IPv4 addresses on this network's address pools: {network.name} ({network.id})")
    address, evicted = oldest[0]
    _take_over(db, network.id, address, link, endpoint)
    return address, evicted


def _insert(db: Database, network: str, address: int, link: str, endpoint: str) -> None:
    sql = "INSERT INTO network_addresses (network, address, link, endpoint) VALUES (?, ?, ?, ?)"
    db.execute(sql, (network, address, link, endpoint))


def _take_over(db: Database, network: str, address: int, link: str, endpoint: str) -> None:
    sql = "UPDATE network_addresses SET link = ?, endpoint = ?, released = 0 WHERE network = ? AND address = ?"
    db.execute(sql, (link, endpoint, network, address))
