"""A container's settings: Docker's defaults filled in, checked against its rules and this host, refused by name when
this engine does not honour them.

`adapt` and `verify` run at create and for a HostConfig with a start (`startbody`); `verify_start` repeats what may have
changed meanwhile.
"""

from __future__ import annotations

import ipaddress
import posixpath
from typing import TYPE_CHECKING

from boxwright.engine import hostinfo, limit, logdest, mountspec, resources, security, signals
from boxwright.errdefs import InvalidParameter, NotImplemented_
from boxwright.logger import validation as log_options
from boxwright.logger.options import flag as log_flag
from boxwright.network import options as network_options
from boxwright.types.container import ContainerConfig, HealthConfig, HostConfig, LogConfig, RestartPolicy
from boxwright.types.network import EndpointSettings, NetworkingConfig

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

_MILLISECOND = 1_000_000
_MAX_RETRY = "invalid restart policy: maximum retry count"


def adapt(eng: Engine, config: ContainerConfig, host_config: HostConfig) -> None:
    """Fill in the defaults that Docker fills in, and turn `container:NAME` into `container:ID`; changes its arguments.

    Raises InvalidParameter for a container that a mode names and that does not exist.
    """
    host = hostinfo.host()
    resources.adapt(host_config)
    # Config.NetworkDisabled: whatever the mode, a network namespace of its own with lo and nothing else.
    host_config.network_mode = "none" if config.network_disabled else host_config.network_mode or "default"
    host_config.restart_policy = RestartPolicy(
        name=host_config.restart_policy.name or "no",
        maximum_retry_count=host_config.restart_policy.maximum_retry_count,
    )
    host_config.shm_size = host_config.shm_size or eng.config.default_shm_size
    host_config.ipc_mode = host_config.ipc_mode or eng.config.default_ipc_mode
    host_config.runtime = host_config.runtime or eng.config.default_runtime
    if not host_config.cgroupns_mode:
        private = host.cgroup_version == "2"
        host_config.cgroupns_mode = eng.config.default_cgroupns_mode or ("private" if private else "host")
    if host_config.oom_kill_disable is None and host.oom_kill_disable:
        host_config.oom_kill_disable = False
    for field in ("network_mode", "ipc_mode", "pid_mode"):
        kind, colon, target = getattr(host_config, field).partition(":")
        if kind == "container" and colon and target:
            found = eng.store.find(target)
            if found is None and field != "network_mode":
                # Docker reports these two at create, as a wrong parameter; the network's partner at start.
                raise InvalidParameter(f"No such container: {target}")
            setattr(host_config, field, f"container:{found.id if found else target}")
    _adapt_log(eng, host_config)
    if config.working_dir:
        config.working_dir = posixpath.normpath(config.working_dir)


def _adapt_log(eng: Engine, host_config: HostConfig) -> None:
    wanted = host_config.log_config
    driver = wanted.type or eng.config.log_driver
    options = dict(wanted.config or {})
    if driver == eng.config.log_driver and driver != "none":
        options = eng.config.log_opts | options
    host_config.log_config = LogConfig(type=driver, config=options)


def verify(eng: Engine, config: ContainerConfig, host_config: HostConfig) -> list[str]:
    """Check a container's settings and return warnings; discards what the kernel cannot do.

    Raises InvalidParameter with Docker's texts, NotImplemented_ for fields that are not honoured here.
    """
    _verify_config(config)
    host_config.timeout = limit.seconds(config, host_config)
    _verify_modes(host_config, config)
    _verify_host_config(eng, host_config)
    _refuse_unsupported(host_config)
    warnings = resources.verify(host_config, hostinfo.host())
    networked = host_config.network_mode not in ("host", "none")
    if networked and not eng.config.ip_forward and not hostinfo.ip_forwarding():
        warnings.append("IPv4 forwarding is disabled. Networking will not work.")
    if host_config.network_mode == "host" and host_config.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    log = host_config.log_config
    if log.type == "journald" and log_flag(log.config or {}, "cache-disabled", False):
        warnings.append("cache-disabled has no effect with journald: its log is read from the cache, which is kept.")
    return warnings


def verify_networking(networking: NetworkingConfig | None) -> dict[str, EndpointSettings]:
    """The wishes by network name; raises InvalidParameter and NotImplemented_ for what a network cannot do."""
    wishes = {
        name: endpoint or EndpointSettings()
        for name, endpoint in ((networking and networking.endpoints_config) or {}).items()
    }
    for name, endpoint in wishes.items():
        ipam = endpoint.ipam_config
        if name in ("default", "bridge", "host", "none"):
            if ipam and (ipam.ipv4_address or ipam.ipv6_address):
                raise InvalidParameter("user specified IP address is supported on user defined networks only")
            if endpoint.aliases:
                raise InvalidParameter("network-scoped alias is supported only for containers in user defined networks")
        refused = {
            "IPAMConfig.IPv6Address": ipam and ipam.ipv6_address,
            "IPAMConfig.LinkLocalIPs": ipam and ipam.link_local_ips,
            "Links": endpoint.links,
            "DriverOpts": endpoint.driver_opts,
        }
        for field, value in refused.items():
            if value:
                raise NotImplemented_(f"NetworkingConfig.EndpointsConfig.{field} is not supported by this engine yet")
        if endpoint.mac_address:
            network_options.parse_mac(endpoint.mac_address)
    return wishes


def verify_start(eng: Engine, container: Container) -> list[str]:
    """What may have changed since create: the kernel's abilities, the runtime.  Raises InvalidParameter."""
    eng.driver_of(container)
    return resources.verify(resources.copy(container.host_config), hostinfo.host())


def _verify_config(config: ContainerConfig) -> None:
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        signals.parse(config.stop_signal)
    for variable in config.env or ():
        if not variable.partition("=")[0] or "\0" in variable:
            raise InvalidParameter(f"invalid environment variable: {variable}")
    for text in (*(config.cmd or ()), *(config.entrypoint or ()), config.user):
        if "\0" in text:
            raise InvalidParameter("a NUL byte is in the container's configuration")
    # They are written into hosts files, of linked containers too.
    for text in (config.hostname, config.domainname):
        if not _one_word(text):
            raise InvalidParameter(f"invalid hostname format: {text}")
    for port in config.exposed_ports or ():
        network_options.parse_port(port)
    if config.healthcheck:
        _verify_healthcheck(config.healthcheck)


def _verify_healthcheck(check: HealthConfig) -> None:
    for name in ("Interval", "Timeout", "StartPeriod", "StartInterval"):
        field = {"StartPeriod": "start_period", "StartInterval": "start_interval"}.get(name, name.lower())
        if 0 != getattr(check, field) < _MILLISECOND:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


def _verify_modes(host_config: HostConfig, config: ContainerConfig) -> None:
    network_options.verify(host_config, config)
    for field, kinds, what in (
        ("ipc_mode", ("none", "host", "private", "shareable", "container"), "IPC mode"),
        ("pid_mode", ("host", "container"), "PID mode"),
        ("uts_mode", ("host",), "UTS mode"),
        ("userns_mode", ("host",), "user namespace mode"),
        ("cgroupns_mode", ("private", "host"), "cgroup namespace mode"),
    ):
        mode = getattr(host_config, field)
        kind, colon, target = mode.partition(":")
        if mode and (kind not in kinds or bool(colon) != (kind == "container") or (colon and not target)):
            raise InvalidParameter(f"invalid {what}: {mode}")
    if host_config.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if host_config.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation: \"{host_config.isolation}\" - linux only supports 'default'")


def _verify_host_config(eng: Engine, host_config: HostConfig) -> None:
    verify_restart(host_config)
    _verify_log(host_config.log_config)
    for host in host_config.extra_hosts or ():
        _verify_extra_host(host)
    _verify_dns(host_config)
    _verify_ports(eng, host_config)
    host_config.cap_add = _capabilities("CapAdd", host_config.cap_add)
    host_config.cap_drop = _capabilities("CapDrop", host_config.cap_drop)
    _verify_security(security.parse_options(host_config.security_opt or ()))
    if not -1000 <= host_config.oom_score_adj <= 1000:
        raise InvalidParameter(f"Invalid value {host_config.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host_config.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if host_config.runtime not in eng.drivers:
        raise InvalidParameter(f"unknown or invalid runtime name: {host_config.runtime}")
    if "" in (host_config.annotations or {}):
        raise InvalidParameter("invalid Annotations: the empty string is not permitted as an annotation key")
    for destination, options in (host_config.tmpfs or {}).items():
        mountspec.check_tmpfs_destination(destination)
        mountspec.tmpfs_options(options)
    if ".." in host_config.cgroup_parent.split("/"):
        raise InvalidParameter(f"invalid cgroup parent: {host_config.cgroup_parent}")
    for ulimit in host_config.ulimits or ():
        _verify_ulimit(ulimit.name, ulimit.soft, ulimit.hard)
    for rule in host_config.device_cgroup_rules or ():
        device_rule(rule)


def _capabilities(field: str, names: list[str] | None) -> list[str] | None:
    return names if names is None else security.normalise(field, names)


def verify_restart(host_config: HostConfig) -> None:
    """Check the restart policy, also beside auto-removal; raises InvalidParameter."""
    policy = host_config.restart_policy
    if policy.name not in ("no", "always", "on-failure", "unless-stopped"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.name == "on-failure":
        if policy.maximum_retry_count < 0:
            raise InvalidParameter(f"{_MAX_RETRY} cannot be negative")
    elif policy.maximum_retry_count:
        negative = " and cannot be negative" if policy.maximum_retry_count < 0 else ""
        raise InvalidParameter(f"{_MAX_RETRY} can only be used with 'on-failure'{negative}")
    if host_config.auto_remove and policy.name != "no":
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def _verify_log(log: LogConfig) -> None:
    log_options.validate(log.type, log.config or {})
    logdest.validate_templates(log.config or {})


def _verify_extra_host(text: str) -> None:
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    if not found or not name or not _one_word(name):
        raise InvalidParameter(f'bad format for add-host: "{text}"')
    if address == "host-gateway":
        return
    try:
        ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        raise InvalidParameter(f'invalid IP address in add-host: "{address}"') from None


def _verify_dns(host_config: HostConfig) -> None:
    for server in host_config.dns or ():
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise InvalidParameter(f"{server} is not an ip address") from None
    for text in (*(host_config.dns_search or ()), *(host_config.dns_options or ())):
        if not _one_word(text):
            raise InvalidParameter(f"invalid DNS setting: {text}")


def _one_word(text: str) -> bool:
    """Whether a text can be one word of a line: no space, no control character."""
    return not any(character.isspace() or ord(character) < 32 for character in text)


def _verify_ports(eng: Engine, host_config: HostConfig) -> None:
    for port, bindings in (host_config.port_bindings or {}).items():
        network_options.bindings({port: bindings}, (), False, "0.0.0.0", eng.config.userland_proxy)


def _verify_security(options: security.SecurityOptions) -> None:
    if options.writable_cgroups:
        raise NotImplemented_("HostConfig.SecurityOpt: writable-cgroups is not supported by this engine yet")
    if options.apparmor not in (None, "", "unconfined") and hostinfo.apparmor():
        text = "AppArmor profiles are not supported by this engine yet"
        raise NotImplemented_(f"HostConfig.SecurityOpt: apparmor={options.apparmor}: {text}")


def _verify_ulimit(name: str, soft: int, hard: int) -> None:
    if name not in ULIMITS:
        raise InvalidParameter(f"invalid ulimit type: {name}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidParameter(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")


ULIMITS = {
    name: f"RLIMIT_{name.upper()}"
    for name in (
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
        "rttime", "sigpending", "stack",
    )
}  # fmt: skip


def device_rule(text: str) -> dict[str, object]:
    """`--device-cgroup-rule` "c 1:* rwm" → the OCI rule; raises InvalidParameter."""
    parts = text.split(" ")
    numbers = parts[1].split(":") if len(parts) == 3 else []
    valid = (
        len(numbers) == 2
        and parts[0] in ("a", "b", "c")
        and all(n == "*" or (n.isascii() and n.isdecimal() and len(n) < 10) for n in numbers)
        and parts[2]
        and set(parts[2]) <= set("rwm")
    )
    if not valid:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    major, minor = (-1 if n == "*" else int(n) for n in numbers)
    return {"allow": True, "type": parts[0], "major": major, "minor": minor, "access": parts[2]}


def _refuse_unsupported(host_config: HostConfig) -> None:
    """Fields that Docker honours and this engine does not yet: by name, never ignored."""
    refused = {
        "HostConfig.DeviceRequests": host_config.device_requests,
        "HostConfig.Cgroup": host_config.cgroup,
        "HostConfig.CpuCount": host_config.cpu_count,
        "HostConfig.StorageOpt (--storage-opt)": host_config.storage_opt,
    }
    for name, value in refused.items():
        if value:
            raise NotImplemented_(f"{name} is not supported by this engine yet")
