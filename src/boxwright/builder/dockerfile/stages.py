"""A whole Dockerfile: global arguments, stages, and what each stage needs of the others."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from boxwright.builder.dockerfile import expand, lines
from boxwright.builder.dockerfile.errors import Wrong, at
from boxwright.builder.dockerfile.instructions import Arg, Copy, From, Instruction, Run, parse
from boxwright.builder.dockerfile.mounts import stage_of
from boxwright.errdefs import InvalidParameter


class Stage(NamedTuple):
    """One FROM with what follows it; `number` counts from 0.  The base's and copies' names are not yet expanded."""

    number: int
    line: lines.Line
    base: From
    instructions: list[Instruction]


class Dockerfile(NamedTuple):
    """A Dockerfile that is whole."""

    arguments: list[Instruction]
    stages: list[Stage]
    escape: str


class Planned(NamedTuple):
    """A stage that is to be built: its base's name with variables replaced, or the index of the stage that it is."""

    stage: Stage
    image: str
    parent: int | None
    platform: str
    needs: frozenset[int]


def read(data: bytes) -> Dockerfile:
    """Raises InvalidParameter with the number of the line."""
    source = lines.read(data)
    arguments: list[Instruction] = []
    stages: list[Stage] = []
    for line in source.lines:
        try:
            instruction = parse(line, source.escape)
        except Wrong as problem:
            raise at(line.number, problem) from None
        if isinstance(instruction.value, From):
            stages.append(Stage(len(stages), line, instruction.value, []))
        elif stages:
            stages[-1].instructions.append(instruction)
        elif isinstance(instruction.value, Arg):
            arguments.append(instruction)
        else:
            raise at(line.number, "no build stage in current context")
    if not stages:
        raise at(source.lines[-1].number, "no build stage in current context")
    return Dockerfile(arguments, stages, source.escape)


def plan(dockerfile: Dockerfile, variables: Mapping[str, str], target: str) -> list[Planned]:
    """The stages that the target needs, in the order of the file; the target is the last.

    variables: the global arguments.  target: a stage's name or number, "" for the last stage.
    Raises InvalidParameter.
    """
    names: dict[str, int] = {}
    found: list[Planned] = []
    wanted = _target(dockerfile.stages, target)
    for stage in dockerfile.stages[: wanted + 1]:
        try:
            image = expand.word(stage.base.image, variables, dockerfile.escape)
            platform = expand.word(stage.base.platform, variables, dockerfile.escape)
        except Wrong as problem:
            raise at(stage.line.number, problem) from None
        if not image:
            raise at(stage.line.number, f"base name ({stage.base.image}) should not be blank")
        parent = names.get(image.lower())
        needs = {parent} if parent is not None else set()
        needs |= _needs(stage, names)
        found.append(Planned(stage, image, parent, platform, frozenset(needs)))
        if stage.base.name:
            names[stage.base.name] = stage.number
    needed = {wanted}
    for planned in reversed(found):
        if planned.stage.number in needed:
            needed |= planned.needs
    return [planned for planned in found if planned.stage.number in needed]


def lookup(stages: Sequence[Stage], before: int, name: str) -> int | None:
    """The index of the stage called `name`, by name or number, that stands before stage `before`; the latest counts."""
    for stage in reversed(stages[:before]):
        if stage.base.name == name.lower():
            return stage.number
    return int(name) if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < before else None


def _target(stages: Sequence[Stage], target: str) -> int:
    if not target:
        return len(stages) - 1
    found = lookup(stages, len(stages), target)
    if found is None:
        raise InvalidParameter(f"failed to reach build target {target} in Dockerfile")
    return found


def _needs(stage: Stage, names: Mapping[str, int]) -> set[int]:
    """Stages that a stage's instructions copy from or mount.  What these say with variables is no stage's name."""
    found: set[int] = set()
    for instruction in stage.instructions:
        value = instruction.value
        sources: list[str] = []
        if isinstance(value, Copy):
            sources = [value.from_]
        elif isinstance(value, Run):
            sources = [stage_of(mount) for mount in value.mounts]
        for source in filter(None, sources):
            if source.lower() in names:
                found.add(names[source.lower()])
            elif source.isascii() and source.isdigit() and len(source) < 6 and int(source) < stage.number:
                found.add(int(source))
    return found
