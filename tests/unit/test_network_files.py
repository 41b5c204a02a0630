"""The texts of /etc/hosts and /etc/resolv.conf, compared with what dockerd writes."""

from pathlib import Path

import pytest

from boxwright.errdefs import InvalidParameter
from boxwright.network import files

BASE = (
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)


def test_hosts() -> None:
    extra = [("1.2.3.4", "a"), ("172.17.0.3", "db dbhost dbname")]
    text = files.hosts("h", addresses=["172.17.0.2"], extra=extra)
    assert text == BASE + "1.2.3.4\ta\n172.17.0.3\tdb dbhost dbname\n172.17.0.2\th\n"
    assert files.hosts("h", "x.y", ["172.17.0.2"]) == BASE + "172.17.0.2\th.x.y h\n"
    assert files.hosts("h.x", addresses=["172.17.0.2"]) == BASE + "172.17.0.2\th.x h\n"
    assert files.hosts("h.x", "y.z", ["172.17.0.2"]) == BASE + "172.17.0.2\th.x.y.z h\n"
    assert files.hosts("h") == BASE
    assert files.hosts("h", host_copy=b"127.0.0.1 vm", extra=[("1.1.1.1", "a")]) == "127.0.0.1 vm\n1.1.1.1\ta\n"


def test_extra_hosts() -> None:
    entries = ["a:1.2.3.4", "g:host-gateway", "six:::1", "s=2001:db8::1", "t=[::2]"]
    assert files.extra_hosts(entries, "172.17.0.1") == [
        ("1.2.3.4", "a"),
        ("172.17.0.1", "g"),
        ("::1", "six"),
        ("2001:db8::1", "s"),
        ("::2", "t"),
    ]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("foo", 'bad format for add-host: "foo"'),
        (":1.1.1.1", 'bad format for add-host: ":1.1.1.1"'),
        ("foo:bar", 'invalid IP address in add-host: "bar"'),
        ("g:host-gateway", "unable to derive the IP value for host-gateway"),
        # A line break would write lines of the client's choice.
        ("a\n6.6.6.6 b:1.1.1.1", "bad format for add-host"),
    ],
)
def test_extra_hosts_that_cannot_be(entry: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        files.extra_hosts([entry], "")
    assert str(refused.value).startswith(text)


HOST = "# made by someone\nnameserver 127.0.0.53\nnameserver 10.0.0.1 # office\nnameserver ::1\nsearch a.b c\noptions ndots:3\n"


@pytest.mark.parametrize(
    ("host", "settings", "expected"),
    [
        (HOST, {}, "nameserver 10.0.0.1\nsearch a.b c\noptions ndots:3\n"),
        ("nameserver 127.0.0.1\n", {}, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ("", {}, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        (HOST, {"dns": ["9.9.9.9"]}, "nameserver 9.9.9.9\nsearch a.b c\noptions ndots:3\n"),
        (HOST, {"search": ["x"], "options": ["rotate"]}, "nameserver 10.0.0.1\nsearch x\noptions rotate\n"),
        (HOST, {"search": ["."]}, "nameserver 10.0.0.1\noptions ndots:3\n"),
        ("domain d\nnameserver fe80::1%eth0\n", {}, "nameserver fe80::1%eth0\nsearch d\n"),
        ("nameserver evil;x\nnameserver\nnameserver 1.1.1.1", {}, "nameserver 1.1.1.1\n"),
    ],
)
def test_resolv_conf(host: str, settings: dict[str, list[str]], expected: str) -> None:
    assert files.resolv_conf(host, **settings) == expected


def test_resolv_conf_in_host_mode_keeps_loopback_servers() -> None:
    assert files.host_mode_resolv_conf(HOST) == HOST
    assert files.host_mode_resolv_conf(HOST, search=["x"]).startswith("nameserver 127.0.0.53\n")


def test_host_resolv_conf_looks_behind_the_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, stub = tmp_path / "real", tmp_path / "stub"
    real.write_text("nameserver 10.0.0.2\n")
    stub.write_text("nameserver 127.0.0.53\n")
    monkeypatch.setattr(files, "_RESOLVED", str(real))
    assert files.host_resolv_conf(str(stub)) == "nameserver 10.0.0.2\n"
    assert files.host_resolv_conf(str(tmp_path / "missing")) == ""
