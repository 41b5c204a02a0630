"""One build: context, Dockerfile, the stages that are needed side by side, and what the image is called."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from boxwright.builder import context, copying, metadata, running, sources, squashing, steps
from boxwright.builder.arguments import Global
from boxwright.builder.cache import Cache, Step
from boxwright.builder.dockerfile import instructions as of
from boxwright.builder.dockerfile import lines, stages
from boxwright.builder.dockerfile.errors import Wrong, at
from boxwright.builder.output import Voice
from boxwright.builder.state import State
from boxwright.errdefs import InvalidParameter
from boxwright.images import importing
from boxwright.images.distribution import platforms
from boxwright.specs.image import Platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from boxwright.builder.cache_mounts import CacheMounts
    from boxwright.builder.output import Console
    from boxwright.builder.steps import Work
    from boxwright.engine.engine import Engine
    from boxwright.images.image import Image
    from boxwright.types.build import BuildOptions

# Stages of one build that run at once.
_AT_ONCE = max(2, os.cpu_count() or 1)


async def build(
    eng: Engine, caches: CacheMounts, options: BuildOptions, pieces: AsyncIterator[bytes], console: Console
) -> str:
    """Build an image, telling the console; returns its id.

    Raises InvalidParameter (request, Dockerfile), NotFound (images, files), RunFailed, NotImplemented_, TooLarge,
    System.
    """
    if options.squash and not eng.config.experimental:
        raise InvalidParameter("squash is only supported with experimental mode")
    names = [importing.target(tag, "") for tag in options.tags]
    target = _target(options.platform)
    arguments = Global(options.build_args, platforms.host(), target)
    epoch = steps.epoch(arguments.given)
    async with AsyncExitStack() as undo:
        found, text = await context.receive(eng, pieces, options, undo)
        dockerfile = await asyncio.to_thread(stages.read, text)
        arguments.declare(dockerfile.arguments, dockerfile.escape)
        plan = stages.plan(dockerfile, arguments.variables, options.target)
        _add_labels(plan[-1].stage, options.labels, dockerfile.escape)
        kept = undo.enter_context(ExitStack())
        held = [image for name in options.cache_from if (image := eng.images.find(name)) is not None]
        for image in held:
            kept.enter_context(eng.images.hold(image.id))
        cache = Cache(eng.db, eng.images, held, restricted=bool(options.cache_from))
        work = steps.Work(eng, options, dockerfile, arguments, found, cache, caches, {}, epoch, kept, target)
        every = stages.everything(dockerfile, arguments.variables, options.target)
        built, base = await _Stages(work, plan, every, console).run()
        if built is None:
            raise InvalidParameter("No image was generated. Is your Dockerfile empty?")
        if options.squash:
            built = await squashing.squash(work, built, base)
            if options.aux and not options.quiet:
                await console.send({"aux": {"ID": built.id}})
        if unused := arguments.unused():
            await console.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        await console.say(f"Successfully built {_short(built.id)}\n")
        for name in names:
            eng.images.tag(built.id, str(name))
            await console.say(f"Successfully tagged {name}\n")
        return built.id


def _short(identifier: str) -> str:
    return identifier.partition(":")[2][:12]


def _target(text: str) -> Platform:
    """What the image is for: another processor than this one's does as long as nothing of it has to run."""
    found = platforms.parse(text)
    if found.os != "linux":
        raise InvalidParameter(f"a build for {text} is not supported: only images of linux can be made here")
    return found


def _add_labels(stage: stages.Stage, labels: dict[str, str], escape: str) -> None:
    """The request's labels are a last instruction, in which nothing is a variable."""
    if not labels:
        return
    pairs = [(_literal(name, escape), _literal(labels[name], escape)) for name in sorted(labels)]
    shown = " ".join(f"\"{name}\"='{labels[name]}'" for name in sorted(labels))
    line = lines.Line(stage.line.number, "label", (), "", f"LABEL {shown}")
    stage.instructions.append(of.Instruction(line, of.Label(pairs)))


def _literal(text: str, escape: str) -> str:
    return "".join(escape + character for character in text)


class _Stages:
    """The stages of one build: each starts when those that it needs are done, and is told when those before it are.

    every: those that nothing in the Dockerfile needs, too: the triggers of a base may.
    """

    def __init__(self, work: Work, plan: list[stages.Planned], every: list[stages.Planned], console: Console) -> None:
        self._work, self._plan, self._every, self._console = work, plan, every, console
        self._group = asyncio.TaskGroup()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._total = len(work.dockerfile.arguments) + sum(1 + len(planned.stage.instructions) for planned in plan)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._bases: dict[int, Image | None] = {}
        self._voices = {planned.stage.number: Voice(console) for planned in plan}

    async def run(self) -> tuple[Image | None, Image | None]:
        """Returns the image of the last stage, and the one that the stage began from."""
        count = 0
        for instruction in self._work.dockerfile.arguments:
            count += 1
            await self._console.say(f"Step {count}/{self._total} : {instruction.line.original}\n")
        try:
            async with self._group:
                for planned in self._plan:
                    self._begin_task(planned, count)
                    count += 1 + len(planned.stage.instructions)
                for planned in self._plan:  # which becomes longer when triggers ask for more
                    await self._voices[planned.stage.number].take_turn()
                    await asyncio.wait([self._tasks[planned.stage.number]])
        except* Exception as problems:
            raise _first(problems) from None
        number = self._plan[-1].stage.number
        return self._work.results[number].image, self._bases[number]

    def _begin_task(self, planned: stages.Planned, count: int) -> None:
        self._tasks[planned.stage.number] = self._group.create_task(self._stage(planned, count))

    async def _need(self, number: int, asking: stages.Planned) -> None:
        """A trigger of the stage `asking` needs another one: wait until it is done, which nobody may have begun."""
        if number not in self._tasks:
            planned = self._every[number]
            for more in planned.needs:
                await self._need(more, asking)
            voice = self._voices[number] = Voice(self._console)
            if self._voices[asking.stage.number].has_turn:
                await voice.take_turn()
            else:
                self._plan.insert(self._plan.index(asking), planned)
            count = self._total
            self._total += 1 + len(planned.stage.instructions)
            self._begin_task(planned, count)
        await self._tasks[number]

    @asynccontextmanager
    async def _place(self, voice: Voice) -> AsyncIterator[None]:
        """One of the places for stages that run at once.  The stage that is told now needs none: those after it may
        have so much to say that they keep theirs until they are told."""
        taking = asyncio.ensure_future(self._room.acquire())
        turn = asyncio.ensure_future(voice.turn())
        try:
            await asyncio.wait([taking, turn], return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            turn.cancel()
            taking.cancel()
            await asyncio.wait([taking])
            if not taking.cancelled():
                self._room.release()

    async def _stage(self, planned: stages.Planned, count: int) -> None:
        stage, voice = planned.stage, self._voices[planned.stage.number]
        for needed in planned.needs:
            await asyncio.wait([self._tasks[needed]])
            if needed not in self._work.results:
                return  # it has failed, and says why
        async with self._place(voice):
            try:
                await self._steps(planned, voice, count)
            except Exception:
                await voice.take_turn()
                raise
        if self._work.options.aux and not self._console.quiet and (image := self._work.results[stage.number].image):
            await voice.send({"aux": {"ID": image.id}})

    async def _steps(self, planned: stages.Planned, voice: Voice, count: int) -> None:
        work, stage = self._work, planned.stage
        await voice.say(f"Step {count + 1}/{self._total} : {stage.line.original}\n")
        state = await self._begin(planned, voice)
        self._bases[stage.number] = state.image
        await self._triggers(planned, state, voice)
        await voice.say(f" ---> {_short(state.image.id) if state.image else ''}\n")
        for index, instruction in enumerate(stage.instructions, count + 2):
            await voice.say(f"Step {index}/{self._total} : {instruction.line.original}\n")
            await self._instruction(stage.number, state, instruction, voice)
            if state.image is not None:
                await voice.say(f" ---> {_short(state.image.id)}\n")
        work.results[stage.number] = state

    async def _begin(self, planned: stages.Planned, voice: Voice) -> State:
        work = self._work
        if planned.parent is not None:
            above = work.results[planned.parent]
            return State(above.image, work.arguments, work.target, above.scope, work.dockerfile.escape)
        if planned.image == sources.SCRATCH:
            return State(None, work.arguments, work.target, None, work.dockerfile.escape)
        platform = planned.platform or work.options.platform
        image = await sources.image(work, planned.image, platform, voice)
        return State(image, work.arguments, work.target, None, work.dockerfile.escape)

    async def _triggers(self, planned: stages.Planned, state: State, voice: Voice) -> None:
        """ONBUILD of the base."""
        triggers = (state.image.parsed.config.on_build if state.image else None) or []
        if not triggers:
            return
        await voice.say(f"# Executing {len(triggers)} build trigger{'s' * (len(triggers) > 1)}\n")
        number = planned.stage.number
        for text in triggers:
            try:
                line = lines.single(text, "\\", planned.stage.line.number)
                if line.keyword in ("from", "onbuild", "maintainer"):
                    raise Wrong(f"{line.keyword.upper()} isn't allowed as an ONBUILD trigger")
                instruction = of.parse(line, "\\")
            except Wrong as problem:
                raise at(planned.stage.line.number, problem) from None
            for needed in sorted(stages.needs_of([instruction], self._work.dockerfile.stages[:number])):
                await self._need(needed, planned)
            await self._instruction(number, state, instruction, voice)

    async def _instruction(self, number: int, state: State, instruction: of.Instruction, voice: Voice) -> None:
        work, value = self._work, instruction.value
        try:
            if isinstance(value, of.Copy):
                await copying.copy(work, state, number, value, voice)
            elif isinstance(value, of.Run):
                await running.run(work, state, number, value, voice)
            else:
                said = metadata.apply(state, value)
                if instruction.line.keyword == "workdir":
                    await copying.workdir(work, state, said, voice)
                    return
                step = Step(state, f"{' '.join(state.shell)} #(nop)  {said}", [f"epoch={work.epoch}"])
                if not await steps.from_cache(work, step, voice):
                    await steps.make(work, step, None)
        except Wrong as problem:
            raise at(instruction.line.number, problem) from None


def _first(problems: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = problems
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
