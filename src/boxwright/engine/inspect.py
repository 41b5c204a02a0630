"""`GET /containers/{name}/json`: everything about one container, in Docker's shape, and what is ours under "Boxwright".

Reads what is in memory and never waits, but for the sizes, which need a walk through the snapshot.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from boxwright.engine import links, mounts
from boxwright.engine.state import Status
from boxwright.logger.jsonfile import log_path
from boxwright.types import lenient
from boxwright.types.network import EndpointSettings

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container


async def inspect(eng: Engine, name: str, size: bool = False) -> dict[str, Any]:
    """The container's JSON; with `size` also SizeRw and SizeRootFs in bytes.  Raises NotFound, InvalidParameter."""
    container = eng.store.get(name)
    found = describe(eng, container)
    if size:
        found["SizeRw"], found["SizeRootFs"] = await sizes(eng, container)
    return found


async def sizes(eng: Engine, container: Container) -> tuple[int, int]:
    """(bytes of the writable layer, of it and the image together)."""
    written, _ = await eng.snapshotter.usage(container.id)
    image = eng.images.find(container.record.image)
    return written, written + (image.size if image else 0)


def describe(eng: Engine, container: Container) -> dict[str, Any]:
    """The container's JSON without sizes."""
    record, state = container.record, container.state
    files = mounts.files_directory(eng, container)
    started = state.generation > 0
    logged = started and record.host_config.log_config.type == "json-file"
    return {
        "Id": record.id,
        "Created": record.created,
        "Path": record.path,
        "Args": record.args,
        "State": describe_state(container),
        "Image": record.image,
        "ResolvConfPath": os.path.join(files, "resolv.conf") if started else "",
        "HostnamePath": os.path.join(files, "hostname") if started else "",
        "HostsPath": os.path.join(files, "hosts") if started else "",
        "LogPath": log_path(eng.container_dir(record.id), record.id) if logged else "",
        "Name": f"/{record.name}",
        "RestartCount": state.restart_count,
        "Driver": record.storage_driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(container.exec_ids) or None,
        "HostConfig": {**lenient.dump(record.host_config), "Links": links.to_docker(eng.store, container)},
        "GraphDriver": _graph_driver(eng, container),
        "Mounts": [point.to_docker() for point in record.mounts],
        "Config": lenient.dump(record.config),
        "NetworkSettings": _network_settings(container),
        "Boxwright": {
            "Generation": state.generation,
            "Operation": state.operation,
            "Timeline": eng.store.timeline(container),
            "StartError": state.start_error,
            "Timeout": record.host_config.timeout,
            "TimedOut": state.timed_out,
            "Problem": container.running.problem if container.running is not None else "",
        },
    }


def describe_state(container: Container) -> dict[str, Any]:
    """Docker's `State`."""
    state = container.state
    found: dict[str, Any] = {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.status is Status.PAUSED,
        "Restarting": state.status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": state.status is Status.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
    }
    if state.health is not None:
        found["Health"] = state.health
    return found


def _graph_driver(eng: Engine, container: Container) -> dict[str, Any]:
    found = eng.snapshotter.describe(container.id) if eng.snapshotter.exists(container.id) else None
    return found or {"Name": container.record.storage_driver, "Data": None}


def _network_settings(container: Container) -> dict[str, Any]:
    connected = networks(container)
    bridge = container.endpoints.get("bridge")
    shown = connected.get("bridge", {}) if bridge else {}
    return {
        "Bridge": "",
        "SandboxID": container.id if container.endpoints else "",
        "SandboxKey": f"/proc/{container.state.pid}/ns/net" if container.endpoints and container.state.pid else "",
        "Ports": ports(container),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": shown.get("EndpointID", ""),
        "Gateway": shown.get("Gateway", ""),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": shown.get("IPAddress", ""),
        "IPPrefixLen": shown.get("IPPrefixLen", 0),
        "IPv6Gateway": "",
        "MacAddress": shown.get("MacAddress", ""),
        "Networks": connected,
    }


def ports(container: Container) -> dict[str, list[dict[str, str]] | None]:
    """Container port → where it is published, None for ports that are only exposed; {} while nothing runs."""
    found: dict[str, list[dict[str, str]] | None] = {}
    for endpoint in container.endpoints.values():
        for port, bindings in endpoint.ports_to_docker().items():
            found[port] = [*(found.get(port) or ()), *bindings] if bindings else found.get(port)
    return found


def networks(container: Container) -> dict[str, dict[str, Any]]:
    """`NetworkSettings.Networks`: the live endpoints, and for a container at rest its wishes."""
    mode = container.host_config.network_mode
    if mode.startswith("container:") or container.config.network_disabled:
        return {}
    name = "bridge" if mode in ("", "default") else mode
    wishes = container.record.networks
    found = {}
    for network in dict.fromkeys([*(() if name in wishes or wishes else (name,)), *wishes]):
        key = "bridge" if network == "default" else network
        endpoint = container.endpoints.get(key)
        found[key] = endpoint.to_docker() if endpoint else _at_rest(wishes.get(network))
    for network, endpoint in container.endpoints.items():
        found.setdefault(network, endpoint.to_docker())
    return found


def _at_rest(wishes: EndpointSettings | None) -> dict[str, Any]:
    """EndpointSettings of a network that the container will be connected to at its start."""
    return dict(lenient.dump(msgspec.structs.replace(wishes) if wishes else EndpointSettings()))
