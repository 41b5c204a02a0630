"""`/info`, `/version` and what `/_ping` says, in Docker's shape."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

import boxwright
from boxwright.engine import clock, hostinfo
from boxwright.engine.state import Status
from boxwright.images.distribution import hosts
from boxwright.logger import validation as log_options

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine

API_VERSION = "1.51"
MIN_API_VERSION = "1.24"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def architecture() -> str:
    """The host's architecture as Go names it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def ping() -> dict[str, str]:
    """Headers of /_ping."""
    return {
        "Api-Version": API_VERSION,
        "Docker-Experimental": "false",
        "Ostype": "linux",
        "Builder-Version": "",
        "Swarm": "inactive",
    }


def version(eng: Engine) -> dict[str, Any]:
    """GET /version."""
    kernel = os.uname().release
    details = {
        "ApiVersion": API_VERSION,
        "Arch": architecture(),
        "BuildTime": "",
        "Experimental": str(eng.config.experimental).lower(),
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": kernel,
        "MinAPIVersion": MIN_API_VERSION,
        "Os": "linux",
        "PythonVersion": platform.python_version(),
    }
    return {
        "Platform": {"Name": "boxwright"},
        "Components": [
            {"Name": "Engine", "Version": boxwright.__version__, "Details": details},
            {"Name": "boxwright-runtime", "Version": boxwright.__version__, "Details": {"GitCommit": ""}},
            {"Name": "sqlite", "Version": sqlite3.sqlite_version, "Details": {}},
        ],
        "Version": boxwright.__version__,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
        "BuildTime": "",
    }


def info(eng: Engine) -> dict[str, Any]:
    """GET /info."""
    return _counts(eng) | _host() | _engine(eng)


def _counts(eng: Engine) -> dict[str, Any]:
    by_status = Counter(container.state.status for container in eng.store)
    running = by_status[Status.RUNNING] + by_status[Status.RESTARTING]
    paused = by_status[Status.PAUSED]
    return {
        "ID": eng.id,
        "Containers": len(eng.store),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": len(eng.store) - running - paused,
        "Images": len(eng.images.all()),
        "NFd": len(os.listdir("/proc/self/fd")),
        "NGoroutines": eng.tasks,
        "NEventsListener": eng.bus.listeners,
        "SystemTime": clock.now(),
    }


def _host() -> dict[str, Any]:
    host = hostinfo.host()
    name, version_id = hostinfo.operating_system()
    system = os.uname()
    return {
        "MemoryLimit": host.memory_limit,
        "SwapLimit": host.swap_limit,
        "CpuCfsPeriod": host.cpu_cfs,
        "CpuCfsQuota": host.cpu_cfs,
        "CPUShares": host.cpu_shares,
        "CPUSet": host.cpuset,
        "PidsLimit": host.pids_limit,
        "OomKillDisable": host.oom_kill_disable,
        "IPv4Forwarding": hostinfo.ip_forwarding(),
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "CgroupDriver": host.cgroup_driver,
        "CgroupVersion": host.cgroup_version,
        "KernelVersion": system.release,
        "OperatingSystem": name,
        "OSVersion": version_id,
        "OSType": "linux",
        "Architecture": system.machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": hostinfo.memory_total(),
        "Name": system.nodename,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
    }


def _engine(eng: Engine) -> dict[str, Any]:
    config = eng.config
    commit = {"ID": boxwright.__version__}
    return {
        "Driver": eng.snapshotter.name,
        "DriverStatus": eng.snapshotter.status(),
        "Plugins": {
            "Volume": eng.volumes.drivers,
            "Network": ["bridge", "host", "null"],
            "Authorization": list(config.authorization_plugins) or None,
            "Log": list(log_options.DRIVERS),
        },
        "Debug": config.log_level == "debug",
        "LoggingDriver": config.log_driver,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
            **hosts.shown(config),
        },
        "GenericResources": None,
        "DockerRootDir": config.data_root,
        "Labels": list(config.labels),
        "ExperimentalBuild": config.experimental,
        "ServerVersion": boxwright.__version__,
        "Runtimes": {name: {"path": _runtime_path(eng, name)} for name in eng.drivers},
        "DefaultRuntime": config.default_runtime,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "boxwright",
        "ContainerdCommit": commit,
        "RuncCommit": commit,
        "InitCommit": commit,
        "SecurityOptions": _security_options(eng),
        "ProductLicense": "",
        "DefaultAddressPools": [{"Base": pool.base, "Size": pool.size} for pool in config.default_address_pools],
        "CDISpecDirs": [],
        "Warnings": [*eng.warnings, *eng.network.warnings(), *_unconfined()] or None,
    }


def _runtime_path(eng: Engine, name: str) -> str:
    known = eng.config.runtimes.get(name)
    return known.path if known else "boxwright-runtime"


def _unconfined() -> list[str]:
    """Where dockerd would load and apply its profile "docker-default", and this engine does not."""
    return ["WARNING: AppArmor is enabled, but containers run without a profile of it"] if hostinfo.apparmor() else []


def _security_options(eng: Engine) -> list[str]:
    profile = eng.config.seccomp_profile
    shown = "unconfined" if profile == "unconfined" else profile or "builtin"
    options = [f"name=seccomp,profile={shown}"]
    if hostinfo.host().cgroup_namespaces and hostinfo.host().cgroup_version == "2":
        options.append("name=cgroupns")
    if eng.config.no_new_privileges:
        options.append("name=no-new-privileges")
    return options
