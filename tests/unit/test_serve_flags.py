"""The flags of `boxwright serve` become settings: docker's spellings, over the settings file."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from boxwright.cli import daemon
from boxwright.cli.serve import serve
from boxwright.config import AddressPool, Runtime, Settings, Ulimit


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs `serve` with a daemon that only remembers its settings."""
    seen: list[Settings] = []
    monkeypatch.setattr(daemon, "run", lambda settings, *_: seen.append(settings))
    monkeypatch.setattr("boxwright.cli.serve._execute_launcher", lambda settings: None)
    monkeypatch.setattr("gc.disable", lambda: None)
    nothing = tmp_path / "empty.json"
    nothing.write_text("{}")

    def run(*flags: str, config: Path = nothing) -> Settings:
        result = CliRunner().invoke(serve, ["--config-file", str(config), *flags])
        assert result.exit_code == 0, result.output
        return seen.pop()

    return run


def test_defaults_are_those_of_settings(settings_of) -> None:  # type: ignore[no-untyped-def]
    assert settings_of() == Settings()


def test_flags_and_file_are_joined(settings_of, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "daemon.json"
    path.write_text('{"bridge": "file0", "icc": false}')
    found = settings_of("--data-root", "/flag", "--add-runtime", "b=/b", config=path)
    assert (found.data_root, found.bridge, found.icc) == ("/flag", "file0", False)
    assert found.runtimes == {"b": Runtime(path="/b")}


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--icc=false"], "icc", False),
        (["--no-icc"], "icc", False),
        (["--icc=true"], "icc", True),
        (["--iptables=0"], "iptables", False),
        (["--userland-proxy=false"], "userland_proxy", False),
        (["--no-new-privileges"], "no_new_privileges", True),
        (["--no-new-privileges=false"], "no_new_privileges", False),
        (["-H", "unix:///a", "--host", "tcp://127.0.0.1:1"], "hosts", ["unix:///a", "tcp://127.0.0.1:1"]),
        (["--dns", "1.1.1.1", "--dns", "8.8.8.8"], "dns", ["1.1.1.1", "8.8.8.8"]),
        (["--dns-opt", "ndots:1"], "dns_opts", ["ndots:1"]),
        (["--label", "a=b"], "labels", ["a=b"]),
        (
            ["--registry-mirror", "https://m", "--registry-mirror", "r=http://n"],
            "registry_mirrors",
            ["https://m", "r=http://n"],
        ),
        (["--insecure-registry", "10.0.0.0/8"], "insecure_registries", ["10.0.0.0/8"]),
        (["--registry-certs", "/c"], "registry_certs", ["/c"]),
        (["--max-concurrent-downloads", "7"], "max_concurrent_downloads", 7),
        (["--max-concurrent-uploads", "8"], "max_concurrent_uploads", 8),
        (["--max-download-attempts", "9"], "max_download_attempts", 9),
        (["-D"], "log_level", "debug"),
        (["-l", "warn"], "log_level", "warn"),
        (["-G", "staff"], "group", "staff"),
        (["-s", "vfs"], "storage_driver", "vfs"),
        (["--mtu", "1400"], "mtu", 1400),
        (
            ["--default-address-pool", "base=10.0.0.0/8,size=24"],
            "default_address_pools",
            [AddressPool("10.0.0.0/8", 24)],
        ),
        (["--log-opt", "max-size=1m", "--log-opt", "max-file=2"], "log_opts", {"max-size": "1m", "max-file": "2"}),
        (["--default-ulimit", "nofile=10:20"], "default_ulimits", {"nofile": Ulimit(name="nofile", soft=10, hard=20)}),
        (["--default-ulimit", "nproc=10"], "default_ulimits", {"nproc": Ulimit(name="nproc", soft=10, hard=10)}),
        (["--live-restore"], "icc", True),
        (["--experimental"], "experimental", True),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_flag_is_a_setting(settings_of, flags: list[str], field: str, value: object) -> None:  # type: ignore[no-untyped-def]
    assert getattr(settings_of(*flags), field) == value
