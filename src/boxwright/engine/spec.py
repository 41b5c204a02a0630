"""HostConfig and Config → the OCI spec of one start, as a plain dict that is encoded once, for the shim.

This is on the start path: what never changes is a constant of this module, shared by all specs and never written to;
the rest is assembled in about 0.1 ms.
"""

from __future__ import annotations

import glob
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from boxwright.engine import mounts, resources, security, settings
from boxwright.errdefs import Conflict
from boxwright.libcontainer import devices as host_devices
from boxwright.libcontainer import validate
from boxwright.linux import capabilities as kernel_capabilities

if TYPE_CHECKING:
    from boxwright.config import Settings
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container
    from boxwright.types.container import ContainerConfig, HostConfig
    from boxwright.types.exec import ExecConfig

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    *sorted(glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle")),
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

_SAFE = ["nosuid", "noexec", "nodev"]
_PROC = {"destination": "/proc", "type": "proc", "source": "proc", "options": _SAFE}
_DEV = {
    "destination": "/dev",
    "type": "tmpfs",
    "source": "tmpfs",
    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
}
_PTS = {
    "destination": "/dev/pts",
    "type": "devpts",
    "source": "devpts",
    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
}
_SYS = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_SAFE, "ro"]}
_SYS_WRITABLE = {**_SYS, "options": _SAFE}
_CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_SAFE, "ro"]}
_CGROUP_WRITABLE = {**_CGROUP, "options": [*_SAFE, "rw"]}
_MQUEUE = {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _SAFE}
_HOST_MQUEUE = {"destination": "/dev/mqueue", "type": "bind", "source": "/dev/mqueue", "options": ["rbind", *_SAFE]}
_HOST_SHM = {"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind", "rprivate"]}

# In its own network namespace a program may bind low ports and ping: nothing of the host is at stake.
_NETWORK_SYSCTLS = {
    name: value
    for name, value in (("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647"))
    if os.path.exists("/proc/sys/" + name.replace(".", "/"))
}


@lru_cache(maxsize=1)
def _available() -> tuple[str, ...]:
    """The capabilities that the engine itself can give."""
    bits = kernel_capabilities.bounding() & kernel_capabilities.permitted()
    return tuple(name for name, number in kernel_capabilities.NUMBERS.items() if bits >> number & 1)


def build(eng: Engine, container: Container, extra_env: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The OCI spec of the next start; `extra_env` is that of links.

    Raises Conflict when a container whose namespace is to be shared does not run, StepError for missing devices,
    InvalidParameter for what would change the host (a sysctl of a shared namespace).
    """
    config, host_config, record = container.config, container.host_config, container.record
    options = security.parse_options(host_config.security_opt or ())
    hostname = _hostname(eng, container)
    nodes, rules = _devices(host_config)
    oci_resources = resources.to_spec(host_config)
    oci_resources["devices"] = rules
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": _process(eng, config, host_config, options, extra_env, hostname),
        "root": {"path": "rootfs", "readonly": host_config.readonly_rootfs},
        "mounts": [
            *record.image_mounts,
            *_mounts(eng, container, options),
            *mounts.to_spec(record, mounts.files_directory(eng, container)),
        ],
        "linux": {
            "cgroupsPath": cgroup_path(eng, container),
            "resources": oci_resources,
            "namespaces": _namespaces(eng, host_config),
            "devices": nodes,
            "sysctl": _sysctls(host_config),
            "maskedPaths": [*(host_config.masked_paths or ()), *record.image_masked],
            "readonlyPaths": host_config.readonly_paths or [],
            "rootfsPropagation": _root_propagation(container),
        },
    }
    if host_config.uts_mode != "host":
        spec["hostname"] = hostname
        if config.domainname:
            spec["domainname"] = config.domainname
    if host_config.annotations:
        spec["annotations"] = host_config.annotations
    validate.check(spec)
    return spec


def _hostname(eng: Engine, container: Container) -> str:
    """Who shares another container's network goes by its name there."""
    mode = container.host_config.network_mode
    if mode.startswith("container:"):
        return _donor(eng, mode, "network").config.hostname
    return container.config.hostname


def _process(
    eng: Engine,
    config: ContainerConfig,
    host_config: HostConfig,
    options: security.SecurityOptions,
    extra_env: list[str] | tuple[str, ...],
    hostname: str,
) -> dict[str, Any]:
    granted = _capabilities(host_config)
    no_new_privileges = options.no_new_privileges
    return {
        "terminal": config.tty,
        "consoleSize": {"height": host_config.console_size[0], "width": host_config.console_size[1]},
        "user": _user(config.user, host_config),
        "args": [*(config.entrypoint or ()), *(config.cmd or ())],
        "env": environment(config, extra_env, hostname),
        "cwd": config.working_dir or "/",
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "rlimits": _rlimits(eng, host_config),
        "noNewPrivileges": eng.config.no_new_privileges if no_new_privileges is None else no_new_privileges,
        "oomScoreAdj": host_config.oom_score_adj,
    }


def _user(user: str, host_config: HostConfig) -> dict[str, Any]:
    groups = host_config.group_add or ()
    return {
        "username": user,
        "additionalGids": [int(g) for g in groups if g.isascii() and g.isdecimal()],
        "additionalGroups": [g for g in groups if not (g.isascii() and g.isdecimal())],
    }


def environment(
    config: ContainerConfig,
    extra: list[str] | tuple[str, ...] = (),
    hostname: str | None = None,
    tty: bool | None = None,
    last: list[str] | None = None,
) -> list[str]:
    """PATH, HOSTNAME and TERM, then `extra`, the container's own and `last`, of which the last of a name wins.

    tty: of an exec session; the container's when None.

    An entry without "=" takes the variable away.  HOME is added by init, from the image's passwd.
    """
    found = {"PATH": DEFAULT_PATH, "HOSTNAME": f"HOSTNAME={hostname or config.hostname}"}
    if config.tty if tty is None else tty:
        found["TERM"] = "TERM=xterm"
    for entry in (*extra, *(config.env or ()), *(last or ())):
        name, equals, _ = entry.partition("=")
        if equals:
            found[name] = entry
        else:
            found.pop(name, None)
    return list(found.values())


def _capabilities(host_config: HostConfig) -> list[str]:
    return security.capabilities(
        host_config.cap_add or (), host_config.cap_drop or (), host_config.privileged, _available()
    )


def _rlimits(eng: Engine, host_config: HostConfig) -> list[dict[str, Any]]:
    limits = {name: (limit.soft, limit.hard) for name, limit in eng.config.default_ulimits.items()}
    limits |= {limit.name: (limit.soft, limit.hard) for limit in host_config.ulimits or ()}
    return [
        {"type": settings.ULIMITS[name], "soft": _unlimited(soft), "hard": _unlimited(hard)}
        for name, (soft, hard) in limits.items()
    ]


def _unlimited(value: int) -> int:
    return 2**64 - 1 if value < 0 else value


def _mounts(eng: Engine, container: Container, options: security.SecurityOptions) -> list[dict[str, Any]]:
    """Docker's own mounts, less those that the user mounts something else on."""
    host_config = container.host_config
    privileged = host_config.privileged
    found = [
        _PROC,
        _DEV,
        _PTS,
        _SYS_WRITABLE if privileged else _SYS,
        _CGROUP_WRITABLE if privileged or options.writable_cgroups else _CGROUP,
    ]
    if (mqueue := _mqueue(host_config)) is not None:
        found.append(mqueue)
    if (shm := _shm(eng, host_config)) is not None:
        found.append(shm)
    taken = {point.destination for point in container.record.mounts} | set(host_config.tmpfs or ())
    return [mount for mount in found if mount["destination"] not in taken]


def usual(config: Settings) -> dict[str, Any]:
    """What `build` says of /proc, /dev and /sys for a container of the defaults (see `libcontainer/usual.py`)."""
    return {
        "mounts": [_PROC, _DEV, _PTS, _SYS, _CGROUP, _MQUEUE, _own_shm(config.default_shm_size)],
        "linux": {"maskedPaths": MASKED_PATHS, "readonlyPaths": READONLY_PATHS},
    }


def _mqueue(host_config: HostConfig) -> dict[str, Any] | None:
    if host_config.ipc_mode != "host":
        return _MQUEUE
    return _HOST_MQUEUE if os.path.isdir("/dev/mqueue") else None


def _shm(eng: Engine, host_config: HostConfig) -> dict[str, Any] | None:
    mode = host_config.ipc_mode
    if mode == "host":
        return _HOST_SHM
    if mode == "none":
        return None
    if mode.startswith("container:"):
        donor = _donor(eng, mode, "IPC")
        return {**_HOST_SHM, "namespace": f"/proc/{donor.state.pid}/ns/mnt"}
    return _own_shm(host_config.shm_size)


def _own_shm(size: int) -> dict[str, Any]:
    options = [*_SAFE, "mode=1777", f"size={size}"]
    return {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options}


def _namespaces(eng: Engine, host_config: HostConfig) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{"type": "mount"}]
    for kind, file, mode, what in (
        ("network", "net", host_config.network_mode, "network"),
        ("pid", "pid", host_config.pid_mode, "PID"),
        ("ipc", "ipc", host_config.ipc_mode, "IPC"),
        ("uts", "uts", host_config.uts_mode, "UTS"),
        ("cgroup", "cgroup", host_config.cgroupns_mode, "cgroup"),
    ):
        if mode == "host":
            continue
        if mode.startswith("container:"):
            found.append({"type": kind, "path": f"/proc/{_donor(eng, mode, what).state.pid}/ns/{file}"})
        else:
            found.append({"type": kind})
    return found


def _donor(eng: Engine, mode: str, what: str) -> Container:
    """The container of a `container:ID` mode; it has to run."""
    donor = eng.store.get(mode.partition(":")[2])
    state = donor.state
    if not state.running or not state.pid:
        raise Conflict(f"cannot join {what} namespace of a non running container: {donor.id}")
    if what == "IPC" and donor.host_config.ipc_mode not in ("shareable", "host"):
        raise Conflict(
            f"cannot join IPC of container {donor.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    return donor


def _sysctls(host_config: HostConfig) -> dict[str, str]:
    own_network = host_config.network_mode != "host" and not host_config.network_mode.startswith("container:")
    defaults = _NETWORK_SYSCTLS if own_network else {}
    return {**defaults, **(host_config.sysctls or {})}


def _devices(host_config: HostConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(device nodes, cgroup rules).  Raises StepError for a device that the host does not have."""
    if host_config.privileged:
        nodes = host_devices.all_host()
        for device in host_config.devices or ():
            nodes += host_devices.from_host(device.path_on_host, device.path_in_container)[0]
        return nodes, host_devices.ALLOW_ALL
    nodes, rules = [], []
    for device in host_config.devices or ():
        found, allowed = host_devices.from_host(
            device.path_on_host, device.path_in_container, device.cgroup_permissions or host_devices.ACCESS
        )
        nodes += found
        rules += allowed
    rules += [settings.device_rule(rule) for rule in host_config.device_cgroup_rules or ()]
    return nodes, rules


def _root_propagation(container: Container) -> str:
    """A shared or slave bind needs a root that does not cut it off."""
    wanted = {point.propagation for point in container.record.mounts if point.type == "bind"}
    if wanted & {"shared", "rshared"}:
        return "shared"
    if wanted & {"slave", "rslave"}:
        return "rslave"
    return "rprivate"


def cgroup_path(eng: Engine, container: Container) -> str:
    """The container's cgroup below every hierarchy's root."""
    return f"{container.host_config.cgroup_parent or eng.cgroup_parent}/{container.id}"


async def compile_seccomp(eng: Engine, host_config: HostConfig) -> None:
    """At create: compile an uncommon filter (12 ms), so that no start waits; raises InvalidParameter."""
    if host_config.cap_add or host_config.cap_drop or host_config.security_opt:
        await seccomp_path(eng, host_config)


async def seccomp_path(eng: Engine, host_config: HostConfig) -> str | None:
    """The compiled seccomp filter of a container, None for unconfined; compiles it when it is not cached.

    Raises InvalidParameter for a profile that cannot be compiled.
    """
    options = security.parse_options(host_config.security_opt or ())
    if host_config.privileged and options.seccomp is None:
        return None
    return await eng.seccomp.compile(options.seccomp or "", _capabilities(host_config))


def exec_process(eng: Engine, container: Container, config: ExecConfig, linked: list[str]) -> dict[str, Any]:
    """The OCI process of an exec session in a running container.  linked: variables of its links."""
    own, host_config = container.config, container.host_config
    granted = list(_available()) if config.privileged else _capabilities(host_config)
    options = security.parse_options(host_config.security_opt or ())
    height, width = config.console_size or (0, 0)
    no_new_privileges = options.no_new_privileges
    return {
        "terminal": config.tty,
        "consoleSize": {"height": height, "width": width},
        "user": _user(config.user or own.user, host_config),
        "args": list(config.cmd or ()),
        "env": environment(own, linked, tty=config.tty, last=config.env),
        "cwd": config.working_dir or own.working_dir or "/",
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "rlimits": _rlimits(eng, host_config),
        "noNewPrivileges": eng.config.no_new_privileges if no_new_privileges is None else no_new_privileges,
        "oomScoreAdj": host_config.oom_score_adj,
    }
