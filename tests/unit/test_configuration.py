"""daemon.json and flags: dockerd's rules and texts."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from boxwright import config
from boxwright.cli import configuration, reloading
from boxwright.cli.serve import serve
from boxwright.errdefs import InvalidParameter
from boxwright.events.bus import Bus


def written(directory: Path, document: Any) -> str:
    path = directory / "daemon.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def validate(*arguments: str) -> tuple[int, str]:
    ran = CliRunner().invoke(serve, ["--validate", *arguments])
    return ran.exit_code, ran.output


def test_what_dockerd_takes(tmp_path: Path) -> None:
    document = {
        "debug": True, "labels": ["a=b"], "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 5, "Hard": 6}},
        "default-shm-size": "128M", "dns": ["192.0.2.53"], "dns-search": ["example.org"], "dns-opts": ["ndots:2"],
        "log-driver": "json-file", "log-opts": {"max-size": "10m"}, "hosts": ["unix:///tmp/x.sock"], "mtu": 1400,
        "default-address-pools": [{"base": "10.9.0.0/16", "size": 24}], "icc": False, "ip": "127.0.0.1", "init": True,
        "exec-opts": ["native.cgroupdriver=cgroupfs"], "live-restore": True, "shutdown-timeout": 3,
        "default-cgroupns-mode": "private", "default-ipc-mode": "shareable", "no-new-privileges": True,
        "registry-mirrors": ["https://mirror.example", "ghcr.io=https://mirror.example/ghcr"],
        "insecure-registries": ["registry.lan:5000", "10.0.0.0/8"], "max-concurrent-downloads": 4,
    }  # fmt: skip
    path = written(tmp_path, document)
    assert validate("--config-file", path) == (0, "configuration OK\n")
    settings = configuration.combined(path, {})
    assert (settings.log_level, settings.default_shm_size) == ("debug", 128 << 20)
    assert settings.default_ulimits["nofile"].hard == 6


def test_an_empty_file_is_one(tmp_path: Path) -> None:
    assert validate("--config-file", written(tmp_path, ""))[0] == 0


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"debgu": True, "zzz": 1}, "the following directives don't match any configuration option: debgu, zzz"),
        ("{", "unable to configure the engine with file"),
        ("[]", "unable to configure the engine with file"),
        ({"mtu": "big"}, "$.mtu"),
        ({"mtu": -1}, "invalid mtu: -1"),
        ({"registry-mirrors": ["mirror.example"]}, "invalid mirror"),
        ({"insecure-registries": ["http://registry.lan"]}, "insecure registry http://registry.lan should not contain"),
        ({"max-concurrent-downloads": 0}, "invalid max-concurrent-downloads: 0"),
        ({"default-shm-size": "many"}, "invalid size: 'many'"),
        ({"default-shm-size": 0}, "invalid default-shm-size: 0"),
        ({"required-signatures": {"a:1": []}}, "'a:1' is not a repository, REGISTRY/PATH/* or *: it has a tag"),
        (
            {"required-signatures": {"team/*": ["k"]}},
            "'team/*' is not a repository, REGISTRY/PATH/* or *: begin it with",
        ),
        ({"required-signatures": {"*/a": ["k"]}}, "invalid reference format"),
        ({"required-signatures": {"*": []}}, "at least one public key is needed"),
        ({"required-signatures": {"*": ["/nonexistent"]}}, "the key /nonexistent cannot be read: No such file"),
        ({"required-signatures": {"*": ["/proc/self/status"]}}, "/proc/self/status is no public key in PEM"),
        ({"dns": ["nowhere"]}, "IP address is not correctly formatted: nowhere"),
        ({"dns-search": ["a b"]}, "a b is not a valid domain"),
        ({"ip": "x"}, "invalid ip"),
        ({"bip": "x"}, "invalid bip"),
        ({"labels": ["plain"]}, "bad attribute format: plain"),
        ({"labels": ["a=1", "a=2"]}, "conflict labels for a=2 and a=1"),
        ({"log-level": "loud"}, "unknown log level: loud"),
        ({"default-ipc-mode": "host"}, "invalid default-ipc-mode: 'host'"),
        ({"default-cgroupns-mode": "x"}, "invalid default-cgroupns-mode: 'x'"),
        ({"exec-opts": ["native.cgroupdriver=systemd"]}, "cgroupfs is the driver that this engine has"),
        ({"exec-opts": ["isolation=x"]}, "Unknown option: isolation=x"),
        ({"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 9, "Hard": 6}}}, "soft limit must be less"),
        ({"tlsverify": True, "tlscert": "/nonexistent", "tlskey": "/nonexistent"}, "could not load X509 key pair"),
        ({"authorization-plugins": ["../x"]}, "invalid authorization plugin: '../x'"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, document: Any, said: str) -> None:
    code, output = validate("--config-file", written(tmp_path, document))
    assert code == 1
    assert said in output


@pytest.mark.parametrize(
    ("flags", "document", "said"),
    [
        (["--label", "x=y"], {"labels": ["a=b"]}, "labels: (from flag: [x=y], from file: [a=b])"),
        (["--debug"], {"debug": False}, "debug: (from flag: true, from file: false)"),
        (["-H", "unix:///a"], {"hosts": ["unix:///b"]}, "hosts: (from flag: [unix:///a], from file: [unix:///b])"),
        (["--log-opt", "max-size=1m"], {"log-opts": {}}, "log-opts: (from flag: [max-size=1m]"),
        (["--tls=false"], {"tls": True}, "tls: (from flag: false, from file: true)"),
    ],
)
def test_a_directive_comes_from_one_place(tmp_path: Path, flags: list[str], document: Any, said: str) -> None:
    code, output = validate("--config-file", written(tmp_path, document), *flags)
    assert code == 1
    assert "the following directives are specified both as a flag and in the configuration file: " + said in output


def test_tls_has_dockerds_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certs")
    settings = configuration.combined(written(tmp_path, {}), {"tlsverify": True})
    assert settings.tls and (settings.tlscacert, settings.tlscert, settings.tlskey) == (
        "/certs/ca.pem", "/certs/cert.pem", "/certs/key.pem",
    )  # fmt: skip


@given(st.integers(0, 1 << 30), st.sampled_from(["", "b", "k", "KB", "m", "MiB", "G", "gb", "t"]))
def test_sizes(number: int, unit: str) -> None:
    factor = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[unit[:1].lower()]
    assert config.size(f"{number}{unit}") == number * factor


@given(st.text(max_size=8))
def test_a_size_is_a_number_or_refused(text: str) -> None:
    try:
        assert config.size(text) >= 0
    except InvalidParameter:
        pass


class Reloaded:
    """As much of an engine as `reload` touches."""

    def __init__(self, settings: config.Settings) -> None:
        self.config, self.bus, self.id = settings, Bus(), "engine-id"


def test_a_reload_changes_what_may_change(tmp_path: Path) -> None:
    path = written(tmp_path, {"labels": ["a=1"], "mtu": 1400})
    engine = Reloaded(configuration.combined(path, {}))
    written(tmp_path, {"labels": ["a=2"], "mtu": 1500, "debug": True, "log-opts": {"max-size": "1m"}})
    assert reloading.reload(engine, lambda: configuration.combined(path, {}))  # type: ignore[arg-type]
    assert engine.config.labels == ["a=2"] and engine.config.log_opts == {"max-size": "1m"}
    assert engine.config.mtu == 1400
    [event] = engine.bus.recent()
    assert (event["Type"], event["Action"], event["Actor"]["ID"]) == ("daemon", "reload", "engine-id")
    assert event["Actor"]["Attributes"]["labels"] == '["a=2"]' and event["Actor"]["Attributes"]["debug"] == "true"


def test_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, {"labels": ["a=1"]})
    engine = Reloaded(configuration.combined(path, {}))
    written(tmp_path, {"labels": ["a=2"], "dns": ["nowhere"]})
    assert not reloading.reload(engine, lambda: configuration.combined(path, {}))  # type: ignore[arg-type]
    assert engine.config.labels == ["a=1"] and not engine.bus.recent()
