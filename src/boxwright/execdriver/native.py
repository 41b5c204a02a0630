"""The native driver: a shim forked by the launcher, and libcontainer in it."""

import asyncio
import contextlib
import os
from _socket import socket
from collections.abc import Collection
from time import monotonic, monotonic_ns
from typing import Any

from boxwright import errdefs
from boxwright.execdriver import ExitStatus, Hooks, Running, StartRequest, lives, records
from boxwright.execdriver.foreign import Foreign, ForeignRunning
from boxwright.execdriver.running import (
    ANSWER_SECONDS,
    Died,
    Lost,
    NativeRunning,
    attach_options,
    clean_up,
)
from boxwright.execdriver.turns import Turn, Turns
from boxwright.execdriver.waiting import NOTHING, Waiting
from boxwright.launcher import outside, protocol
from boxwright.launcher.client import Launcher
from boxwright.libcontainer import cgroups, process

ADOPTIONS = 3  # attempts
CROWDED_SECONDS = 0.02  # between attempts to connect while a shim's backlog is full
_FOR_SHIM = (
    "id", "container_dir", "cgroup", "log", "tty", "open_stdin", "stdin_once", "configure_network", "limit", "relayed",
)  # fmt: skip
_FOR_STARTER = ("spec", "rootfs", "seccomp_path", "init")


class NativeDriver:
    """Starts containers through the launcher of `exec_root`.

    One shim is kept waiting (`waiting.py`): a start then only sends it a message.
    """

    name = "native"

    def __init__(self, exec_root: str, cgroup_parent: str = "", usual: dict[str, Any] | None = None) -> None:
        """cgroup_parent: where most containers' groups will be, absolute, or "".
        usual: what most specs say of /proc, /dev and /sys: their mounts, masked and read-only paths."""
        self._exec_root, self._launcher = exec_root, Launcher(exec_root)
        parent = cgroup_parent if cgroup_parent and cgroups.detect() == "fs" else ""
        self._waiting = Waiting(self._launcher, parent, usual or NOTHING)
        self._sockets = f"{exec_root}/shims"
        os.makedirs(self._sockets, 0o700, exist_ok=True)
        self._turns = Turns()
        self._lives: set[NativeRunning] = set()
        self._foreign: set[ForeignRunning] = set()

    async def ready(self) -> None:
        """Have the launcher running, so that the first start does not wait for it."""
        await self._launcher.ensure()
        await self._waiting.open()

    @property
    def prepared(self) -> bool:
        """Whether a shim waits for the next start."""
        return self._waiting.there

    async def start(self, request: StartRequest, hooks: Hooks) -> "NativeRunning":
        """See `execdriver.Driver`."""
        self._waiting.begin()
        turn: Turn | None = None
        try:
            turn = await self._turns.turn()
            try:
                return await self._start(request, hooks)
            except Died as death:
                # The launcher died with the request in its queue, or the shim itself.  Nobody holds the other end of
                # its socket any more, so nobody works on it: what it has left is removed, and, if possible, once more.
                self._waiting.sweep_later()
                await self.cleanup(request.id, request.container_dir, request.cgroup)
                if not isinstance(death, Lost):
                    raise
                return await self._start(request, hooks, anew=True)  # what waits may all have died with it
        finally:
            protocol.close_all(a.fd for a in request.attach)
            self._waiting.end()
            if turn is not None:
                turn.end()

    async def _start(self, request: StartRequest, hooks: Hooks, anew: bool = False) -> "NativeRunning":
        """anew: in a shim that is forked now."""
        life = self._life(request.id, request.generation, hooks, request.cgroup, request.container_dir)
        record = await lives.claim(request.container_dir, self._exec_root)
        try:
            waiting = None if anew else self._waiting.take(fresh=_may_look_into(request.spec))
            if waiting is not None:
                channel, line = waiting
                life.take_over(channel)
                life.begin(*_start_message(request, self._sockets, record), line)
            else:
                ours, theirs = protocol.pair()
                life.connect(ours)
                try:
                    life.begin(*_start_message(request, self._sockets, record))
                    await self._launcher.spawn(theirs.fileno())
                finally:
                    theirs.close()
        except BaseException:
            life.close()
            raise
        finally:
            os.close(record)
        await life.started()
        return life

    def _life(
        self, id: str, generation: int, hooks: Hooks, cgroup: dict[str, str], container_dir: str
    ) -> "NativeRunning":
        return NativeRunning(id, generation, hooks, cgroup, self._lives, self._sockets, self._waiting, container_dir)

    async def adopt(self, container_id: str, generation: int, hooks: Hooks, container_dir: str = "") -> Running | None:
        """See `execdriver.Driver`."""
        for _ in range(ADOPTIONS):
            sock = await self._connected(f"{container_id}.sock")
            if sock is None:
                return None
            life = self._life(container_id, generation, hooks, {}, container_dir)
            life.connect(sock)
            try:
                life.send("adopt", {})
                if await life.greeted():
                    return life
                again = False
            except Foreign as found:
                life.close()
                return self._leave_alone(ForeignRunning(container_id, found, self._sockets, container_dir))
            except (errdefs.Error, TimeoutError) as failure:
                # Shown out before our word was there: the shim's time with us ran out, or this process was stopped.
                again = isinstance(failure, Lost)
                if isinstance(failure, TimeoutError):
                    # Stopped or stuck: the caller ends its container, and it must not wake up to the next life's.
                    outside.kill_peer(sock)
            life.close()
            if not again:
                break
        return None

    def _leave_alone(self, life: ForeignRunning) -> ForeignRunning:
        self._foreign.add(life)
        life.exit.add_done_callback(lambda _: self._foreign.discard(life))
        return life

    async def _connected(self, name: str) -> socket | None:
        """A connection to a shim's socket; None when nobody listens there."""
        give_up = monotonic() + ANSWER_SECONDS
        while True:
            try:
                return protocol.connect(self._sockets, name)
            except BlockingIOError:  # many are before us
                if monotonic() >= give_up:
                    return None
                await asyncio.sleep(CROWDED_SECONDS)
            except OSError:
                return None

    def recorded(self, container_dir: str, generation: int) -> ExitStatus | None:
        """See `execdriver.Driver`."""
        return records.recorded(container_dir, generation)

    async def cleanup(self, container_id: str, container_dir: str, cgroup: dict[str, str]) -> None:
        """See `execdriver.Driver`."""
        held = []
        try:
            with contextlib.suppress(FileNotFoundError):  # somebody has taken the directory away
                held.append(await lives.claim(container_dir, self._exec_root))
            await clean_up(self._sockets, container_id, cgroup)
        finally:
            protocol.close_all(held)

    def sweep(self, known: Collection[str]) -> None:
        """At engine start: remove the sockets that dead shims have left, but for those of `known` containers."""
        for name in os.listdir(self._sockets):
            if name.removesuffix(".sock") in known:
                continue
            try:
                protocol.connect(self._sockets, name).close()
            except ConnectionRefusedError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._sockets}/{name}")
            except OSError:
                continue  # gone by itself, or alive and busy

    async def close(self) -> None:
        """See `execdriver.Driver`."""
        await self._waiting.close()
        for life in tuple(self._lives):
            life.close()
        for other in tuple(self._foreign):
            other.close()
        await self._launcher.close()


def _start_message(
    request: StartRequest, sockets: str, record: int
) -> tuple[dict[str, Any], list[int], dict[str, Any]]:
    """(what the shim itself reads, descriptors, what its starter reads)."""
    fields = {name: getattr(request, name) for name in _FOR_SHIM}
    becomes = request.cgroup["driver"] == "fs" and process.becomes(request.spec)
    fields |= {"becomes": becomes}
    fields |= {"attach": [attach_options(a) for a in request.attach], "socket_dir": sockets, "sent_ns": monotonic_ns()}
    return fields, [record, *(a.fd for a in request.attach)], {name: getattr(request, name) for name in _FOR_STARTER}


def _may_look_into(spec: dict[str, Any]) -> bool:
    """Whether a container could read the memory of a process on its way into it, though that is not dumpable.

    It gets a shim that has had no other container's output in its memory.
    """
    return "CAP_SYS_PTRACE" in (spec["process"].get("capabilities") or {}).get("bounding", ())
