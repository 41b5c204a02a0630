"""The engine's settings: one value, read once, from a daemon.json-like file and from flags.

Field names are Docker's daemon.json keys with `_` for `-`, so `--default-address-pool`, `"default-address-pools"` and
`Settings.default_address_pools` are one thing.  Sizes are bytes, times are seconds.
"""

import os
import re
from typing import Any

import msgspec

from boxwright.errdefs import InvalidParameter


class AddressPool(msgspec.Struct, forbid_unknown_fields=True):
    """From `base` (a CIDR block) subnets with a prefix of `size` bits are given to new networks."""

    base: str
    size: int


class Ulimit(msgspec.Struct, rename="pascal", forbid_unknown_fields=True):
    """A resource limit that every container gets unless it names its own; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class Runtime(msgspec.Struct, forbid_unknown_fields=True):
    """An external OCI runtime: the program and the arguments that precede the runtime's verb."""

    path: str
    runtime_args: list[str] = msgspec.field(default_factory=list, name="runtimeArgs")


class Settings(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    """Everything that `boxwright serve` can be told.  Unknown keys are refused, so a typing error is seen."""

    data_root: str = "/var/lib/boxwright"
    exec_root: str = "/run/boxwright"
    hosts: list[str] = msgspec.field(default_factory=list)
    group: str = "docker"
    pidfile: str = ""
    log_level: str = "info"
    log_format: str = "text"  # of the engine's own log; or "json"
    metrics_addr: str = ""  # "": metrics are served by the API only
    debug: bool = False  # log_level debug
    live_restore: bool = True  # accepted: it is how this engine works
    authorization_plugins: list[str] = msgspec.field(default_factory=list)
    experimental: bool = False  # offer what dockerd calls so: `docker build --squash`
    labels: list[str] = msgspec.field(default_factory=list)

    # None: not said.  False, said aloud, is dockerd's way to force plain TCP to other machines.
    tls: bool | None = None
    tlsverify: bool | None = None
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""

    storage_driver: str = ""  # "": overlay where the kernel has it, vfs otherwise
    hostfs: bool = False  # the virtual image of this machine's own root: off on a shared engine
    volatile: bool = False  # skip the sync of a writable layer's file system for every container (rule 6)

    # Of "[REGISTRY=]http[s]://HOST": asked first; one that names no registry is Docker Hub's.
    registry_mirrors: list[str] = msgspec.field(default_factory=list)
    insecure_registries: list[str] = msgspec.field(default_factory=list)  # hosts and CIDR blocks
    registry_certs: list[str] = msgspec.field(  # directories in the form of Docker's certs.d
        default_factory=lambda: ["/etc/boxwright/certs.d", "/etc/docker/certs.d"]
    )
    # Repository, "registry/path/*" or "*" → files of public keys, one of which has to have signed what is pulled.
    required_signatures: dict[str, list[str]] = msgspec.field(default_factory=dict)
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5  # in a row without a byte

    bridge: str = "boxwright0"
    bip: str = ""  # "": the first free block of default_address_pools
    fixed_cidr: str = ""
    default_gateway: str = ""
    default_address_pools: list[AddressPool] = msgspec.field(
        default_factory=lambda: [AddressPool("172.17.0.0/12", 16), AddressPool("192.168.0.0/16", 20)]
    )
    mtu: int = 0  # 0: the kernel's default, 1500
    icc: bool = True
    ip: str = "0.0.0.0"  # host address of published ports that name none
    ip_forward: bool = True
    ip_masq: bool = True
    iptables: bool = True  # the key's old name; it switches our nftables rules
    userland_proxy: bool = True  # relays for published ports on IPv6
    dns: list[str] = msgspec.field(default_factory=list)
    dns_search: list[str] = msgspec.field(default_factory=list)
    dns_opts: list[str] = msgspec.field(default_factory=list)
    host_gateway_ips: list[str] = msgspec.field(default_factory=list)

    runtimes: dict[str, Runtime] = msgspec.field(default_factory=dict)
    default_runtime: str = "boxwright"
    cgroup_parent: str = ""  # "": /boxwright-<instance>
    exec_opts: list[str] = msgspec.field(default_factory=list)  # native.cgroupdriver=cgroupfs|systemd
    init: bool = False
    no_new_privileges: bool = False
    seccomp_profile: str = ""  # "": the built-in policy; "unconfined"; or a profile's path
    default_ulimits: dict[str, Ulimit] = msgspec.field(default_factory=dict)
    default_shm_size: int = 64 << 20
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""  # "": private on cgroup v2, host on v1, as Docker
    log_driver: str = "json-file"
    log_opts: dict[str, str] = msgspec.field(default_factory=dict)
    shutdown_timeout: int = 15

    def path(self, *names: str) -> str:
        """A path below the data root."""
        return os.path.join(self.data_root, *names)

    def run_path(self, *names: str) -> str:
        """A path below the run directory."""
        return os.path.join(self.exec_root, *names)


# dockerd's units are powers of 1024.
_SIZE = re.compile(r"([0-9]+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def size(text: str) -> int:
    """Bytes of "64M", "1g", "1048576"; raises InvalidParameter."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(found[1]) << (10 * " kmgt".index(found[2].lower() or " "))


def read(path: str) -> dict[str, Any]:
    """The keys of a settings file, all of them known; raises InvalidParameter that names the file and the keys."""
    try:
        with open(path, "rb") as file:
            text = file.read(1 << 20)
    except OSError as error:
        raise InvalidParameter(f"unable to read the configuration file {path}: {error.strerror}") from error
    try:
        document = msgspec.json.decode(text, type=dict[str, Any]) if text.strip() else {}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidParameter(f"unable to configure the engine with file {path}: {error}") from error
    if unknown := sorted(document.keys() - set(Settings.__struct_encode_fields__)):
        raise InvalidParameter(
            f"unable to configure the engine with file {path}: the following directives don't match any configuration"
            f" option: {', '.join(unknown)}"
        )
    return document


def settings(document: dict[str, Any], path: str) -> Settings:
    """The settings that the keys of `path` say; raises InvalidParameter that names the file and the key."""
    document = dict(document)
    try:
        if isinstance(shm := document.get("default-shm-size"), str):
            document["default-shm-size"] = size(shm)
        return msgspec.convert(document, Settings)
    except (msgspec.MsgspecError, InvalidParameter) as error:
        raise InvalidParameter(f"unable to configure the engine with file {path}: {error}") from error


def load(path: str) -> Settings:
    """Read a settings file; raises InvalidParameter that names the file and the key."""
    return settings(read(path), path)
