"""Instructions that change an image's configuration and none of its files."""

import posixpath
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from boxwright.builder.dockerfile import expand
from boxwright.builder.dockerfile import instructions as of
from boxwright.builder.dockerfile.errors import Wrong
from boxwright.builder.state import State
from boxwright.errdefs import InvalidParameter
from boxwright.images import changes


def apply(state: State, value: of.Value) -> str:
    """Carry the instruction out on the state's configuration; returns what the history says of it.

    Raises Wrong.
    """
    state.config = msgspec.structs.replace(state.config)
    try:
        return _APPLIERS[type(value)](state, value)
    except InvalidParameter as problem:
        raise Wrong(str(problem)) from None


def _env(state: State, value: of.Env) -> str:
    said = []
    variables = state.variables
    entries = list(state.config.env or [])
    for raw_name, raw in value.pairs:
        name = expand.word(raw_name, variables, state.escape)
        if not name:
            raise Wrong("ENV names can not be blank")
        entry = f"{name}={expand.word(raw, variables, state.escape)}"
        place = next((i for i, old in enumerate(entries) if old.partition("=")[0] == name), len(entries))
        entries[place : place + 1] = [entry]
        said.append(entry)
    state.config.env = entries
    return f"ENV {' '.join(said)}"


def _label(state: State, value: of.Label) -> str:
    said = []
    variables = state.variables
    labels = dict(state.config.labels or {})
    for raw_name, raw in value.pairs:
        name = expand.word(raw_name, variables, state.escape)
        if not name:
            raise Wrong("LABEL names can not be blank")
        labels[name] = expand.word(raw, variables, state.escape)
        said.append(f"{name}={labels[name]}")
    state.config.labels = labels
    return f"LABEL {' '.join(said)}"


def _arg(state: State, value: of.Arg) -> str:
    said = []
    for raw_name, raw in value.pairs:
        name = state.word(raw_name)
        default = None if raw is None else state.word(raw)
        state.scope.declare(name, default)
        said.append(name if default is None else f"{name}={default}")
    return f"ARG {' '.join(said)}"


def _command(state: State, command: of.Command) -> list[str]:
    return [*state.shell, *command.words] if command.shell else command.words


def _cmd(state: State, value: of.Cmd) -> str:
    state.config.cmd = _command(state, value.command)
    state.config.args_escaped = False
    state.command_set = True
    return f"CMD {quoted(state.config.cmd)}"


def _entrypoint(state: State, value: of.Entrypoint) -> str:
    words = _command(state, value.command) if value.command.words else []
    state.config.entrypoint = words or None
    if not state.command_set:
        state.config.cmd = None
    return f"ENTRYPOINT {quoted(words)}"


def _shell(state: State, value: of.Shell) -> str:
    state.config.shell = value.words
    return f"SHELL [{' '.join(value.words)}]"


def _words(state: State, value: of.Words) -> str:
    if value.keyword == "expose":
        words = [word for text in value.words for word in expand.words(text, state.variables, state.escape)]
        state.config.exposed_ports = {**(state.config.exposed_ports or {}), **changes.exposed(words)}
        return f"EXPOSE {' '.join(words)}"
    paths = [state.word(word).strip() for word in value.words]
    if not all(paths):
        raise Wrong("VOLUME specified can not be an empty string")
    volumes: dict[str, dict[str, Any]] = dict(state.config.volumes or {})
    state.config.volumes = {**volumes, **{path: {} for path in paths}}
    return f"VOLUME [{' '.join(paths)}]"


def _text(state: State, value: of.Text) -> str:
    keyword, text = value.keyword.upper(), value.text
    if keyword != "MAINTAINER":
        text = state.word(text)
        if not text:
            raise Wrong(f"{keyword} requires exactly one argument")
    if keyword == "MAINTAINER":
        state.author = text
    elif keyword == "STOPSIGNAL":
        state.config.stop_signal = changes.checked_signal(text)
    elif keyword == "USER":
        state.config.user = text
    else:
        state.config.working_dir = posixpath.normpath(state.absolute(text).replace("//", "/"))
        return f"WORKDIR {state.config.working_dir}"
    return f"{keyword} {text}"


def _health(state: State, value: of.Health) -> str:
    state.config.healthcheck = value.check
    check = value.check
    times = f'"{check.interval}ns" "{check.timeout}ns" "{check.start_period}ns" "{check.start_interval}ns"'
    return f"HEALTHCHECK &{{{quoted(check.test)} {times} {check.retries}}}"


def _onbuild(state: State, value: of.OnBuild) -> str:
    state.config.on_build = [*(state.config.on_build or []), value.expression]
    return f"ONBUILD {value.expression}"


def quoted(words: Sequence[str]) -> str:
    """Words as Go's %q shows a list of them."""
    inside = " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"' for word in words)
    return f"[{inside}]"


_APPLIERS: dict[type, Callable[[State, Any], str]] = {
    of.Arg: _arg, of.Cmd: _cmd, of.Entrypoint: _entrypoint, of.Env: _env, of.Health: _health, of.Label: _label,
    of.OnBuild: _onbuild, of.Shell: _shell, of.Text: _text, of.Words: _words,
}  # fmt: skip
