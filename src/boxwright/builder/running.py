"""RUN: a container of the image so far, whose output is told as it comes, and whose changes become a layer.

    intent ─ container ─ attached, started, ended ─ archive of the differences ─ image ─ container removed ─ intent done

The container has the name that the intent gives: an engine that comes back removes what a build has left.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from boxwright.builder import leftovers, run_mounts, steps
from boxwright.builder.arguments import HOSTNAME
from boxwright.builder.cache import Step
from boxwright.db import intents
from boxwright.engine import attach, create, start, wait
from boxwright.errdefs import Error
from boxwright.images import committing, spool
from boxwright.types.container import ContainerConfig, HealthConfig, HostConfig, LogConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from boxwright.builder.dockerfile.instructions import Run
    from boxwright.builder.output import Voice
    from boxwright.builder.state import State
    from boxwright.builder.steps import Work
    from boxwright.engine.engine import Engine

_HEADER = 8  # bytes before each frame of output: stream, 0, 0, 0, length
_STDERR = 2


class RunFailed(Error):
    """The command has ended with another code than 0."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {code}")
        self.code = code


async def run(work: Work, state: State, number: int, value: Run, voice: Voice) -> None:
    """RUN in the stage `number`.  Raises RunFailed, Wrong, and what create and start raise."""
    everything, counting = state.scope.environment(state.environment)
    words, script = _command(state, value)
    marks = [f"|{len(counting)}", *(f"{name}={text}" for name, text in counting.items())] if counting else []
    mounts = [run_mounts.parse(text, state.word) for text in value.mounts]
    extra = [*(repr(mount) for mount in mounts), value.network, script, f"epoch={work.epoch}"]
    sources = [mount for mount in mounts if mount.from_ or mount.kind == "bind"]
    extra += [await run_mounts.digest(work, number, mount, voice) for mount in sources]
    step = Step(state, " ".join([*marks, *words]), extra)
    if await steps.from_cache(work, step, voice):
        return
    if state.image is None:
        identifier = await committing.add(work.eng.images, None, None, lambda d, e: steps.empty(work, state))
        state.image = work.hold(work.eng.images.load_row(identifier))
    async with AsyncExitStack() as undo:
        host_config = _host_config(work, value)
        await run_mounts.prepare(work, state, number, mounts, host_config, voice, undo)
        if script:
            await run_mounts.script(work, script, value.heredocs[0].name, host_config, undo)
        config = ContainerConfig(
            image=state.image.id,
            cmd=words,
            entrypoint=[""],
            env=[*(state.config.env or []), *(f"{name}={text}" for name, text in everything.items())],
            hostname=work.arguments.given.get(HOSTNAME, ""),
            attach_stdout=True,
            attach_stderr=True,
            healthcheck=HealthConfig(test=["NONE"]),
        )
        async with container(work.eng, config, host_config, work.options.keep) as id:
            await voice.say(f" ---> Running in {id[:12]}\n")
            code = await _life(work.eng, id, voice)
            if code:
                if work.options.force_remove:
                    await voice.say(f"Removing intermediate container {id[:12]}\n")
                raise RunFailed(" ".join(words), code)
            changes = work.eng.snapshotter.diff(id, work.epoch)
            async with spool.received(changes, work.eng.config.path("tmp")) as archive:
                await steps.make(work, step, archive)
        if not work.options.keep:
            await voice.say(f"Removing intermediate container {id[:12]}\n")


def _command(state: State, value: Run) -> tuple[list[str], str]:
    """(the words to run, the script that they run or "").  Here-documents are the script, or the shell's."""
    command, documents = value.command, value.heredocs
    if not command.shell:
        return command.words, ""
    text = command.words[0]
    if documents and text.strip().startswith("<<") and len(text.split()) == 1:
        content = documents[0].content
        if content.startswith("#!"):
            return [f"{run_mounts.SCRIPTS}/{documents[0].name}"], content
        return [*state.shell, content], ""
    if documents:
        text += "\n" + "".join(f"{document.content}{document.name}\n" for document in documents)
    return [*state.shell, text], ""


def _host_config(work: Work, value: Run) -> HostConfig:
    options = work.options
    return HostConfig(
        memory=options.memory,
        memory_swap=options.memory_swap,
        cpu_shares=options.cpu_shares,
        cpu_period=options.cpu_period,
        cpu_quota=options.cpu_quota,
        cpuset_cpus=options.cpuset_cpus,
        cpuset_mems=options.cpuset_mems,
        cgroup_parent=options.cgroup_parent,
        shm_size=options.shm_size,
        ulimits=list(options.ulimits) or None,
        network_mode=value.network if value.network not in ("", "default") else options.network_mode,
        extra_hosts=list(options.extra_hosts) or None,
        security_opt=list(options.security_opt) or None,
        log_config=LogConfig(type="none"),
    )


# -- the container ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def container(eng: Engine, config: ContainerConfig, host_config: HostConfig, keep: bool) -> AsyncIterator[str]:
    """A container (its id) that is gone with its volumes when the body ends, however; keep: unless all is well."""
    name = f"build-{os.urandom(6).hex()}"
    intent = intents.begin(eng.db, leftovers.INTENT, name, {})
    made = asyncio.ensure_future(create.create(eng, name, config, host_config))
    done = False
    try:
        yield (await asyncio.shield(made))["Id"]
        done = keep
    finally:
        await eng.shielded(_clean(eng, made, name, intent, done))


async def _clean(eng: Engine, made: asyncio.Future[dict[str, object]], name: str, intent: int, keep: bool) -> None:
    await asyncio.wait([made])
    if made.cancelled():  # the engine ends: the next one cleans up
        return
    failed = made.exception()  # asked for in any case: it has been raised, or the build is cancelled
    if failed is None and not keep:
        await leftovers.clear(eng, name)
    intents.finish(eng.db, intent)


async def _life(eng: Engine, id: str, voice: Voice) -> int:
    """Start the container, tell its output, return its exit code."""
    sink = Sink(voice)
    options = attach.AttachOptions(stdout=True, stderr=True, stream=True)
    output = asyncio.ensure_future(attach.attach(eng, id, options, sink))
    waiter = wait.wait(eng, id, "next-exit")
    try:
        opened = asyncio.ensure_future(sink.opened.wait())
        await asyncio.wait([output, opened], return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        await start.start(eng, id)
        result = await waiter.result()
        await output
        return int(result["StatusCode"])
    finally:
        waiter.close()
        output.cancel()
        with contextlib.suppress(asyncio.CancelledError, Error):
            await output


class Sink:
    """A client of `attach` that tells a voice what the frames hold, errors in red as the builder's are."""

    def __init__(self, voice: Voice) -> None:
        self.closed = asyncio.Event()
        self.opened = asyncio.Event()
        self._voice = voice
        self._data = bytearray()
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (1, 2)}

    async def open(self, multiplexed: bool) -> None:
        """The container has this stream."""
        self.opened.set()

    async def read(self, n: int) -> bytes:
        """No input: nothing, once the stream is closed."""
        await self.closed.wait()
        return b""

    def write(self, data: bytes) -> None:
        """Frames, or parts of them."""
        self._data += data

    async def drain(self) -> None:
        """Tell the frames that are whole."""
        while len(self._data) >= _HEADER:
            end = _HEADER + int.from_bytes(self._data[4:_HEADER], "big")
            if len(self._data) < end:
                return
            stream = self._data[0]
            text = self._decoders[_STDERR if stream == _STDERR else 1].decode(bytes(self._data[_HEADER:end]))
            del self._data[:end]
            await self._voice.say(f"\x1b[91m{text}\x1b[0m" if stream == _STDERR and text else text)

    async def close(self) -> None:
        """There is no more."""
        self.closed.set()
