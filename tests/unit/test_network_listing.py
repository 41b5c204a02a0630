"""Lookup and filters of networks, endpoints as JSON, and the messages' packing."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.errdefs import InvalidParameter, NotFound
from boxwright.linux import netlink
from boxwright.network import listing
from boxwright.network.endpoint import Endpoint, Link, Published
from boxwright.network.model import Network


def _network(id: str, name: str, driver: str = "bridge", **fields: object) -> Network:
    return Network(id=id, name=name, driver=driver, created="", **fields)  # type: ignore[arg-type]


NETWORKS = [
    _network("aa1", "bridge"),
    _network("aa2", "host", "host"),
    _network("bb3", "none", "null"),
    _network("cc4", "front", labels={"tier": "web", "x": ""}),
    _network("dd5", "aa1x"),
]


@pytest.mark.parametrize(
    ("name", "expected"), [("bridge", "bridge"), ("bb3", "none"), ("bb", "none"), ("aa1", "bridge"), ("aa1x", "aa1x")]
)
def test_a_network_is_found_by_id_name_or_prefix(name: str, expected: str) -> None:
    assert listing.resolve(NETWORKS, name).name == expected


def test_a_network_that_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"^network nope not found$"):
        listing.resolve(NETWORKS, "nope")
    with pytest.raises(NotFound):
        listing.resolve(NETWORKS, "")
    with pytest.raises(InvalidParameter, match="network aa is ambiguous"):
        listing.resolve(NETWORKS, "aa")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "bridge host none front aa1x"),
        ({"driver": ["bridge"]}, "bridge front aa1x"),
        ({"driver": ["host", "null"]}, "host none"),
        ({"name": ["o"]}, "host none front"),
        ({"id": ["aa"]}, "bridge host"),
        ({"type": ["custom"]}, "front aa1x"),
        ({"type": ["builtin"], "driver": ["host"]}, "host"),
        ({"scope": ["local"]}, "bridge host none front aa1x"),
        ({"scope": ["swarm"]}, ""),
        ({"label": ["tier"]}, "front"),
        ({"label": ["tier=web", "x"]}, "front"),
        ({"label": ["tier=db"]}, ""),
        ({"dangling": ["true"]}, "aa1x"),
        ({"dangling": ["0"]}, "bridge host none front"),
    ],
)
def test_filters(filters: dict[str, list[str]], expected: str) -> None:
    assert " ".join(n.name for n in listing.choose(NETWORKS, filters, used={"cc4"})) == expected


@pytest.mark.parametrize("filters", [{"foo": ["x"]}, {"type": ["x"]}, {"dangling": ["x"]}, {"dangling": ["1", "0"]}])
def test_filters_that_cannot_be(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter):
        listing.choose(NETWORKS, filters, set())


def _endpoint(**fields: object) -> Endpoint:
    values: dict[str, object] = {
        "id": "e",
        "network_id": "n",
        "network": "bridge",
        "driver": "bridge",
        "container_id": "c",
        "container_name": "web",
        "generation": 3,
        **fields,
    }
    return Endpoint(**values)  # type: ignore[arg-type]


def test_an_endpoint_survives_the_database() -> None:
    endpoint = _endpoint(
        address="172.17.0.2",
        published=[Published("tcp", "0.0.0.0", 8080, 80)],
        links=[Link("172.17.0.3", (("tcp", 80), ("udp", 53)))],
        exposed=["80/tcp"],
    )
    assert Endpoint.from_row(endpoint.to_row()) == endpoint


def test_ports_of_inspect() -> None:
    ports = [Published("tcp", "0.0.0.0", 8080, 80), Published("tcp", "127.0.0.1", 8081, 80)]
    endpoint = _endpoint(address="172.17.0.2", exposed=["80/tcp", "99/tcp"], published=ports)
    assert endpoint.ports_to_docker() == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "8081"}],
        "99/tcp": None,
    }
    assert _endpoint(exposed=["80/tcp"]).ports_to_docker() == {}


def test_containers_are_shown_under_their_present_name() -> None:
    endpoint = _endpoint(address="172.17.0.2", prefix_length=16, mac_address="02:42:ac:11:00:02")
    shown = listing.containers([endpoint], lambda _: "renamed")["c"]
    assert shown == {
        "Name": "renamed",
        "EndpointID": "e",
        "MacAddress": "02:42:ac:11:00:02",
        "IPv4Address": "172.17.0.2/16",
        "IPv6Address": "",
    }
    assert listing.containers([_endpoint()], None)["c"]["IPv4Address"] == ""


@given(st.dictionaries(st.integers(1, 200), st.binary(max_size=40), max_size=10))
def test_attributes_round_trip(values: dict[int, bytes]) -> None:
    packed = b"".join(netlink.attribute(kind, value) for kind, value in values.items())
    assert len(packed) % 4 == 0
    assert netlink.attributes(packed, 0) == values


@given(st.binary(max_size=200))
def test_attributes_of_anything_end(data: bytes) -> None:
    netlink.attributes(data, 0)


def test_the_address_message_has_the_kernels_layout() -> None:
    _, _, kind, _, body = netlink.new_address(7, b"\x0a\0\0\2", 24, b"\x0a\0\0\xff", "10.0.0.2")
    assert kind == 20
    assert struct.unpack_from("=BBBBI", body) == (socket.AF_INET, 24, 0, 0, 7)
    assert netlink.attributes(body, 8) == {1: b"\x0a\0\0\2", 2: b"\x0a\0\0\2", 4: b"\x0a\0\0\xff"}
