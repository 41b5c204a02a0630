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
    found = everything(dockerfile, variables, target)
    needed = {found[-1].stage.number}
    for planned in reversed(found):
        if planned.stage.number in needed:
            needed |= planned.needs
    return [planned for planned in found if planned.stage.number in needed]


def everything(dockerfile: Dockerfile, variables: Mapping[str, str], target: str) -> list[Planned]:
    """The target and every stage before it: what an image's triggers may ask for, too.  Raises InvalidParameter."""
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
        before = dockerfile.stages[: stage.number]
        parent = next((one.number for one in reversed(before) if one.base.name == image.lower()), None)
        needs = ({parent} if parent is not None else set()) | needs_of(stage.instructions, before)
        found.append(Planned(stage, image, parent, platform, frozenset(needs)))
    return found


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


def needs_of(instructions: Sequence[Instruction], before: Sequence[Stage]) -> set[int]:
    """Stages that instructions copy from or mount, of those before.  What is said with variables is no stage's name."""
    found: set[int] = set()
    for instruction in instructions:
        value = instruction.value
        sources: list[str] = []
        if isinstance(value, Copy):
            sources = [value.from_]
        elif isinstance(value, Run):
            sources = [stage_of(mount) for mount in value.mounts]
        numbers = (lookup(before, len(before), source) for source in sources if source)
        found |= {number for number in numbers if number is not None}
    return found
