"""Instructions as values, made out of lines: what each says, its form checked, its variables not yet replaced."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from boxwright.builder.dockerfile import lines
from boxwright.builder.dockerfile.errors import Wrong
from boxwright.builder.dockerfile.flags import Flags
from boxwright.builder.dockerfile.lines import Heredoc, Line
from boxwright.specs.image import Healthcheck

Pairs = list[tuple[str, str]]


class Command(NamedTuple):
    """CMD, ENTRYPOINT, RUN, SHELL: words of the exec form, or the text of the shell form."""

    words: list[str]
    shell: bool


class From(NamedTuple):
    """FROM image [AS name]."""

    image: str
    name: str
    platform: str


class Arg(NamedTuple):
    """ARG name[=default] …: (name, default or None)."""

    pairs: list[tuple[str, str | None]]


class Env(NamedTuple):
    """ENV."""

    pairs: Pairs


class Label(NamedTuple):
    """LABEL."""

    pairs: Pairs


class Copy(NamedTuple):
    """COPY and ADD.  heredocs: sources whose content stands in the Dockerfile."""

    add: bool
    sources: list[str]
    destination: str
    heredocs: tuple[Heredoc, ...]
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    checksum: str = ""
    unpack: bool | None = None
    keep_git_dir: bool = False


class Run(NamedTuple):
    """RUN.  heredocs: belong to the command.  mounts: as they stand, see `mounts.py`."""

    command: Command
    heredocs: tuple[Heredoc, ...]
    mounts: tuple[str, ...]
    network: str


class Cmd(NamedTuple):
    """CMD."""

    command: Command


class Entrypoint(NamedTuple):
    """ENTRYPOINT."""

    command: Command


class Shell(NamedTuple):
    """SHELL."""

    words: list[str]


class Words(NamedTuple):
    """EXPOSE and VOLUME."""

    keyword: str
    words: list[str]


class Text(NamedTuple):
    """MAINTAINER, STOPSIGNAL, USER, WORKDIR: one text."""

    keyword: str
    text: str


class Health(NamedTuple):
    """HEALTHCHECK."""

    check: Healthcheck


class OnBuild(NamedTuple):
    """ONBUILD: the instruction that a build from this image begins with."""

    expression: str


Value = From | Arg | Env | Label | Copy | Run | Cmd | Entrypoint | Shell | Words | Text | Health | OnBuild


class Instruction(NamedTuple):
    """A value and the line that it comes from."""

    line: Line
    value: Value


def parse(line: Line, escape: str) -> Instruction:
    """Raises Wrong."""
    flags = Flags(line.flags)
    made = _MAKERS[line.keyword](line, flags, escape)
    flags.refuse_rest()
    return Instruction(line, made)


# -- forms ------------------------------------------------------------------------------------------------------------


def json_list(text: str) -> list[str] | None:
    """The exec form, a JSON list of strings; None for anything else."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text.encode(errors="surrogateescape"), type=list[str])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def _command(text: str) -> Command:
    words = json_list(text)
    return Command([text] if text else [], True) if words is None else Command(words, False)


def _maybe_list(text: str) -> list[str]:
    words = json_list(text)
    return text.split() if words is None else words


def _pairs(keyword: str, text: str, escape: str) -> Pairs:
    """`NAME=VALUE …`, or the old form `NAME the rest of the line`; quotes stay."""
    if not text:
        raise Wrong(f"{keyword} requires at least one argument")
    words = lines.raw_words(text, escape)
    if "=" not in words[0]:
        name, _, value = text.replace("\t", " ").partition(" ")
        if not value.strip():
            raise Wrong(f"{keyword} must have two arguments")
        return [(name, value.strip())]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Wrong(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        if not name:
            raise Wrong(f"{keyword} names can not be blank")
        pairs.append((name, value))
    return pairs


def _one(line: Line) -> str:
    if not line.rest:
        raise Wrong(f"{line.keyword.upper()} requires exactly one argument")
    return line.rest


# -- instructions -----------------------------------------------------------------------------------------------------


def _from(line: Line, flags: Flags, escape: str) -> From:
    words = line.rest.split()
    platform = flags.text("platform")
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not stage_name(name):
            raise Wrong(
                f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols'
            )
        return From(words[0], name, platform)
    if len(words) != 1:
        raise Wrong("FROM requires either one or three arguments")
    return From(words[0], "", platform)


def stage_name(name: str) -> bool:
    """Whether a stage may be called that (small letters)."""
    return name[:1].isascii() and name[:1].isalpha() and all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)


def _arg(line: Line, flags: Flags, escape: str) -> Arg:
    words = lines.raw_words(line.rest, escape)
    if not words:
        raise Wrong("ARG requires at least one argument")
    pairs: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise Wrong("ARG names can not be blank")
        pairs.append((name, value if equals else None))
    return Arg(pairs)


def _env(line: Line, flags: Flags, escape: str) -> Env:
    return Env(_pairs("ENV", line.rest, escape))


def _label(line: Line, flags: Flags, escape: str) -> Label:
    return Label(_pairs("LABEL", line.rest, escape))


def _copy(line: Line, flags: Flags, escape: str) -> Copy:
    keyword = line.keyword.upper()
    add = keyword == "ADD"
    words = _maybe_list(line.rest)
    if not words:
        raise Wrong(f"{keyword} requires at least two arguments, but no arguments were provided")
    if len(words) == 1:
        raise Wrong(
            f"{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
    heredocs = {f"<<{'-' * doc.chomp}{doc.name}" for doc in line.heredocs}
    sources = [word for word in words[:-1] if not (heredocs and word.replace('"', "").replace("'", "") in heredocs)]
    return Copy(
        add,
        sources,
        words[-1],
        line.heredocs,
        from_="" if add else flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.boolean("link"),
        parents=False if add else flags.boolean("parents"),
        excludes=tuple(flags.several("exclude")),
        checksum=flags.text("checksum") if add else "",
        unpack=flags.optional("unpack") if add else None,
        keep_git_dir=flags.boolean("keep-git-dir") if add else False,
    )


def _run(line: Line, flags: Flags, escape: str) -> Run:
    mounts, network = tuple(flags.several("mount")), flags.text("network")
    if flags.text("security") not in ("", "sandbox"):
        raise Wrong("the --security option of RUN is refused: no build runs outside of the sandbox")
    if network not in ("", "default", "none", "host"):
        raise Wrong(f'unsupported network mode "{network}"')
    command = _command(line.rest)
    if not command.words:
        raise Wrong("RUN requires at least one argument")
    return Run(command, line.heredocs, mounts, network)


def _cmd(line: Line, flags: Flags, escape: str) -> Cmd:
    return Cmd(_command(line.rest))


def _entrypoint(line: Line, flags: Flags, escape: str) -> Entrypoint:
    return Entrypoint(_command(line.rest))


def _shell(line: Line, flags: Flags, escape: str) -> Shell:
    words = json_list(line.rest)
    if words is None:
        raise Wrong("SHELL requires the arguments to be in JSON form")
    if not words:
        raise Wrong("SHELL requires at least one argument")
    return Shell(words)


def _words(line: Line, flags: Flags, escape: str) -> Words:
    listed = json_list(line.rest) if line.keyword == "volume" else None
    words = line.rest.split() if listed is None else listed
    if not words:
        raise Wrong(f"{line.keyword.upper()} requires at least one argument")
    if not all(word.strip() for word in words):
        raise Wrong("VOLUME specified can not be an empty string")
    return Words(line.keyword, words)


def _text(line: Line, flags: Flags, escape: str) -> Text:
    return Text(line.keyword, _one(line))


def _health(line: Line, flags: Flags, escape: str) -> Health:
    check = Healthcheck(
        interval=flags.duration("interval"),
        timeout=flags.duration("timeout"),
        start_period=flags.duration("start-period"),
        start_interval=flags.duration("start-interval"),
        retries=flags.count("retries"),
    )
    if not line.rest:
        raise Wrong("HEALTHCHECK requires at least one argument")
    kind, command = [*line.rest.split(maxsplit=1), ""][:2]
    if kind.upper() == "NONE":
        if command.strip():
            raise Wrong("HEALTHCHECK NONE takes no arguments")
        check.test = ["NONE"]
        return Health(check)
    if kind.upper() != "CMD":
        raise Wrong(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    form = _command(command.strip())
    if not form.words:
        raise Wrong("Missing command after HEALTHCHECK CMD")
    check.test = ["CMD-SHELL" if form.shell else "CMD", *form.words]
    return Health(check)


def _onbuild(line: Line, flags: Flags, escape: str) -> OnBuild:
    trigger = (line.rest.split(maxsplit=1) or [""])[0].upper()
    if not trigger:
        raise Wrong("ONBUILD requires at least one argument")
    if trigger == "ONBUILD":
        raise Wrong("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise Wrong(f"{trigger} isn't allowed as an ONBUILD trigger")
    documents = "".join(f"\n{doc.content}{doc.name}" for doc in line.heredocs)
    whole = line.rest + documents
    parse(lines.single(whole, escape, line.number), escape)  # a trigger that is wrong is refused here
    return OnBuild(whole)


_MAKERS: dict[str, Callable[[Line, Flags, str], Value]] = {
    "add": _copy, "arg": _arg, "cmd": _cmd, "copy": _copy, "entrypoint": _entrypoint, "env": _env, "expose": _words,
    "from": _from, "healthcheck": _health, "label": _label, "maintainer": _text, "onbuild": _onbuild, "run": _run,
    "shell": _shell, "stopsignal": _text, "user": _text, "volume": _words, "workdir": _text,
}  # fmt: skip
