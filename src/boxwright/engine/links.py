"""`--link`: edges in the name graph from a container to those it links to, and what they give it at start.

"/web/db" is the path of the container that web knows as db.  A linked container is reached by alias, host name and name
(hosts entries) and by environment variables, in the form that Docker fixed long ago.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from boxwright.engine.graphdb import NameTaken
from boxwright.engine.store import name_conflict
from boxwright.errdefs import InvalidParameter, NotFound, System
from boxwright.network import options as network_options

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container, Store
    from boxwright.types.container import ContainerConfig, HostConfig

_ALIAS = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_NOT_PASSED_ON = ("HOME", "PATH")  # of the linked container's environment


def parse(text: str) -> tuple[str, str]:
    """ "NAME", "NAME:ALIAS" or inspect's "/NAME:/PARENT/ALIAS" → (name, alias); raises InvalidParameter."""
    if not text:
        raise InvalidParameter("empty string specified for links")
    parts = text.split(":")
    if len(parts) > 2:
        raise InvalidParameter(f"bad format for links: {text}")
    name, alias = parts[0], parts[-1]
    if name.startswith("/"):
        name, alias = name[1:], alias.rpartition("/")[2]
    if not _ALIAS.fullmatch(alias):
        raise InvalidParameter(f"bad format for links: {text}")
    return name, alias


def resolve(store: Store, host_config: HostConfig) -> dict[str, Container]:
    """Alias → linked container, for a new container; raises InvalidParameter with Docker's texts."""
    found: dict[str, Container] = {}
    for text in host_config.links or ():
        name, alias = parse(text)
        try:
            child = store.get(name)
            while child.host_config.network_mode.startswith("container:"):
                child = store.get(child.host_config.network_mode.partition(":")[2])
        except NotFound as error:
            raise InvalidParameter(f"could not get container for {name}: {error}") from error
        if child.host_config.network_mode == "host":
            raise InvalidParameter(
                "conflicting options: host type networking can't be used with links. "
                "This would result in undefined behavior"
            )
        if found.setdefault(alias, child) is not child:
            raise name_conflict(alias, found[alias].id)
    return found


def register(store: Store, container_name: str, linked: dict[str, Container]) -> None:
    """Write the edges; inside the transaction that adds the container."""
    for alias, child in linked.items():
        try:
            store.graph.set(f"/{container_name}/{alias}", child.id)
        except NameTaken as taken:
            raise name_conflict(f"{container_name}/{alias}", taken.holder) from None


def children(store: Store, container: Container) -> dict[str, Container]:
    """Alias → container, of those that `container` links to and that still exist."""
    edges = store.graph.children(container.id)
    return {alias: child for alias, id in edges.items() if (child := store.by_id(id)) is not None}


def parents(store: Store, container: Container) -> list[Container]:
    """The containers that link to `container`: their hosts entries change when its address does."""
    found = {parent: store.by_id(parent) for parent, _ in store.graph.parents(container.id)}
    return [parent for parent in found.values() if parent is not None]


def to_docker(store: Store, container: Container) -> list[str] | None:
    """`HostConfig.Links` of inspect: "/db:/web/db"."""
    found = [f"/{child.name}:/{container.name}/{alias}" for alias, child in children(store, container).items()]
    return found or None


def environment(eng: Engine, container: Container, alive: bool = False) -> list[str]:
    """The environment that the links give.

    alive: leave a linked container out that does not run; else it raises System.
    """
    found: list[str] = []
    for alias, child in _linked(eng, container, alive=alive):
        found += variables(f"/{container.name}/{alias}", address(child), child.config)
    return found


def hosts(eng: Engine, container: Container, starting: Container | None = None) -> list[tuple[str, str]]:
    """(address, "alias hostname name") of each link; raises System when a linked container does not run.

    starting: a linked container that has its address and will run in a moment.
    """
    found = []
    for alias, child in _linked(eng, container, starting):
        names = dict.fromkeys((alias, child.config.hostname, child.name))
        found.append((address(child), " ".join(filter(None, names))))
    return found


def address(container: Container) -> str:
    """The container's IPv4 address on the default bridge, "" when it has none."""
    endpoint = container.endpoints.get("bridge")
    return endpoint.address if endpoint else ""


def _linked(
    eng: Engine, container: Container, starting: Container | None = None, alive: bool = False
) -> list[tuple[str, Container]]:
    if not container.host_config.links:
        return []
    found = list(children(eng.store, container).items())
    if alive:
        return [(alias, child) for alias, child in found if child.state.running]
    for alias, child in found:
        if not child.state.running and child is not starting:
            raise System(f"Cannot link to a non running container: /{child.name} AS /{container.name}/{alias}")
    return found


def variables(name: str, address: str, config: ContainerConfig) -> list[str]:
    """The variables of one link.

    name: "/parent/alias".  address, config: of the linked container.
    """
    alias = name.rpartition("/")[2].upper().replace("-", "_")
    exposed = [port.partition("/") for port in network_options.exposed_ports(config.exposed_ports or ())]
    ports = sorted(((int(number), protocol) for number, _, protocol in exposed), key=lambda p: (p[0], p[1] != "tcp"))
    found = []
    if ports:
        number, protocol = ports[0]
        found.append(f"{alias}_PORT={protocol}://{address}:{number}")
    for (first, protocol), (last, last_protocol) in _runs(ports):
        prefix = f"{alias}_PORT_{first}_{protocol.upper()}"
        found += [
            f"{prefix}_START={protocol}://{address}:{first}",
            f"{prefix}_ADDR={address}",
            f"{prefix}_PROTO={protocol}",
            f"{prefix}_PORT_START={first}",
            f"{prefix}_END={last_protocol}://{address}:{last}",
            f"{prefix}_PORT_END={last}",
        ]
    for number, protocol in ports:
        prefix = f"{alias}_PORT_{number}_{protocol.upper()}"
        found += [
            f"{prefix}={protocol}://{address}:{number}",
            f"{prefix}_ADDR={address}",
            f"{prefix}_PORT={number}",
            f"{prefix}_PROTO={protocol}",
        ]
    found.append(f"{alias}_NAME={name}")
    for entry in config.env or ():
        key, equals, value = entry.partition("=")
        if equals and key not in _NOT_PASSED_ON:
            found.append(f"{alias}_ENV_{key}={value}")
    return found


def _runs(ports: list[tuple[int, str]]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """First and last of each run of more than two neighbouring ports."""
    runs = []
    start = 0
    for index in range(1, len(ports) + 1):
        if index == len(ports) or ports[index][0] > ports[index - 1][0] + 1:
            if index - 1 > start + 1:
                runs.append((ports[start], ports[index - 1]))
            start = index
    return runs
