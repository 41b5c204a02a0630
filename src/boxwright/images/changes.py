"""`--change` of `docker import` and `docker commit`: Dockerfile instructions that change an image's configuration and
run nothing.  Variables in them are those of the environment so far.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from boxwright.errdefs import InvalidParameter
from boxwright.linux import signals
from boxwright.specs.image import Defaults, Healthcheck

_SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(?:(?:[^:/]*:)?[^:/]*:)?(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?(?:/(?P<protocol>[A-Za-z]*))?")
_VARIABLE = re.compile(r"(?P<name>\w+)|\{(?P<braced>\w+)(?:(?P<operator>:?[-+])(?P<word>[^}]*))?\}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_MOST_PORTS = 65536


def apply(defaults: Defaults, changes: Sequence[str]) -> Defaults:
    """`defaults` with the instructions carried out, one or more in each text, one a line.

    An entrypoint takes the command away, unless one of the instructions before it has set that.
    Raises InvalidParameter with the builder's texts.
    """
    command_set = False
    for text in changes:
        if len(text) > 1 << 20:
            raise InvalidParameter("a change of more than 1 MiB")
        for line in _lines(text):
            name, _, rest = line.partition(" ")
            instruction = _INSTRUCTIONS.get(name.lower())
            if instruction is None:
                raise InvalidParameter(f"{name.lower()} is not a valid change command")
            instruction(defaults, rest.strip())
            command_set = command_set or instruction is _cmd
            if instruction is _entrypoint and not command_set:
                defaults.cmd = None
    return defaults


def _lines(text: str) -> list[str]:
    joined = re.sub(r"\\[ \t]*\n", "", text)
    lines = [line.strip().replace("\t", " ", 1) for line in joined.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise InvalidParameter("file with no instructions")
    return found


def _json_list(text: str) -> list[str] | None:
    """The exec form, a JSON list of strings; None for anything else."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text.encode(errors="surrogateescape"), type=list[str])
    except (msgspec.MsgspecError, RecursionError):
        return None


def _command(text: str) -> list[str]:
    words = _json_list(text)
    if words is not None:
        return words
    return [*_SHELL, text] if text else list(_SHELL)


def _cmd(defaults: Defaults, text: str) -> None:
    defaults.cmd = _command(text)


def _entrypoint(defaults: Defaults, text: str) -> None:
    defaults.entrypoint = _command(text) or None


def _env(defaults: Defaults, text: str) -> None:
    env = list(defaults.env or [])
    for name, value in _pairs("ENV", text, _variables(defaults)):
        if not name:
            raise InvalidParameter("ENV names can not be blank")
        env = [entry for entry in env if entry.partition("=")[0] != name] + [f"{name}={value}"]
    defaults.env = env


def _label(defaults: Defaults, text: str) -> None:
    labels = dict(defaults.labels or {})
    for name, value in _pairs("LABEL", text, _variables(defaults)):
        if not name:
            raise InvalidParameter("LABEL names can not be blank")
        labels[name] = value
    defaults.labels = labels


def _expose(defaults: Defaults, text: str) -> None:
    ports = dict(defaults.exposed_ports or {})
    variables = _variables(defaults)
    words = [part for word in text.split() for part in _unquoted(word, variables).split()]
    if not words:
        raise InvalidParameter("EXPOSE requires at least one argument")
    defaults.exposed_ports = {**ports, **exposed(words)}


def exposed(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The ports that EXPOSE names, "80", "80/udp" or "8000-8010", as a configuration has them.

    Raises InvalidParameter.
    """
    ports: dict[str, dict[str, Any]] = {}
    for word in words:
        match = _PORT.fullmatch(word)
        container = word.rpartition(":")[2].partition("/")[0]
        if match is None:
            raise InvalidParameter(f"Invalid containerPort: {container}")
        first, last = int(match["first"]), int(match["last"] or match["first"])
        protocol = (match["protocol"] or "tcp").lower()
        if not 0 < first <= last < _MOST_PORTS:
            raise InvalidParameter(f"Invalid containerPort: {container}")
        if protocol not in ("tcp", "udp", "sctp"):
            raise InvalidParameter(f"Invalid proto: {match['protocol']}")
        ports.update({f"{port}/{protocol}": {} for port in range(first, last + 1)})
    return ports


def _volume(defaults: Defaults, text: str) -> None:
    listed = _json_list(text)
    variables = _variables(defaults)
    paths = [_unquoted(word, variables) for word in (text.split() if listed is None else listed)]
    if not paths:
        raise InvalidParameter("VOLUME requires at least one argument")
    if not all(path.strip() for path in paths):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    defaults.volumes = {**(defaults.volumes or {}), **{path.strip(): {} for path in paths}}


def _workdir(defaults: Defaults, text: str) -> None:
    path = _one("WORKDIR", text, defaults)
    if not path.startswith("/"):
        path = f"{(defaults.working_dir or '/').rstrip('/')}/{path}"
    defaults.working_dir = path


def _user(defaults: Defaults, text: str) -> None:
    defaults.user = _one("USER", text, defaults)


def _stop_signal(defaults: Defaults, text: str) -> None:
    defaults.stop_signal = checked_signal(_one("STOPSIGNAL", text, defaults))


def checked_signal(signal: str) -> str:
    """What STOPSIGNAL may say: any number but 0, as with dockerd, or a name.  Raises InvalidParameter."""
    if re.fullmatch(r"0*[1-9][0-9]{0,2}", signal):
        return signal
    try:
        signals.number(signal)
    except ValueError:
        raise InvalidParameter(f"Invalid signal: {signal[:100]}") from None
    return signal


def _on_build(defaults: Defaults, text: str) -> None:
    if not text:
        raise InvalidParameter("ONBUILD requires at least one argument")
    trigger = text.partition(" ")[0].upper()
    if trigger == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidParameter(f"{trigger} isn't allowed as an ONBUILD trigger")
    defaults.on_build = [*(defaults.on_build or []), text]


def _healthcheck(defaults: Defaults, text: str) -> None:
    check = Healthcheck()
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        _health_option(check, *option[2:].partition("=")[::2])
        text = text.strip()
    kind, _, command = text.partition(" ")
    if not kind:
        raise InvalidParameter("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        check.test = ["NONE"]
    elif kind.upper() != "CMD":
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    else:
        command = command.strip()
        words = _json_list(command)
        if not command or words == []:
            raise InvalidParameter("Missing command after HEALTHCHECK CMD")
        check.test = ["CMD-SHELL", command] if words is None else ["CMD", *words]
    defaults.healthcheck = check


def _health_option(check: Healthcheck, name: str, value: str) -> None:
    if name == "retries":
        if not re.fullmatch(r"-?\d{1,9}", value):
            raise InvalidParameter(f'strconv.ParseInt: parsing "{value}": invalid syntax')
        if int(value) < 1:
            raise InvalidParameter(f"--retries must be at least 1 (not {int(value)})")
        check.retries = int(value)
        return
    field = {
        "interval": "interval", "timeout": "timeout", "start-period": "start_period",
        "start-interval": "start_interval",
    }.get(name)  # fmt: skip
    if field is None:
        raise InvalidParameter(f"Unknown flag: {name}")
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        kind = "missing unit in" if re.fullmatch(r"\d+", value) else "invalid"
        raise InvalidParameter(f'time: {kind} duration "{value}"')
    setattr(check, field, sum(int(float(number) * _UNITS[unit]) for number, unit in parts))


def _one(name: str, text: str, defaults: Defaults) -> str:
    if not text:
        raise InvalidParameter(f"{name} requires exactly one argument")
    return _unquoted(text, _variables(defaults))


def _variables(defaults: Defaults) -> dict[str, str]:
    """The environment, by name; of a name that is there twice the first counts, as in the builder's expansion."""
    return {name: value for name, _, value in (entry.partition("=") for entry in reversed(defaults.env or []))}


def _pairs(instruction: str, text: str, variables: dict[str, str]) -> list[tuple[str, str]]:
    """`NAME=VALUE …` with shell quoting, or the old form `NAME the rest of the line`."""
    if not text:
        raise InvalidParameter(f"{instruction} requires at least one argument")
    words = _words(text)
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidParameter(f"{instruction} must have two arguments")
        return [(_unquoted(name, variables), _unquoted(value.strip(), variables))]
    pairs = []
    for word in words:
        if "=" not in word:
            raise InvalidParameter(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        name, _, value = word.partition("=")
        pairs.append((_unquoted(name, variables), _unquoted(value, variables)))
    return pairs


def _words(text: str) -> list[str]:
    """Split at blanks that are neither quoted nor escaped; quotes stay."""
    words, word, quote, escaped = [], "", "", False
    for character in text:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\" and quote != "'":
            word, escaped = word + character, True
        elif quote:
            word += character
            quote = "" if character == quote else quote
        elif character in "'\"":
            word, quote = word + character, character
        elif character.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            word += character
    return [*words, word] if word else words


def _unquoted(text: str, variables: dict[str, str]) -> str:
    """Without quotes and escapes, with the values of variables; one that is not set is empty."""
    out, quote, position = "", "", 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\" and quote != "'" and position < len(text):
            following = text[position]
            position += 1
            out += following if not quote or following in '"$\\' else character + following
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif character == "$" and quote != "'":
            match = _VARIABLE.match(text, position)
            if match is None:
                out += character
            else:
                position = match.end()
                out += _value(match, variables)
        else:
            out += character
    return out


def _value(match: re.Match[str], variables: dict[str, str]) -> str:
    """`$NAME`, `${NAME}`, and with a word: `:-` or `-` for when it is not set, `:+` or `+` for when it is.

    With the colon an empty value counts as none.
    """
    name, operator, word = match["name"] or match["braced"], match["operator"] or "", match["word"] or ""
    value = variables.get(name)
    there = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("-") and not there:
        return _unquoted(word, variables)
    if operator.endswith("+"):
        return _unquoted(word, variables) if there else ""
    return value or ""


_INSTRUCTIONS: dict[str, Callable[[Defaults, str], None]] = {
    "cmd": _cmd, "entrypoint": _entrypoint, "env": _env, "expose": _expose, "healthcheck": _healthcheck,
    "label": _label, "onbuild": _on_build, "stopsignal": _stop_signal, "user": _user, "volume": _volume,
    "workdir": _workdir,
}  # fmt: skip
