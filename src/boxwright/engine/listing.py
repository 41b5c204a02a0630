"""`GET /containers/json`: one line for each container, newest first, in Docker's shape."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from boxwright.engine import clock, inspect
from boxwright.engine.listfilters import Filters
from boxwright.engine.state import State, Status
from boxwright.errdefs import NotFound

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container


async def containers(
    eng: Engine,
    all: bool = False,
    limit: int = 0,
    size: bool = False,
    filters: dict[str, list[str]] | None = None,
) -> list[dict[str, Any]]:
    """The containers that run, or with `all`, a `limit` above 0 or a status filter those that do not run too.

    Raises InvalidParameter for filters that do not exist or make no sense, NotFound for a `before` or `since`.
    """
    wanted = Filters(eng, filters or {})
    found: list[dict[str, Any]] = []
    for container in sorted(eng.store, key=lambda c: (c.created_ns, c.id), reverse=True):
        if 0 < limit <= len(found):
            break
        if not (all or limit > 0 or wanted.all or container.state.running) or not wanted.match(container):
            continue
        line = _line(eng, container)
        if size:
            try:
                line["SizeRw"], line["SizeRootFs"] = await inspect.sizes(eng, container)
            except NotFound:
                continue  # removed while we waited
        found.append(line)
    return found


def _line(eng: Engine, container: Container) -> dict[str, Any]:
    record = container.record
    host_config: dict[str, Any] = {"NetworkMode": record.host_config.network_mode}
    if record.host_config.annotations:
        host_config["Annotations"] = record.host_config.annotations
    return {
        "Id": record.id,
        "Names": eng.store.names(container),
        "Image": _image(eng, container),
        "ImageID": record.image,
        "Command": " ".join([record.path, *(f"'{arg}'" if " " in arg else arg for arg in record.args)]),
        "Created": container.created_ns // 1_000_000_000,
        "Ports": _ports(container),
        "Labels": record.config.labels or {},
        "State": container.state.status,
        "Status": status(container.state),
        "HostConfig": host_config,
        "NetworkSettings": {"Networks": inspect.networks(container)},
        "Mounts": [point.to_docker() for point in record.mounts],
    }


def _image(eng: Engine, container: Container) -> str:
    """The reference that the user gave, or the image's id when it leads elsewhere by now."""
    ref = container.config.image
    image = eng.images.find(ref)
    return ref if image is not None and image.id == container.record.image else container.record.image


def _ports(container: Container) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for port, bindings in inspect.ports(container).items():
        number, _, protocol = port.partition("/")
        if not bindings:
            found.append({"PrivatePort": int(number), "Type": protocol})
        for binding in bindings or ():
            found.append(
                {
                    "IP": binding["HostIp"],
                    "PrivatePort": int(number),
                    "PublicPort": int(binding["HostPort"]),
                    "Type": protocol,
                }
            )
    return found


def status(state: State) -> str:
    """Docker's words for a state: "Up 5 minutes (Paused)", "Exited (0) 3 seconds ago"."""
    now = time.time_ns()
    if state.status is Status.RESTARTING:
        return f"Restarting ({state.exit_code}) {_since(now, state.finished_at)} ago"
    if state.running:
        up = f"Up {_since(now, state.started_at)}"
        if state.status is Status.PAUSED:
            return f"{up} (Paused)"
        health = (state.health or {}).get("Status", "none")
        return up if health == "none" else f"{up} ({'health: starting' if health == 'starting' else health})"
    if state.status is Status.REMOVING:
        return "Removal In Progress"
    if state.status is Status.DEAD:
        return "Dead"
    if state.started_at == clock.ZERO:
        return "Created"
    if state.finished_at == clock.ZERO:
        return ""
    return f"Exited ({state.exit_code}) {_since(now, state.finished_at)} ago"


def _since(now_ns: int, moment: str) -> str:
    return human_duration((now_ns - clock.nanoseconds(moment)) / 1e9)


# (up to this many hours, hours of one unit, its name)
_UNITS = ((48, 1, "hours"), (24 * 14, 24, "days"), (24 * 60, 168, "weeks"), (24 * 730, 720, "months"))


def human_duration(seconds: float) -> str:
    """go-units' HumanDuration: "Less than a second", "About a minute", "3 weeks"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, divisor, unit in (
        (48, 1, "hours"),
        (24 * 14, 24, "days"),
        (24 * 60, 168, "weeks"),
        (24 * 730, 720, "months"),
    ):
        if hours < limit:
            return f"{hours // divisor} {unit}"
    return f"{int(seconds / 3600) // 24 // 365} years"
