"""The filters of `ps`: every one that Docker has.  Values of one filter are alternatives (all labels have to match),
different filters add up, but for `publish` and `expose`, which are alternatives too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from boxwright.engine import inspect, patterns
from boxwright.engine.state import Status
from boxwright.errdefs import InvalidParameter
from boxwright.network import options as network_options

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

Test = Callable[["Container"], bool]

ACCEPTED = frozenset(
    {
        "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
        "publish", "since", "status", "volume",
    }
)  # fmt: skip
_HEALTH = ("none", "starting", "healthy", "unhealthy")


class Filters:
    """The decoded `filters` of one request, checked when it is made.

    all: a filter asks for containers that do not run.
    """

    def __init__(self, eng: Engine, filters: dict[str, list[str]]) -> None:
        self.all = bool(filters.get("status"))
        self._tests: list[Test] = []
        for name, values in filters.items():
            if name not in ACCEPTED:
                raise InvalidParameter(f"invalid filter '{name}'")
            if values and name in _MAKERS:
                self._tests.append(_MAKERS[name](eng, values))
        publish, expose = filters.get("publish") or [], filters.get("expose") or []
        if publish or expose:
            self._tests.append(_reachable(publish, expose))

    def match(self, container: Container) -> bool:
        """Whether every filter accepts the container."""
        return all(test(container) for test in self._tests)


def _ancestor(eng: Engine, values: list[str]) -> Test:
    """The image itself, or one that was made out of it."""
    found: set[str] = set()
    waiting = [image.id for value in values if (image := eng.images.find(value)) is not None]
    while waiting:
        if (id := waiting.pop()) not in found:
            found.add(id)
            waiting += eng.images.children(id)
    return lambda container: container.record.image in found


def _before(eng: Engine, values: list[str]) -> Test:
    limit = eng.store.get(values[-1]).created_ns
    return lambda container: container.created_ns < limit


def _since(eng: Engine, values: list[str]) -> Test:
    limit = eng.store.get(values[-1]).created_ns
    return lambda container: container.created_ns > limit


def _exited(eng: Engine, values: list[str]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError:
        raise InvalidParameter(f"invalid filter 'exited={values[0]}'") from None

    def test(container: Container) -> bool:
        state = container.state
        return state.exit_code in codes and not state.running and state.status is not Status.CREATED

    return test


def _reachable(publish: list[str], expose: list[str]) -> Test:
    """By the ports of a running container: the host's (`publish`) or its own (`expose`), either one is enough."""
    public, own = _ports("publish", publish), _ports("expose", expose)

    def test(container: Container) -> bool:
        for port, bindings in inspect.ports(container).items():
            protocol = port.partition("/")[2]
            if port in own or any(f"{binding['HostPort']}/{protocol}" in public for binding in bindings or ()):
                return True
        return False

    return test


def _ports(name: str, values: list[str]) -> set[str]:
    for value in values:
        if ":" in value:
            raise InvalidParameter(f"filter for '{name}' should not contain ':': {value}")
    try:
        return set(network_options.exposed_ports(values))
    except InvalidParameter as error:
        raise InvalidParameter(f"error while looking up for {name} {', '.join(values)}: {error}") from None


def _health(eng: Engine, values: list[str]) -> Test:
    for value in values:
        if value not in _HEALTH:
            raise InvalidParameter(f"unrecognized filter value for health: {value}")
    return lambda container: (container.state.health or {}).get("Status", "none") in values


def _is_task(eng: Engine, values: list[str]) -> Test:
    """No container here belongs to a swarm task."""
    truth = {"1": True, "true": True, "0": False, "false": False}
    wanted = {truth.get(value.lower()) for value in values}
    if None in wanted or len(wanted) != 1:
        raise InvalidParameter(f"invalid filter 'is-task=[{' '.join(values)}]'")
    return lambda container: False in wanted


def _isolation(eng: Engine, values: list[str]) -> Test:
    return lambda container: container.host_config.isolation in values


def _id(eng: Engine, values: list[str]) -> Test:
    found = patterns.compile_all("id", values)
    return lambda container: found(container.id)


def _name(eng: Engine, values: list[str]) -> Test:
    """Any of the container's names, with and without the leading "/", found by a regular expression."""
    found = patterns.compile_all("name", values)

    def test(container: Container) -> bool:
        names = eng.store.names(container)
        return any(found(name) or found(name[1:]) for name in names)

    return test


def _label(eng: Engine, values: list[str]) -> Test:
    wanted = [value.partition("=") for value in values]

    def test(container: Container) -> bool:
        labels = container.config.labels or {}
        return all(key in labels and (not equals or labels[key] == value) for key, equals, value in wanted)

    return test


def _network(eng: Engine, values: list[str]) -> Test:
    """By name or by the start of the network's id."""

    def test(container: Container) -> bool:
        for name, endpoint in inspect.networks(container).items():
            id = endpoint["NetworkID"]
            if any(value == name or (id and id.startswith(value)) for value in values):
                return True
        return False

    return test


def _status(eng: Engine, values: list[str]) -> Test:
    for value in values:
        if value not in set(Status):
            raise InvalidParameter(f"invalid filter 'status={value}'")
    return lambda container: container.state.status in values


def _volume(eng: Engine, values: list[str]) -> Test:
    """By name of the volume, by source of a bind, or by place in the container."""

    def test(container: Container) -> bool:
        return any(
            value in (point.destination, point.name or point.source)
            for point in container.record.mounts
            for value in values
        )

    return test


_MAKERS: dict[str, Callable[[Engine, list[str]], Test]] = {
    "ancestor": _ancestor,
    "before": _before,
    "exited": _exited,
    "health": _health,
    "id": _id,
    "is-task": _is_task,
    "isolation": _isolation,
    "label": _label,
    "name": _name,
    "network": _network,
    "since": _since,
    "status": _status,
    "volume": _volume,
}
