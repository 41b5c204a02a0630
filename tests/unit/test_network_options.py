"""Network modes, exposed ports and port bindings, and Docker's words for what cannot be."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.errdefs import Error, InvalidParameter, NotImplemented_
from boxwright.network import options
from boxwright.network.options import Binding
from boxwright.types.network import PortBinding

ANY = "0.0.0.0"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("", ("bridge", "bridge")),
        ("default", ("bridge", "bridge")),
        ("bridge", ("bridge", "bridge")),
        ("host", ("host", "host")),
        ("none", ("none", "none")),
        ("container:abc", ("container", "abc")),
        ("front", ("user", "front")),
    ],
)
def test_network_modes(mode: str, expected: tuple[str, str]) -> None:
    assert options.network_mode(mode) == expected


@pytest.mark.parametrize("mode", ["container", "container:"])
def test_a_container_mode_names_its_container(mode: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid container format"):
        options.network_mode(mode)


def test_exposed_ports_are_expanded_and_sorted() -> None:
    assert options.exposed_ports(["9000-9002/udp", "80", "80/tcp", "22/SCTP"]) == [
        "22/sctp",
        "80/tcp",
        "9000/udp",
        "9001/udp",
        "9002/udp",
    ]


@pytest.mark.parametrize(
    "spec", ["", "x", "0", "80-", "-80", "90-80", "99999", "٨٠", "80/", "80/icmp", "80/tcp/udp", "1e3"]
)
def test_impossible_ports_are_refused(spec: str) -> None:
    with pytest.raises(InvalidParameter):
        options.parse_port(spec)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, [Binding("tcp", 80, ANY, 8080, 8080)]),
        ({"80/tcp": [{"HostPort": ""}]}, [Binding("tcp", 80, ANY, 0, 0)]),
        ({"80": [{"HostPort": "0"}]}, [Binding("tcp", 80, ANY, 0, 0)]),
        ({"80/tcp": [{"HostIp": None, "HostPort": None}]}, [Binding("tcp", 80, ANY, 0, 0)]),
        ({"80/tcp": [{"HostPort": "8000-8010"}]}, [Binding("tcp", 80, ANY, 8000, 8010)]),
        ({"80/tcp": [{"HostIp": "::", "HostPort": "1"}]}, [Binding("tcp", 80, ANY, 1, 1)]),
        ({"80/tcp": None}, []),
        ({"80/tcp": []}, []),
        (
            {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}, {"HostIp": "10.0.0.1", "HostPort": "54"}]},
            [Binding("udp", 53, "127.0.0.1", 53, 53), Binding("udp", 53, "10.0.0.1", 54, 54)],
        ),
        (
            {"81-82/tcp": [{"HostPort": "91"}]},
            [Binding("tcp", 81, ANY, 91, 91), Binding("tcp", 82, ANY, 92, 92)],
        ),
        ({"80/tcp": [PortBinding(host_ip="1.2.3.4", host_port="5")]}, [Binding("tcp", 80, "1.2.3.4", 5, 5)]),
    ],
)
def test_bindings(wanted: dict[str, list[dict[str, str]] | None], expected: list[Binding]) -> None:
    assert options.bindings(wanted, [], False, ANY) == expected


def test_publish_all_leaves_what_is_bound_alone() -> None:
    found = options.bindings({"80/tcp": [{"HostPort": "8080"}]}, ["80/tcp", "443/tcp", "53/udp"], True, "10.1.1.1")
    assert found == [
        Binding("udp", 53, "10.1.1.1", 0, 0),
        Binding("tcp", 80, "10.1.1.1", 8080, 8080),
        Binding("tcp", 443, "10.1.1.1", 0, 0),
    ]


@pytest.mark.parametrize("port", ["x", "80000", "10-5", "1-2-3", "-1", " 1"])
def test_impossible_host_ports_are_refused_in_dockers_words(port: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        options.bindings({"80/tcp": [{"HostPort": port}]}, [], False, ANY)
    assert str(refused.value) == f'invalid port specification: "{port}"'


def test_host_addresses() -> None:
    with pytest.raises(InvalidParameter):
        options.bindings({"80/tcp": [{"HostIp": "localhost", "HostPort": "1"}]}, [], False, ANY)
    with pytest.raises(NotImplemented_, match="IPv6"):
        options.bindings({"80/tcp": [{"HostIp": "::1", "HostPort": "1"}]}, [], False, ANY)


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_is_sent_is_parsed_or_refused(port: str, host_port: str) -> None:
    try:
        found = options.bindings({port: [{"HostPort": host_port}]}, [], False, ANY)
    except Error:
        return
    assert all(0 < b.container_port < 65536 and 0 <= b.host_low <= b.host_high for b in found)


@pytest.mark.parametrize("text", ["02:42:ac:11:00:02", "02-42-AC-11-00-02"])
def test_mac_addresses(text: str) -> None:
    assert options.parse_mac(text) == bytes([2, 0x42, 0xAC, 0x11, 0, 2])


@pytest.mark.parametrize(
    "text", ["zz", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:0:2", "02:42:ac:11:00:+1"]
)
def test_impossible_mac_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid MAC address"):
        options.parse_mac(text)


def _host_config(mode: str, **fields: object) -> SimpleNamespace:
    defaults = dict.fromkeys(("links", "dns", "extra_hosts", "port_bindings", "publish_all_ports"))
    return SimpleNamespace(network_mode=mode, **{**defaults, **fields})


def _config(**fields: object) -> SimpleNamespace:
    defaults = {"hostname": "", "domainname": "", "mac_address": "", "exposed_ports": None}
    return SimpleNamespace(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("host_config", "config", "text"),
    [
        ({}, {"hostname": "x"}, "hostname and the network mode"),
        ({"links": ["a"]}, {}, "container type network can't be used with links"),
        ({"dns": ["1.1.1.1"]}, {}, "dns and the network mode"),
        ({"extra_hosts": ["a:1.1.1.1"]}, {}, "custom host-to-IP mapping and the network mode"),
        ({}, {"mac_address": "02:42:ac:11:00:02"}, "mac-address and the network mode"),
        ({"port_bindings": {"80/tcp": []}}, {}, "port publishing and the container type network mode"),
        ({"publish_all_ports": True}, {}, "port publishing and the container type network mode"),
        ({}, {"exposed_ports": {"80/tcp": {}}}, "port exposing and the container type network mode"),
    ],
)
def test_what_a_shared_network_rules_out(host_config: dict[str, object], config: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidParameter, match=f"conflicting options: {text}"):
        options.verify(_host_config("container:x", **host_config), _config(**config))
    options.verify(_host_config("bridge", **host_config), _config(**config))


def test_host_mode_has_no_links() -> None:
    with pytest.raises(InvalidParameter, match="host type networking can't be used with links"):
        options.verify(_host_config("host", links=["a"]), _config())


@pytest.mark.parametrize(
    ("port", "wanted", "default", "expected"),
    [
        ("80/tcp", {"HostPort": "8080"}, ANY, Binding("tcp", 80, ANY, 8080, 8080, both=True)),
        ("53/udp", {"HostPort": ""}, ANY, Binding("udp", 53, ANY, 0, 0, both=True)),
        ("80/tcp", {"HostIp": ANY, "HostPort": "8080"}, ANY, Binding("tcp", 80, ANY, 8080, 8080)),
        ("80/tcp", {"HostIp": "127.0.0.1", "HostPort": "1"}, ANY, Binding("tcp", 80, "127.0.0.1", 1, 1)),
        ("80/tcp", {"HostIp": "::", "HostPort": "1"}, ANY, Binding("tcp", 80, "::", 1, 1)),
        ("80/tcp", {"HostIp": "0:0::1", "HostPort": "1"}, ANY, Binding("tcp", 80, "::1", 1, 1)),
        ("80/tcp", {"HostIp": "::ffff:127.0.0.1", "HostPort": "1"}, ANY, Binding("tcp", 80, "127.0.0.1", 1, 1)),
        ("80/tcp", {"HostPort": "8080"}, "10.1.1.1", Binding("tcp", 80, "10.1.1.1", 8080, 8080)),
        ("80/sctp", {"HostPort": "8080"}, ANY, Binding("sctp", 80, ANY, 8080, 8080)),
    ],
)
def test_where_ipv6_is_served_too(port: str, wanted: dict[str, str], default: str, expected: Binding) -> None:
    assert options.bindings({port: [wanted]}, [], False, default, True) == [expected]


def test_sctp_is_not_served_on_ipv6() -> None:
    with pytest.raises(NotImplemented_, match="::1"):
        options.bindings({"80/sctp": [{"HostIp": "::1", "HostPort": "1"}]}, [], False, ANY, True)
    assert options.bindings({}, ["80/tcp", "80/sctp"], True, ANY, True) == [
        Binding("sctp", 80, ANY, 0, 0),
        Binding("tcp", 80, ANY, 0, 0, both=True),
    ]
