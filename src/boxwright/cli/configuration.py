"""What the engine is told: the settings file and the flags as one value, by dockerd's rules.

A directive comes from the file or from a flag, never from both: nobody can say which of two was meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_interface
from typing import Any

import click

from boxwright import config
from boxwright.errdefs import InvalidParameter

CONFIG_FILE = "/etc/boxwright/daemon.json"
LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR", "fatal": "CRITICAL"}

# Flag (as click names it) → field of Settings, where the two differ: dockerd's flags are singular, its keys plural.
_FIELDS = {
    "default_address_pool": "default_address_pools",
    "add_runtime": "runtimes",
    "default_ulimit": "default_ulimits",
    "log_opt": "log_opts",
    "registry_mirror": "registry_mirrors",
    "insecure_registry": "insecure_registries",
}
_TRANSFERS = (("max_concurrent_downloads", 1), ("max_concurrent_uploads", 1), ("max_download_attempts", 1))
_LABEL = re.compile(r"[^=\s]+=.*", re.DOTALL)
_DOMAIN = re.compile(r"\.|(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?)+")


def combined(config_file: str | None, flags: dict[str, Any]) -> config.Settings:
    """The settings file (the default one may be missing) and the flags; raises InvalidParameter."""
    path = config_file or CONFIG_FILE
    document = config.read(path) if config_file is not None or os.path.exists(path) else {}
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    _refuse_twice(given, document, path)
    settings = config.settings(document, path)
    for name, value in given.items():
        setattr(settings, _FIELDS.get(name, name), _FROM_FLAG.get(name, _plain)(value))
    if settings.debug:
        settings.log_level = "debug"
    _tls_defaults(settings)
    return settings


def _refuse_twice(given: dict[str, Any], document: dict[str, Any], path: str) -> None:
    keys = dict(zip(config.Settings.__struct_fields__, config.Settings.__struct_encode_fields__, strict=True))
    twice = []
    for name, value in given.items():
        key = keys[_FIELDS.get(name, name)]
        if key in document:
            shown = list(value) if isinstance(value, tuple) else value
            twice.append(f"{key}: (from flag: {_go(shown)}, from file: {_go(document[key])})")
    if twice:
        raise InvalidParameter(
            f"unable to configure the engine with file {path}: the following directives are specified both as a flag"
            f" and in the configuration file: {', '.join(twice)}"
        )


def _go(value: Any) -> str:
    """A value as Go's %v prints it."""
    if isinstance(value, list):
        return f"[{' '.join(_go(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _pools(texts: tuple[str, ...]) -> list[config.AddressPool]:
    found = []
    for text in texts:
        parts = dict(_pair(part, "--default-address-pool") for part in text.split(","))
        if set(parts) != {"base", "size"}:
            raise click.BadParameter(f"{text}: expected base=CIDR,size=BITS", param_hint="--default-address-pool")
        found.append(config.AddressPool(parts["base"], _number(parts["size"])))
    return found


def _runtimes(texts: tuple[str, ...]) -> dict[str, config.Runtime]:
    return {name: config.Runtime(path=path) for name, path in (_pair(text, "--add-runtime") for text in texts)}


def _ulimits(texts: tuple[str, ...]) -> dict[str, config.Ulimit]:
    found = {}
    for name, limit in (_pair(text, "--default-ulimit") for text in texts):
        soft, _, hard = limit.partition(":")
        found[name] = config.Ulimit(name=name, soft=_number(soft), hard=_number(hard or soft))
    return found


def _log_options(texts: tuple[str, ...]) -> dict[str, str]:
    return dict(_pair(text, "--log-opt") for text in texts)


_FROM_FLAG: dict[str, Callable[[Any], Any]] = {
    "default_address_pool": _pools,
    "add_runtime": _runtimes,
    "default_ulimit": _ulimits,
    "log_opt": _log_options,
    "default_shm_size": config.size,
}


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text}: expected NAME=VALUE", param_hint=flag)
    return name, value


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text}: not a number") from None


def _tls_defaults(settings: config.Settings) -> None:
    """As dockerd: --tlsverify turns TLS on, and the files are those of ~/.docker (or $DOCKER_CERT_PATH)."""
    if settings.tlsverify:
        settings.tls = True
    if not settings.tls:
        return
    directory = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    for field, name in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
        if not getattr(settings, field):
            setattr(settings, field, f"{directory}/{name}")


def check(settings: config.Settings) -> None:
    """Raises InvalidParameter, in dockerd's words where it has some, for a value that cannot be."""
    if settings.log_level not in LEVELS:
        raise InvalidParameter(f"unknown log level: {settings.log_level}")
    for name, low in (("mtu", 0), ("shutdown_timeout", -1), ("default_shm_size", 1), *_TRANSFERS):
        if (value := getattr(settings, name)) < low:
            raise InvalidParameter(f"invalid {name.replace('_', '-')}: {value}: at least {low} is needed")
    for name, modes in (
        ("log_format", ("text", "json")),
        ("default_ipc_mode", ("private", "shareable")),
        ("default_cgroupns_mode", ("", "private", "host")),
        ("storage_driver", ("", "overlay", "overlay2", "vfs")),
    ):
        if (mode := getattr(settings, name)) not in modes:
            raise InvalidParameter(
                f"invalid {name.replace('_', '-')}: {mode!r}: one of {', '.join(filter(None, modes))}"
            )
    _check_labels(settings.labels)
    _check_network(settings)
    _check_ulimits(settings.default_ulimits)
    _check_exec_options(settings.exec_opts)
    _check_registries(settings)
    for plugin in settings.authorization_plugins:
        if not plugin or "/" in plugin:
            raise InvalidParameter(f"invalid authorization plugin: {plugin!r}")
    if settings.tls:
        from boxwright.api import tls

        tls.context(settings.tlscacert, settings.tlscert, settings.tlskey, bool(settings.tlsverify))


def _check_labels(labels: list[str]) -> None:
    seen: dict[str, str] = {}
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise InvalidParameter(f"bad attribute format: {label}")
        name, _, value = label.partition("=")
        if seen.setdefault(name, value) != value:
            raise InvalidParameter(f"conflict labels for {name}={value} and {name}={seen[name]}")


def _check_network(settings: config.Settings) -> None:
    for server in settings.dns:
        _address(server, "dns")
    for address in settings.host_gateway_ips:
        _address(address, "host-gateway-ip")
    for domain in settings.dns_search:
        if not _DOMAIN.fullmatch(domain) or len(domain) > 255:
            raise InvalidParameter(f"{domain} is not a valid domain")
    _address(settings.ip, "ip")
    if settings.bip:
        if settings.bridge not in ("", config.Settings().bridge) and settings.bridge == "none":
            raise InvalidParameter("--bip needs a bridge, and --bridge=none says that there is none")
        try:
            ip_interface(settings.bip)
        except ValueError as error:
            raise InvalidParameter(f"invalid bip: {settings.bip}: {error}") from error


def _check_registries(settings: config.Settings) -> None:
    # Imported late: it comes with the HTTP client, and most commands check no settings.
    from boxwright.images.distribution import hosts, signatures

    signatures.check(settings.required_signatures)
    for mirror in settings.registry_mirrors:
        hosts.parse_mirror(mirror)
    for registry in settings.insecure_registries:
        hosts.check_insecure(registry)


def _address(text: str, name: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise InvalidParameter(f"invalid {name}: IP address is not correctly formatted: {text}") from None


def _check_ulimits(limits: dict[str, config.Ulimit]) -> None:
    for name, limit in limits.items():
        if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
            raise InvalidParameter(
                f"default-ulimits: {name}: ulimit soft limit must be less than or equal to hard limit:"
                f" {limit.soft} > {limit.hard}"
            )


def _check_exec_options(options: list[str]) -> None:
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name != "native.cgroupdriver":
            raise InvalidParameter(f"Unknown option: {option}: native.cgroupdriver=cgroupfs is known")
        if value != "cgroupfs":
            raise InvalidParameter(f"native.cgroupdriver={value}: cgroupfs is the driver that this engine has")
