"""One life of a container from the engine's side: what its shim says, and the verbs."""

import asyncio
import json
import os
import signal
from _socket import socket
from collections.abc import Callable
from time import monotonic_ns, time_ns
from typing import Any

import msgspec

from boxwright import errdefs
from boxwright.execdriver import AttachRequest, ExitStatus, Hooks, usage
from boxwright.execdriver.foreign import Foreign
from boxwright.execdriver.records import recorded, status
from boxwright.execdriver.waiting import Waiting
from boxwright.launcher import outside, packets, protocol
from boxwright.launcher.channel import Channel
from boxwright.libcontainer import cgroups
from boxwright.logger.timestamps import rfc3339nano

ANSWER_SECONDS = 30.0  # for a verb; a shim that needs longer is stopped, or the machine is
HANG_SECONDS = 120.0  # between two words about a start: a mount from a server that does not answer takes long
RELEASE_SECONDS = 10.0
SEEN_SECONDS = 5.0  # for a shim to tell of an end that is there
RETURNS = 3  # to a shim that hangs up on us, in one life
_NO_SHIM = "the container's shim died"


class Died(errdefs.StepError):
    """A shim is gone, and has undone nothing."""


class Lost(Died):
    """… without a word ("created" or "begun"): the program has not run."""


class NativeRunning:
    """See `execdriver.Running`."""

    def __init__(
        self,
        id: str,
        generation: int,
        hooks: Hooks,
        cgroup: dict[str, str],
        connected: "set[NativeRunning]",
        sockets: str,
        waiting: Waiting,
        container_dir: str,
    ) -> None:
        self.id, self.generation = id, generation
        self.pid, self.started_at, self.paused = 0, "", False
        self.timeline: list[list[Any]] = []
        self.execs: dict[str, dict[str, Any]] = {}
        self.problem = ""
        loop = asyncio.get_running_loop()
        self.exit: asyncio.Future[ExitStatus] = loop.create_future()
        self._hooks, self._cgroup, self._connected, self._sockets = hooks, cgroup, connected, sockets
        self._waiting, self._container_dir = waiting, container_dir
        self._returns = 0
        self._begun: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._seq = self._start_time = 0
        self._leaving = self._heard = False
        self._heard_at = 0.0  # on the loop's clock
        self._starting: set[str] = set()  # execs that have been asked for
        self._early: dict[str, dict[str, Any]] = {}  # … and have ended before their caller knew
        self._network: asyncio.Task[None] | None = None
        self._network_error: BaseException | None = None
        self._dying: asyncio.Task[None] | None = None
        self._channel: Channel | None = None

    # Before execve.

    def connect(self, sock: socket) -> None:
        """Talk to the shim over `sock`."""
        self._channel = Channel(sock, self._received, self._closed)
        self._connected.add(self)

    def take_over(self, channel: Channel) -> None:
        """Talk to the shim at the other end of `channel`."""
        self._channel = channel
        channel.hand_over(self._received, self._closed)
        self._connected.add(self)

    def begin(self, fields: dict[str, Any], fds: list[int], body: dict[str, Any], line: socket | None = None) -> None:
        """Tell the shim to start.  Raises System, and Lost when it has to be another.

        line: to its first process, which is told the body by it and, if it is gone, by the shim as ever; closed here.
        """
        text, told = _encode(body), False
        if line is not None:
            about = {name: fields[name] for name in ("sent_ns", "cgroup", "configure_network")}
            try:
                if fields["becomes"]:
                    # With the record, whose lock is held as long as any of them is at work.
                    packets.send(line, about, fds[:1], text)
                    told = True
            except OSError:
                pass  # the shim will find out by itself
            finally:
                line.close()
        try:
            self.send("start", fields, fds, b"" if told else text)
        except errdefs.System as failure:
            if told:  # by now its cgroup may be there
                raise Lost(_NO_SHIM, step="shim") from failure
            raise

    def send(self, kind: str, fields: dict[str, Any], fds: list[int] | tuple[int, ...] = (), body: bytes = b"") -> None:
        """One message to the shim; `body` is for its starter.  Raises System when it cannot be sent."""
        if self._channel is not None:
            message = {"type": kind, "generation": self.generation, **fields}
            try:
                self._channel.send(message, fds, body)
            except OSError as failure:
                raise errdefs.System(f"cannot reach the shim of container {self.id}: {failure.strerror}") from failure

    async def started(self) -> None:
        """Wait for execve.  Raises what failed, once the shim has undone the rest; Lost when it never says a word, Died
        when it says no more."""
        self._await_word(ANSWER_SECONDS)
        try:
            await asyncio.shield(self._begun)
        except asyncio.CancelledError:
            if not self._begun.done():
                self._abort()
            raise
        finally:
            self._patience.cancel()

    def _await_word(self, seconds: float) -> None:
        self._patience = asyncio.get_running_loop().call_later(seconds, self._hang_up_on_silence)

    def _hang_up_on_silence(self) -> None:
        """Stopped or stuck: when it wakes up it finds nobody to begin for (see `lives.py`)."""
        if self._channel is None:
            return
        if self._heard:
            ours = self._network is not None and not self._network.done()  # the engine's own part is under way
            since = 0.0 if ours else asyncio.get_running_loop().time() - self._heard_at
            if since < HANG_SECONDS:
                self._await_word(HANG_SECONDS - since)
                return
            what = f"the container's shim has said nothing for {HANG_SECONDS:.0f} s in the middle of the start"
            hint = "it is stopped, or waits for the kernel: a mount or device that does not answer"
            self._fail(Died(what, step="shim", hint=hint))
        self._channel.close()

    async def greeted(self) -> bool:
        """Wait for the hello of a shim that was there before; False when it is not this life."""
        await asyncio.wait_for(asyncio.shield(self._begun), ANSWER_SECONDS)
        alive = self.exit.done() or self._start_time in (0, protocol.start_time(self.pid))
        return alive and self._channel is not None and self._channel.open

    def close(self) -> None:
        """Disconnect: before the gate this undoes the start, after it the container lives on without us."""
        if self._channel is not None:
            self._begun.cancel()
            self._leaving = True
            self._channel.close()

    def _abort(self) -> None:
        if self._channel is not None:
            self._channel.half_close()

    def _received(self, message: dict[str, Any], fds: list[int]) -> None:
        if message.get("type") == "prepared":  # meant for who waits, and not a word about this start
            protocol.close_all(fds)
            return
        self._heard, self._heard_at = True, asyncio.get_running_loop().time()
        if message.get("type") == "created" and len(fds) == 2 and self._network is None:
            self._network = asyncio.ensure_future(self._configure(message["pid"], fds[0], fds[1]))
            return
        protocol.close_all(fds)
        # A launcher that could not fork does not know whose start it was: its message has generation -1.
        if message.get("generation") in (self.generation, -1):
            handler = _HANDLERS.get(str(message.get("type")))
            if handler is not None:
                handler(self, message)
        elif message.get("type") == "hello":
            self._fail(errdefs.NotFound(f"container {self.id} has another life"))

    async def _configure(self, pid: int, netns_fd: int, netlink_fd: int) -> None:
        """The engine's part between clone and execve."""
        begin = monotonic_ns()
        try:
            await self._hooks.network(pid, netns_fd, netlink_fd)
        except BaseException as error:
            self._network_error = error
            self._abort()
            if not isinstance(error, Exception):
                raise
        else:
            self._heard_at = asyncio.get_running_loop().time()  # the next word is the shim's
            self.send("go", {})
        finally:
            protocol.close_all((netns_fd, netlink_fd))
            self.timeline.append(["network", begin, monotonic_ns(), ""])

    def _on_started(self, message: dict[str, Any]) -> None:
        self.pid, self.started_at = message["pid"], message["started_at"]
        self._start_time = message["start_time"]
        self._merge(message)
        if not self._begun.done():
            self._begun.set_result(None)

    def _on_failed(self, message: dict[str, Any]) -> None:
        error = protocol.error_from_dict({"class": "StepError", **message["error"]})
        self._merge(message)
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._begun.done():
            error.steps = self.timeline  # type: ignore[attr-defined]
            self._begun.set_exception(error)
            self._begun.exception()  # whoever waited for it may have been cancelled: that is nothing to complain of

    def _merge(self, message: dict[str, Any]) -> None:
        steps = _decode(message.get("body") or b"[]")
        self.timeline = sorted(self.timeline + steps, key=lambda step: int(step[1]))

    def _on_hello(self, message: dict[str, Any]) -> None:
        if message.get("protocol", packets.UNNUMBERED) not in packets.SPOKEN:
            self._fail(Foreign(message))
            return
        for entry in message["execs"]:
            code = entry["exit_code"]
            self.execs[entry["id"]] = {"pid": entry["pid"], "running": code is None, "exit_code": code}
            if entry.get("timed_out"):
                self.execs[entry["id"]]["timed_out"] = True
            if code is not None:
                self.send("exec_release", {"exec_id": entry["id"]})
        self.pid, self.started_at, self.paused = message["pid"], message["started_at"], message["paused"]
        self._start_time, self._cgroup = message["start_time"], message["cgroup"]
        self._merge(message)
        if message["exit"] is not None and message["state"] == "ended":
            self.exit.set_result(status(message["exit"]))
        if message["state"] != "starting" and not self._begun.done():
            self._begun.set_result(None)

    # While it runs.

    def _on_reply(self, message: dict[str, Any]) -> None:
        future = self._replies.pop(message["seq"], None)
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(protocol.error_from_dict(message["error"]))
        else:
            future.set_result(message["result"])

    def _on_event(self, message: dict[str, Any]) -> None:
        kind, data = message["kind"], message["data"]
        if kind in ("paused", "unpaused"):
            self.paused = kind == "paused"
        elif kind == "exec_exit":
            if data["exec_id"] in self._starting:
                self._early[data["exec_id"]] = data
            else:
                self._exec_ended(data)
            return
        self._hooks.event(kind, data)

    def _exec_ended(self, data: dict[str, Any]) -> None:
        """Tell the engine first, then let the exec's streams end."""
        entry = self.execs.setdefault(data["exec_id"], {"pid": 0})
        entry.update(running=False, exit_code=data["exit_code"])
        if data.get("timed_out"):
            entry["timed_out"] = True
        try:
            self._hooks.event("exec_exit", data)
        finally:
            self.send("exec_release", {"exec_id": data["exec_id"]})

    def _on_exit(self, message: dict[str, Any]) -> None:
        if not self.exit.done():
            self.exit.set_result(status(message["status"]))

    def _on_waiting(self, _: dict[str, Any]) -> None:
        """The shim has let go of all that was the container's, and would take another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self._waiting.give(channel)
            self._closed()

    def _closed(self) -> None:
        """The shim is gone: after an orderly end, or as its container's death."""
        self._gone.set_result(None)
        self._connected.discard(self)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(errdefs.Conflict(f"container {self.id} is not running"))
        self._replies.clear()
        if not self._begun.done():
            kind = Died if self._heard else Lost
            self._fail(self._network_error or kind(_NO_SHIM, step="shim"))
        elif not (self._leaving or self._begun.cancelled() or self._begun.exception() or self.exit.done()):
            self._dying = asyncio.ensure_future(self._die())

    async def _return(self) -> bool:
        """Be the engine of a shim again that has hung up on us: one that did not read for long, or had no memory left.

        False when there is none, or it hangs up again and again.
        """
        if self._returns >= RETURNS:
            return False
        self._returns += 1
        try:
            sock = protocol.connect(self._sockets, f"{self.id}.sock")
        except OSError:
            return False
        loop = asyncio.get_running_loop()
        self._begun, self._gone = loop.create_future(), loop.create_future()
        ran = [exec_id for exec_id, entry in self.execs.items() if entry["running"]]
        self.connect(sock)
        try:
            self.send("adopt", {})
            if not await self.greeted():
                raise TimeoutError
        except (errdefs.Error, TimeoutError):
            self.close()
            return False
        for exec_id in ran:
            if not (entry := self.execs[exec_id])["running"]:
                ended = {"exec_id": exec_id, "exit_code": entry["exit_code"]}
                self._exec_ended({**ended, "timed_out": True} if entry.get("timed_out") else ended)
        return True

    async def _die(self) -> None:
        """The connection has ended before the container: take it up again.  Or the shim has died first: end the rest by
        its cgroup; the exit code is what it has recorded, or nobody can know it any more."""
        if await self._return():
            return
        ended = recorded(self._container_dir, self.generation)
        error = _NO_SHIM
        try:
            await clean_up(self._sockets, self.id, self._cgroup)
        except (errdefs.Error, OSError) as failure:
            error = f"{_NO_SHIM}, and its processes cannot be ended: {failure}"
        if not self.exit.done():
            number = int(signal.SIGKILL)
            killed = ExitStatus(128 + number, number, False, rfc3339nano(time_ns()), error)
            self.exit.set_result(ended or killed)

    async def _call(
        self, verb: str, fields: dict[str, Any], fds: tuple[int, ...] = (), body: dict[str, Any] | None = None
    ) -> Any:
        if self._channel is None or not self._channel.open or self.exit.done():
            raise errdefs.Conflict(f"container {self.id} is not running")
        self._seq += 1
        seq = self._seq
        future = self._replies[seq] = asyncio.get_running_loop().create_future()
        try:
            self.send("call", {"verb": verb, "seq": seq, **fields}, fds, _encode(body) if body is not None else b"")
            return await asyncio.wait_for(future, ANSWER_SECONDS)
        except TimeoutError:
            raise errdefs.Unavailable(f"the shim of container {self.id} does not answer") from None
        finally:
            self._replies.pop(seq, None)

    async def signal(self, sig: int, all: bool = False) -> None:
        """See `execdriver.Running`, also for the others."""
        await self._call("signal", {"signal": int(sig), "all": all})

    async def resize(self, h: int, w: int) -> None:
        await self._call("resize", {"h": h, "w": w})

    async def attach(self, request: AttachRequest) -> None:
        try:
            await self._call("attach", {"options": attach_options(request)}, (request.fd,))
        finally:
            protocol.close_all((request.fd,))

    async def pause(self) -> None:
        await self._call("pause", {})

    async def unpause(self) -> None:
        await self._call("unpause", {})

    async def exec(
        self,
        exec_id: str,
        process: dict[str, Any],
        *,
        tty: bool = False,
        attach: AttachRequest | None = None,
        open_stdin: bool = False,
        detach: bool = False,
        seccomp_path: str | None = None,
        limit_ns: int = 0,
    ) -> int:
        fields = {
            "limit_ns": limit_ns,
            "exec_id": exec_id,
            "tty": tty,
            "open_stdin": open_stdin and not detach,
            "attach": attach and attach_options(attach),
        }
        body = {"process": {**process, "terminal": tty, "subreaper": limit_ns > 0}, "seccomp_path": seccomp_path}
        self._starting.add(exec_id)
        try:
            result = await self._call("exec", fields, (attach.fd,) if attach else (), body)
            self.execs[exec_id] = {"pid": result["pid"], "running": True, "exit_code": None}
            return int(result["pid"])
        finally:
            self._starting.discard(exec_id)
            if attach:
                protocol.close_all((attach.fd,))
            if early := self._early.pop(exec_id, None):
                # Its end came together with its beginning: the caller hears of the beginning first.
                asyncio.get_running_loop().call_soon(self._exec_ended, early)

    async def exec_resize(self, exec_id: str, h: int, w: int) -> None:
        await self._call("exec_resize", {"exec_id": exec_id, "h": h, "w": w})

    async def exec_signal(self, exec_id: str, sig: int) -> None:
        await self._call("exec_signal", {"exec_id": exec_id, "signal": int(sig)})

    async def update(self, resources: dict[str, Any]) -> None:
        await self._call("update", {"resources": resources})

    async def pids(self) -> list[int]:
        return list(await self._call("pids", {}))

    def stats(self) -> dict[str, Any]:
        if self.exit.done():
            raise errdefs.Conflict(f"container {self.id} is not running")
        return usage.read(self._cgroup, self.pid)

    async def destroy(self) -> None:
        await asyncio.to_thread(kill_group, self._cgroup)
        try:
            await asyncio.wait_for(asyncio.shield(self.exit), SEEN_SECONDS)
        except TimeoutError:
            outside.kill(self._sockets, f"{self.id}.sock")  # stopped or stuck: its death is told by its connection

    async def release(self) -> None:
        self.send("release", {"again": self._waiting.wants_more})
        try:
            await asyncio.wait_for(asyncio.shield(self._gone), RELEASE_SECONDS)
        except TimeoutError:
            # It is stopped, or waits for a client that does not read: what it holds is gone or goes with it.
            self.close()


_HANDLERS: dict[str, Callable[[NativeRunning, dict[str, Any]], None]] = {
    "started": NativeRunning._on_started,
    "failed": NativeRunning._on_failed,
    "hello": NativeRunning._on_hello,
    "reply": NativeRunning._on_reply,
    "event": NativeRunning._on_event,
    "exit": NativeRunning._on_exit,
    "waiting": NativeRunning._on_waiting,
}


def attach_options(request: AttachRequest) -> dict[str, bool]:
    return {name: getattr(request, name) for name in ("stdin", "stdout", "stderr", "mux")}


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return json.dumps(document).encode()  # bytes of a path that are no text travel as escaped surrogates


def _decode(body: bytes) -> Any:
    """JSON from a shim, without what the database could not store: a surrogate is a byte of a path that is no text."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return msgspec.json.decode(json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace"))


async def clean_up(sockets: str, container_id: str, cgroup: dict[str, str]) -> None:
    """Whatever a dead shim or an interrupted start left."""
    await asyncio.to_thread(_remove_group, cgroup)
    try:
        os.unlink(f"{sockets}/{container_id}.sock")
    except FileNotFoundError:
        pass


def _remove_group(cgroup: dict[str, str]) -> None:
    """Kill and remove a container's cgroup; blocks until that is done."""
    if cgroup:
        kill_group(cgroup).destroy()


def kill_group(cgroup: dict[str, str]) -> cgroups.Manager:
    group = cgroups.manager(cgroup["driver"], cgroup["parent"], cgroup["name"])
    group.kill()
    return group
