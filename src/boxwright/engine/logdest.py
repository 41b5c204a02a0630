"""Where a container's log goes: what its driver is told at a start, and what of it can be read back here."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from boxwright.engine import patterns
from boxwright.errdefs import InvalidParameter, NotImplemented_
from boxwright.logger import options
from boxwright.logger.formats import BLOCKS, JSON_LINES, Format
from boxwright.logger.jsonfile import log_path
from boxwright.logger.local import cache_path, local_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boxwright.engine.engine import Engine
    from boxwright.engine.store import Container

_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_FIELDS = ("ID", "FullID", "Name", "ImageName", "ImageID", "ImageFullID", "DaemonName")
DEFAULT_TAG = "{{.ID}}"
_LONGEST_NAME = 4096  # characters of a label or variable that a pattern is held against


def kept_at(eng: Engine, container: Container) -> tuple[str, Format]:
    """The file that `docker logs` reads, and its form.  Raises NotImplemented_ when there is none."""
    log = container.host_config.log_config
    directory = eng.container_dir(container.id)
    if log.type == "json-file":
        return log_path(directory, container.id), JSON_LINES
    if log.type == "local":
        return local_path(directory, container.id), BLOCKS
    if not options.caches(log.type, log.config or {}):
        raise NotImplemented_("configured logging driver does not support reading")
    return cache_path(directory, container.id), BLOCKS


def is_kept(container: Container) -> bool:
    """Whether `docker logs` can read the container's log."""
    log = container.host_config.log_config
    return log.type in options.FILES or options.caches(log.type, log.config or {})


def destination(eng: Engine, container: Container) -> dict[str, Any]:
    """Driver, options and attributes of the log, for the start message."""
    wanted = container.host_config.log_config
    kind, config = wanted.type or eng.config.log_driver, wanted.config or {}
    if kind in options.FILES or kind == "none":
        return {"type": kind, "config": config, "attrs": attributes(container)}
    attrs = attributes(container)
    attrs.pop("tag", None)
    record = container.record
    source = {
        "id": container.id,
        "name": container.name,
        "image": container.config.image,
        "image_id": record.image,
        "command": " ".join([record.path, *record.args]),
        "created": record.created,
        "hostname": os.uname().nodename,
        "tag": resolve_tag(container, config.get("tag") or DEFAULT_TAG),
        "attrs": attrs,
    }
    return {"type": kind, "config": config, "source": source}


def attributes(container: Container) -> dict[str, str]:
    """What the log options `labels`, `labels-regex`, `env`, `env-regex` and `tag` add to every record."""
    config = container.host_config.log_config.config
    if not config:
        return {}
    labels = container.config.labels or {}
    env = dict(entry.partition("=")[::2] for entry in container.config.env or () if "=" in entry)
    attrs: dict[str, str] = {}
    for known, names, pattern in ((labels, "labels", "labels-regex"), (env, "env", "env-regex")):
        listed = config.get(names, "").split(",")
        attrs |= {key: known[key] for key in listed if key in known}
        if expression := config.get(pattern):
            matches = _pattern(pattern, expression)
            attrs |= {key: value for key, value in known.items() if matches.found_in(key[:_LONGEST_NAME])}
    if tag := config.get("tag"):
        attrs["tag"] = resolve_tag(container, tag)
    return attrs


def validate_templates(config: Mapping[str, str]) -> None:
    """Refuse patterns and tags that a start could not use.  Raises InvalidParameter."""
    for name in ("labels-regex", "env-regex"):
        if expression := config.get(name):
            _pattern(name, expression)
    for action in _ACTION.finditer(config.get("tag", "")):
        _field(action[1])


def _pattern(name: str, expression: str) -> patterns.Pattern:
    """In linear time: the names that it meets are the image's."""
    try:
        return patterns.Pattern(expression)
    except patterns.Malformed:
        raise InvalidParameter(f"log opt {name}: error parsing regexp: {expression[:200]!r}") from None
    except InvalidParameter as error:
        raise InvalidParameter(f"log opt {name}: {error}") from None


def _field(action: str) -> str:
    """The field that `{{.Field}}` names."""
    text = action.strip("- \t\n")
    if not text.startswith(".") or text[1:] not in _FIELDS:
        raise InvalidParameter(f'template: log-tag: "{{{{{action}}}}}": only these are known: .{", .".join(_FIELDS)}')
    return text[1:]


def resolve_tag(container: Container, template: str) -> str:
    """Docker's tag template filled in for a container.  Raises InvalidParameter."""
    image = container.record.image.removeprefix("sha256:")
    known = {
        "ID": container.id[:12],
        "FullID": container.id,
        "Name": container.name,
        "ImageID": image[:12],
        "ImageFullID": container.record.image,
        "ImageName": container.config.image,
        "DaemonName": "docker",
    }
    return _ACTION.sub(lambda action: known[_field(action[1])], template)
