"""Networks as the API lists and inspects them: lookup, filters, the containers of one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from boxwright.errdefs import InvalidParameter, NotFound
from boxwright.network.endpoint import Endpoint
from boxwright.network.model import PREDEFINED, Network

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_FILTERS = frozenset({"label", "label!", "until"})


def resolve(networks: Iterable[Network], name: str) -> Network:
    """Full id, then exact name, then unique id prefix, as Docker looks networks up."""
    everything = list(networks)
    for network in everything:
        if network.id == name:
            return network
    for network in everything:
        if network.name == name:
            return network
    matches = [n for n in everything if name and n.id.startswith(name)]
    if len(matches) > 1:
        raise InvalidParameter(f"network {name} is ambiguous ({len(matches)} matches found based on ID prefix)")
    if not matches:
        raise NotFound(f"network {name} not found")
    return matches[0]


def choose(networks: Iterable[Network], filters: Mapping[str, Sequence[str]], used: set[str]) -> list[Network]:
    """Networks that pass all filters; the values of one filter are alternatives, except labels.

    used: ids of networks that have endpoints (for `dangling`).
    """
    for name in filters:
        if name not in _FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")
    dangling = _boolean(filters["dangling"]) if filters.get("dangling") else None
    for value in filters.get("type", ()):
        if value not in ("custom", "builtin"):
            raise InvalidParameter(f"invalid filter: 'type'='{value}'")
    return [n for n in networks if _passes(n, filters, dangling, used)]


def check_prune_filters(filters: Mapping[str, Sequence[str]]) -> None:
    """Refuse a filter that prune does not know."""
    for name in filters:
        if name not in _PRUNE_FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")


def containers(endpoints: Iterable[Endpoint], name_of: Callable[[str], str] | None) -> dict[str, Any]:
    """The `Containers` of an inspected network."""
    return {
        endpoint.container_id: {
            "Name": name_of(endpoint.container_id) if name_of else endpoint.container_name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac_address,
            "IPv4Address": f"{endpoint.address}/{endpoint.prefix_length}" if endpoint.address else "",
            "IPv6Address": "",
        }
        for endpoint in endpoints
    }


def _passes(network: Network, filters: Mapping[str, Sequence[str]], dangling: bool | None, used: set[str]) -> bool:
    kind = "builtin" if network.name in PREDEFINED else "custom"
    alternatives = (
        ("driver", lambda value: value == network.driver),
        ("id", lambda value: network.id.startswith(value)),
        ("name", lambda value: value in network.name),
        ("scope", lambda value: value == "local"),
        ("type", lambda value: value == kind),
    )
    for name, test in alternatives:
        values = filters.get(name)
        if values and not any(test(value) for value in values):
            return False
    if not all(_has_label(network, label) for label in filters.get("label", ())):
        return False
    if dangling is None:
        return True
    return dangling == (kind == "custom" and network.id not in used)


def _has_label(network: Network, label: str) -> bool:
    key, equals, value = label.partition("=")
    return key in network.labels and (not equals or network.labels[key] == value)


def _boolean(values: Sequence[str]) -> bool:
    value = values[0].lower()
    if len(values) != 1 or value not in ("1", "true", "0", "false"):
        raise InvalidParameter('invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")')
    return value in ("1", "true")
