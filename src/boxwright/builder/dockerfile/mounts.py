"""RUN --mount=type=…,key=value,…: what is mounted while one command runs, and is no part of the image."""

import csv
from collections.abc import Callable
from typing import NamedTuple

from boxwright.builder.dockerfile.errors import Wrong

KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_LARGEST = 2**31 - 1  # id; 2³²-1 would mean "unchanged" to chown(2)
_TARGETS = ("target", "dst", "destination")
_KEYS = {
    "bind": {"source", "src", "from", "rw", "readwrite", "ro", "readonly"},
    "cache": {"id", "source", "src", "from", "sharing", "mode", "uid", "gid", "ro", "readonly", "rw", "readwrite"},
    "tmpfs": {"size"},
    "secret": {"id", "required", "mode", "uid", "gid", "env"},
    "ssh": {"id", "required", "mode", "uid", "gid"},
}


class Mount(NamedTuple):
    """One mount.  Numbers are -1 when they are not given; size is in bytes."""

    kind: str
    target: str
    source: str = ""
    from_: str = ""
    readonly: bool = False
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int = -1
    uid: int = 0
    gid: int = 0
    size: int = -1


def stage_of(text: str) -> str:
    """The `from` of a mount, "" without one; whatever else is wrong with it."""
    for field in _split(text):
        key, _, value = field.partition("=")
        if key.strip().lower() == "from":
            return value
    return ""


def parse(text: str, expand: Callable[[str], str]) -> Mount:
    """Raises Wrong."""
    fields = _fields(text, expand)
    kind = fields.pop("type", "bind")
    if kind not in KINDS:
        raise Wrong(f'unsupported mount type "{kind}"')
    target = ""
    for key in _TARGETS:
        target = fields.pop(key, target)
    for key in fields:
        if key not in _KEYS[kind]:
            raise Wrong(f"unexpected key '{key}' for mount type '{kind}'")
    if not target and kind in ("bind", "cache", "tmpfs"):
        raise Wrong(f"invalid mount: target is required for {kind} mounts")
    if kind == "cache" and not fields.get("from") and (fields.get("source") or fields.get("src")):
        raise Wrong("invalid mount: the source of a cache mount is a path in its from, which is missing")
    sharing = fields.get("sharing", "shared")
    if sharing not in ("shared", "private", "locked"):
        raise Wrong(f'unsupported sharing value "{sharing}"')
    writable = _flag(fields, "rw", "readwrite")
    readonly = _flag(fields, "ro", "readonly")
    if kind == "bind":
        readonly = not writable
    return Mount(
        kind,
        target,
        fields.get("source", fields.get("src", "")),
        fields.get("from", ""),
        readonly,
        fields.get("id", ""),
        sharing,
        _flag(fields, "required"),
        _number(fields, "mode", 8),
        max(0, _number(fields, "uid", 10)),
        max(0, _number(fields, "gid", 10)),
        _size(fields),
    )


def _split(text: str) -> list[str]:
    """The fields, of which one with a comma stands in double quotes, as in a CSV file."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as problem:
        raise Wrong(f"failed to parse csv mounts: {problem}") from None


def _fields(text: str, expand: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in _split(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not key:
            raise Wrong(f"invalid field '{field}' must be a key=value pair")
        found[key] = expand(value) if equals else "true"
    return found


def _flag(fields: dict[str, str], *names: str) -> bool:
    for name in names:
        if name in fields:
            if fields[name].lower() not in ("true", "false", "1", "0"):
                raise Wrong(f"invalid value for {name}: {fields[name]}")
            return fields[name].lower() in ("true", "1")
    return False


def _number(fields: dict[str, str], name: str, base: int) -> int:
    text = fields.get(name, "")
    if not text:
        return -1
    digits = "01234567" if base == 8 else "0123456789"
    if len(text) > 10 or not all(character in digits for character in text) or int(text, base) > _LARGEST:
        raise Wrong(f"invalid value {text} for {name}")
    return int(text, base)


def _size(fields: dict[str, str]) -> int:
    text = fields.get("size", "").lower()
    if not text:
        return -1
    number = text.rstrip("kmgb")
    unit = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[len(number) :][:1])
    if unit is None or not number.isdigit() or len(number) > 15:
        raise Wrong(f"invalid value {text} for size")
    return int(number) * unit
