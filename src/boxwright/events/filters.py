"""Event filters: values of one filter are alternatives (labels all have to match), different filters add up."""

from typing import Any

# Actions that carry their subject after a colon ("exec_create: sh"): a filter with the bare action means them all.
_PREFIXED = frozenset({"health_status", "exec_create", "exec_start"})
_ACTORS = ("daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config")


class Filter:
    """The `filters` of GET /events, decoded: filter name → values."""

    def __init__(self, filters: dict[str, list[str]]) -> None:
        self._filters = {name: values for name, values in filters.items() if values}

    def matches(self, event: dict[str, Any]) -> bool:
        """Whether every filter accepts the event."""
        return all(_accepts(name, values, event) for name, values in self._filters.items())


def _accepts(name: str, values: list[str], event: dict[str, Any]) -> bool:
    attributes = event["Actor"]["Attributes"]
    if name == "event":
        if _PREFIXED.intersection(values):
            return any(event["Action"].startswith(value) for value in values)
        return event["Action"] in values
    if name == "type":
        return event["Type"] in values
    if name == "scope":
        return event["scope"] in values
    if name == "label":
        return all(_label(value, attributes) for value in values)
    if name == "image":
        return _image(values, event)
    if name in _ACTORS:
        subjects = (event["Actor"]["ID"], attributes.get("name", ""))
        return any(subject.startswith(value) for subject in subjects for value in values)
    return True


def _label(wanted: str, attributes: dict[str, str]) -> bool:
    key, equals, value = wanted.partition("=")
    return key in attributes and (not equals or attributes[key] == value)


def _image(values: list[str], event: dict[str, Any]) -> bool:
    key = "name" if event["Type"] == "image" else "image"
    subjects = (event["Actor"]["ID"], event["Actor"]["Attributes"].get(key, ""))
    return any(subject in values or _without_tag(subject) in values for subject in subjects)


def _without_tag(reference: str) -> str:
    name, colon, tag = reference.rpartition(":")
    return name if colon and "/" not in tag else reference
