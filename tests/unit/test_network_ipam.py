"""Addresses: which subnet, which address, quarantine, and that an aborted transaction gives everything back."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwright.db.connection import Database
from boxwright.errdefs import Conflict, InvalidParameter, System
from boxwright.network import ipam, schema
from boxwright.network.model import Network

POOLS = [("172.17.0.0/12", 16), ("192.168.0.0/16", 20)]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "172.17.0.0/16"),
        (["172.17.5.0/24"], "172.18.0.0/16"),
        (["172.16.0.0/12"], "192.168.0.0/20"),
        (["172.16.0.0/12", "192.168.3.4/32"], "192.168.16.0/20"),
        (["10.0.0.0/8"], "172.17.0.0/16"),
    ],
)
def test_the_first_subnet_that_the_host_does_not_use(taken: list[str], expected: str) -> None:
    assert ipam.choose_subnet(POOLS, [IPv4Network(t) for t in taken]) == IPv4Network(expected)


def test_no_subnet_left() -> None:
    with pytest.raises(System, match="all predefined address pools have been fully subnetted"):
        ipam.choose_subnet([("10.0.0.0/24", 25)], [IPv4Network("10.0.0.0/24")])
    for pool in (("10.0.0.0/24", 16), ("x", 24), ("10.0.0.0/24", 33)):
        with pytest.raises(InvalidParameter):
            ipam.choose_subnet([pool], [])


class Pool:
    """One network in a database."""

    def __init__(self, path: Path, subnet: str, ip_range: str = "") -> None:
        self.db = Database(str(path))
        self.db.migrate("network", schema.SCRIPTS)
        gateway = str(next(IPv4Network(subnet).hosts()))
        self.network = Network(
            id="n1", name="net", driver="bridge", created="", subnet=subnet, gateway=gateway, ip_range=ip_range
        )
        sql = "INSERT INTO networks (id, name, driver, created, document) VALUES (?, ?, '', '', '')"
        self.db.execute(sql, (self.network.id, "net"))
        ipam.reserve_gateway(self.db, self.network)
        self.order = 0

    def take(self, name: str, wanted: str = "") -> tuple[str, str]:
        with self.db.transaction():
            if wanted:
                address, evicted = ipam.claim(self.db, self.network, wanted, f"link-{name}", name)
            else:
                address, evicted = ipam.allocate(self.db, self.network, f"link-{name}", name)
        return str(IPv4Address(address)), evicted

    def give(self, name: str, *, gone: bool) -> None:
        self.order += 1
        with self.db.transaction():
            ipam.release(self.db, name, link_is_gone=gone, order=self.order)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path / "db", "10.1.0.0/29")
    yield pool
    pool.db.close()


def test_addresses_go_round(small: Pool) -> None:
    assert [small.take(n)[0] for n in "abc"] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]
    small.give("a", gone=True)
    assert [small.take(n)[0] for n in "de"] == ["10.1.0.5", "10.1.0.6"]
    assert small.take("f")[0] == "10.1.0.2"
    with pytest.raises(System, match=r"no available IPv4 addresses on this network's address pools: net \(n1\)"):
        small.take("g")
    small.give("c", gone=True)
    assert small.take("h")[0] == "10.1.0.4"


def test_quarantine_ends_when_the_interface_is_gone(small: Pool) -> None:
    for name in "abcd":
        small.take(name)
    for name in "abcd":
        small.give(name, gone=False)
    assert ipam.quarantined(small.db) == [f"link-{n}" for n in "abcd"]
    ipam.end_quarantine(small.db, ["link-b", "link-unknown"])
    assert small.take("e") == ("10.1.0.6", "")
    assert small.take("f") == ("10.1.0.3", "")


def test_under_pressure_the_oldest_quarantined_address_is_taken_and_its_interface_named(small: Pool) -> None:
    for name in "abcde":
        small.take(name)
    for name in "dab":
        small.give(name, gone=False)
    assert small.take("f") == ("10.1.0.5", "link-d")
    assert small.take("g") == ("10.1.0.2", "link-a")
    # The end of the evicted interface must not free the address of its new owner.
    ipam.end_quarantine(small.db, ["link-d"])
    assert small.take("h") == ("10.1.0.3", "link-b")


def test_an_aborted_transaction_gives_the_address_back(small: Pool) -> None:
    with pytest.raises(RuntimeError), small.db.transaction():
        ipam.allocate(small.db, small.network, "l", "a")
        raise RuntimeError
    assert small.take("b")[0] == "10.1.0.2"


def test_an_address_of_the_users_choice(small: Pool) -> None:
    assert small.take("a", "10.1.0.4") == ("10.1.0.4", "")
    with pytest.raises(Conflict, match="Address already in use"):
        small.take("b", "10.1.0.4")
    with pytest.raises(Conflict):
        small.take("b", "10.1.0.1")
    for wrong in ("10.2.0.1", "x"):
        with pytest.raises(InvalidParameter):
            small.take("b", wrong)
    small.give("a", gone=False)
    assert small.take("c", "10.1.0.4") == ("10.1.0.4", "link-a")


def test_a_range_inside_the_subnet(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "db", "10.1.0.0/24", "10.1.0.64/30")
    assert [pool.take(n)[0] for n in "abcd"] == ["10.1.0.64", "10.1.0.65", "10.1.0.66", "10.1.0.67"]
    with pytest.raises(System):
        pool.take("e")
    pool.db.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.sampled_from(["take", "give", "lose", "gone"]), st.integers(0, 9)), max_size=60))
def test_no_address_has_two_owners(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    """Against a model: what is owned is distinct, and quarantined addresses come back only by force."""
    pool = Pool(tmp_path_factory.mktemp("ipam") / "db", "10.1.0.0/29")
    owned: dict[str, str] = {}
    dying: dict[str, str] = {}  # link -> address
    count = 0
    for step, number in steps:
        if step == "take":
            count += 1
            name = f"e{count}"
            if len(owned) == 5:
                with pytest.raises(System):
                    pool.take(name)
                continue
            address, evicted = pool.take(name)
            assert address not in owned.values()
            assert IPv4Address("10.1.0.2") <= IPv4Address(address) <= IPv4Address("10.1.0.6")
            if evicted:
                assert len(owned) + len(dying) == 5
                assert dying.pop(evicted) == address
            assert address not in dying.values()
            owned[name] = address
        elif step == "gone" and dying:
            link = sorted(dying)[number % len(dying)]
            del dying[link]
            ipam.end_quarantine(pool.db, [link])
        elif step in ("give", "lose") and owned:
            name = sorted(owned)[number % len(owned)]
            pool.give(name, gone=step == "lose")
            address = owned.pop(name)
            if step == "give":
                dying[f"link-{name}"] = address
    pool.db.close()
