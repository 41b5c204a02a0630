"""The shim: one process for each container: parent of its first process, owner of its stdio, memory of its life.

    waiting ─start─► starting ─execve─► running ─init ends─► ending ─streams drained─► ended ─release─► leaving
       │                │                                                              (or no engine)
       └─ engine gone ──┴─ engine gone before the gate, or a step failed: all is undone ─► undone

It outlives the engine and the launcher.  Orphans of a container without a pid namespace of its own go to the launcher,
a subreaper, which reaps them.  Whatever needs much code is done by a starter (`starter.py`); verbs are in
`verbs.py`, execs in `sessions.py`, stdio in `streams.py`.
"""

import errno
import gc
import os
from time import monotonic_ns, time_ns

from boxwright import errdefs
from boxwright.launcher import exitrecord, limits, packets, sessions, starter, strays, verbs
from boxwright.launcher.children import Starter, close_theirs, pipes, reap
from boxwright.launcher.control import Control
from boxwright.launcher.door import Door
from boxwright.launcher.firstborn import Firstborn, death
from boxwright.launcher.loop import IN, Loop
from boxwright.launcher.streams import Stdio
from boxwright.libcontainer import jsontext
from boxwright.logger import options
from boxwright.logger.none import NoneWriter
from boxwright.logger.timestamps import rfc3339nano

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

    from boxwright.launcher.relay import Relay
    from boxwright.libcontainer import cgroups
    from boxwright.logger.options import Writer

LIVES = 100  # further containers of one process, which grows a little with each


def serve(control: "socket", asked: bytes) -> None:
    """The life of a shim that the launcher has just forked; returns at its end.

    asked: `packets.SPARE` when the start comes later: there is time to clone a first process and prepare it.  What
    follows is the cgroup (v1) below which that makes its own, if any, and on a second line what it can count on
    (JSON, see `libcontainer/usual.py`).
    """
    spare = None
    if asked.startswith(packets.SPARE):
        parent, _, usual = asked.removeprefix(packets.SPARE).partition(b"\n")
        spare = Firstborn(usual, parent.decode())
    shim = Shim(control, spare)
    if spare is not None:
        shim.offer_line()
        _warm_up()
    kept = _live(shim)
    for _ in range(LIVES):
        if kept is None:
            return
        gc.collect()  # what the launcher froze is not looked at
        os.closerange(3, kept.fileno())
        os.closerange(kept.fileno() + 1, packets.HIGHEST_FD)
        kept = _live(Shim.again(kept))


def _warm_up() -> None:
    """Receive and pass on what is like a start, while there is time: the pages that this touches are copied then, and
    not while the first process waits for what is passed on."""
    loop = Loop()
    socks: list[socket] = []

    def received(message: "dict[str, Any]", fds: list[int]) -> None:
        mine, stdio = pipes(message["open_stdin"])
        packets.send(socks[2], {"work": "become", "stdio": True, "cgroup": message["cgroup"]}, [*stdio, *fds])
        packets.close_all((*mine, *fds))
        close_theirs(stdio)

    try:
        socks.extend((*packets.pair(), *packets.pair()))
        connection = Control(loop, socks[1], received, lambda _: None)
        packets.send(socks[0], {"type": "start", "generation": 1, "cgroup": {}, "open_stdin": False}, [0])
        loop.turn(-1)
        connection.close()
    except OSError:
        pass  # there are no descriptors, say: the start will tell
    finally:
        loop.close()
        packets.close_all(sock.detach() for sock in socks)


def _live(shim: "Shim") -> "socket | None":
    """One life; the connection to the engine when there is to be another."""
    shim.loop.run()
    return shim.kept


class Shim:
    """One container's life.

    pid, pidfd: of its first process, 0 and -1 before execve.
    cgroup: {"driver", "parent", "name"}, empty before the start.
    becomes: whether children of ours become the container's processes, or have to clone them (`starter.py`).
    """

    __slots__ = (
        "_began_ns",
        "_control",
        "_door",
        "_engine_said_go",
        "_exec_codes",
        "_exit",
        "_gate_is_open",
        "_limit",
        "_lock_fd",
        "_log",
        "_oom_fd",
        "_oom_seen",
        "_record_fd",
        "_relay",
        "_request",
        "_shares_pids",
        "_spare",
        "_starter",
        "_steps",
        "becomes",
        "cgroup",
        "generation",
        "id",
        "kept",
        "loop",
        "paused",
        "pid",
        "pidfd",
        "sessions",
        "start_time",
        "started_at",
        "state",
        "stdio",
    )

    def __init__(self, control: "socket", spare: Firstborn | None = None) -> None:
        """spare: a first process that was cloned and prepared in advance."""
        self.loop = Loop()
        self.state = "waiting"
        self.id, self.generation = "", -1
        self.pid, self.pidfd, self.start_time, self.started_at = 0, -1, 0, ""
        self.paused = self.becomes = False
        self.cgroup: dict[str, str] = {}
        self.sessions: dict[str, sessions.Session] = {}
        self._exit: dict[str, Any] | None = None
        self._exec_codes: dict[str, tuple[int, bool]] = {}
        self._limit: limits.Limit | None = None
        self._request: dict[str, Any] = {}
        self._gate_is_open = self._engine_said_go = self._shares_pids = False
        self._door: Door | None = None
        self._relay: Relay | None = None
        self._starter: Starter | Firstborn | None = None
        self._spare = spare
        self._lock_fd = self._record_fd = self._oom_fd = -1
        self._oom_seen = 0
        self._steps = b""
        self._log: Writer = NoneWriter()
        self._control: Control | None = Control(self.loop, control, self._received, self._engine_gone)
        self.kept: socket | None = None

    @classmethod
    def again(cls, control: "socket") -> "Shim":
        """For another container; the engine is told that it can start one here."""
        shim = cls(control)
        shim._send("waiting", {})
        return shim

    # The engine.

    def offer_line(self) -> None:
        """Give the engine the line to a first process that waits (`starter.become`)."""
        if self._spare is not None and (line := self._spare.line) is not None:
            self._send("prepared", {}, [line.fileno()])
            line.close()
            self._spare.line = None

    @property
    def connected(self) -> bool:
        """Whether an engine is there."""
        return self._control is not None

    def event(self, kind: str, data: "dict[str, Any]") -> None:
        """Tell the engine; without one, nobody."""
        self._send("event", {"kind": kind, "data": data})

    def reply(self, seq: int, result: "Any") -> None:
        """A verb has worked."""
        self._send("reply", {"seq": seq, "result": result})

    def refuse(self, seq: int, error: BaseException) -> None:
        """A verb has failed."""
        self._send("reply", {"seq": seq, "error": verbs.error_to_dict(error)})

    def remember(self, exec_id: str, exit_code: int, timed_out: bool) -> None:
        """Keep an exec's exit code, and whether its limit brought it about, for an engine that comes back."""
        self._exec_codes[exec_id] = exit_code, timed_out
        while len(self._exec_codes) > sessions.REMEMBERED:
            del self._exec_codes[next(iter(self._exec_codes))]

    def _send(
        self, kind: str, fields: "dict[str, Any]", fds: "tuple[int, ...] | list[int]" = (), body: bytes = b""
    ) -> None:
        if self._control is not None:
            self._control.send(kind, fields, fds, body)

    def _received(self, message: "dict[str, Any]", fds: list[int]) -> None:
        kind = message.get("type")
        if kind == "start" and self.state == "waiting":
            if self._control is not None and starter.is_gone(self._control.sock):
                packets.close_all(fds)  # nothing is begun for an engine that has died meanwhile
            else:
                self._start(message, fds)
            return
        if message.get("generation") != self.generation:
            packets.close_all(fds)
            return
        if kind == "call":
            verbs.call(self, message, fds)
            return
        packets.close_all(fds)
        if kind == "go":
            self._engine_said_go = True
            self._open_gate()
        elif kind == "exec_release":
            self._exec_codes.pop(message["exec_id"], None)
            if session := self.sessions.get(message["exec_id"]):
                session.release()
        elif kind == "release" and self.state == "ended":
            self._leave(message.get("again", False))

    def _engine_gone(self, control: Control) -> None:
        if control is not self._control:
            return
        self._control = None
        if self.state == "waiting":
            if self._spare is not None:
                self._spare.discard()
            self.loop.running = False
        elif self.state == "starting":
            # Behind an open gate the program may have run already: it goes on, for the engine that comes.
            if not self._gate_is_open:
                self._undo()
        elif self.state == "ended":
            self._leave()
        for session in tuple(self.sessions.values()):
            session.release()

    def _adopted(self, sock: "socket", generation: int) -> None:
        """An engine has come (back): it is the one that counts."""
        if generation != self.generation or (self.state == "starting" and not self._gate_is_open):
            # It means another life; or it comes while the engine that began this start is there, or has left an end
            # that this process has yet to see: then the start is undone.
            sock.close()
            return
        old = self._control
        self._control = Control(self.loop, sock, self._received, self._engine_gone)
        self._control.adopt_generation(self.generation)
        if old is not None:
            old.close()
        self._send("hello", self._facts(), (), self._steps)

    def _facts(self) -> "dict[str, Any]":
        """What an engine has to know of a container that was there before it."""
        known = [(s.exec_id, s.pid, s.exit_code, s.timed_out) for s in self.sessions.values()]
        known += [(e, 0, c, t) for e, (c, t) in self._exec_codes.items() if e not in self.sessions]
        execs = [{"id": e, "pid": p, "exit_code": c, "timed_out": t} for e, p, c, t in known]
        return {"protocol": packets.PROTOCOL, "id": self.id, "generation": self.generation,
                "pid": self.pid, "start_time": self.start_time,
                "state": self.state, "paused": self.paused, "started_at": self.started_at, "execs": execs,
                "exit": self._exit, "cgroup": self.cgroup}  # fmt: skip

    # The start.

    def _start(self, request: "dict[str, Any]", fds: list[int]) -> None:
        self.state = "starting"
        self.id, self.generation, self.cgroup = request["id"], request["generation"], request["cgroup"]
        self._request, self.becomes = request, request["becomes"]
        control = self._control
        assert control is not None
        control.adopt_generation(self.generation)
        body, stdio = request.pop("body", b""), list[int]()
        try:
            if request.get("cut"):
                raise errdefs.StepError("the shim has no descriptor left", step="shim", errno=errno.EMFILE)
            self._record_fd = fds.pop(0)
            if not request["tty"]:
                ours, stdio = pipes(request["open_stdin"])
            header = {
                "work": "become" if self.becomes else "start",
                "stdio": bool(stdio),
                "cgroup": self.cgroup,
                "configure_network": request["configure_network"],
            }
            if body:
                header["sent_ns"] = request["sent_ns"]
            waited = self._spare is not None
            in_advance = self.becomes and waited
            self._starter = self._take_starter()
            # The record's lock is held as long as any of us is at work.
            passed = [*([] if self.becomes else [control.sock.fileno()]), *stdio, self._record_fd]
            try:
                self._starter.work(header, body, passed, self.loop, self._starter_said, self._starter_ended)
            except OSError:
                if not in_advance:
                    raise
                if not body:
                    # It has died with what it was told: without a word from us, the engine begins anew.
                    self._undo()
                    return
                # It has died while it waited: a new one does all of it.
                self._starter = Firstborn()
                self._starter.work(header, body, passed, self.loop, self._starter_said, self._starter_ended)
            # The rest of this process's part is done while the starter works.
            if waited:
                starter.set_name(b"boxwright-shim")
            if relayed := request.get("relayed"):
                from boxwright.launcher.relay import Relay  # loaded already: see `launcher._preload`

                self._relay = Relay(self.loop, relayed, self._relay_said)
            exitrecord.allocate(self._record_fd)
            self._log = self._open_log(request)
            self.stdio = Stdio(self.loop, self._log, request["tty"], request["stdin_once"])
            if not self._log.ready:
                self._log.throttle = self.stdio.hold  # type: ignore[attr-defined]  # a LogPipe
            self.stdio.when_idle(self.leave_when_idle)
            for options in request["attach"]:
                self.stdio.attach(fds.pop(0), options)
            if stdio:
                self.stdio.connect(*ours)
            self._door = Door(self.loop, request["socket_dir"], f"{self.id}.sock", self._adopted, self._facts)
            self._open_gate()
        except Exception as failure:
            packets.close_all(fds)
            self._fail(starter.as_step_error(failure).to_dict(), b"[]")
        finally:
            close_theirs(stdio)

    def _take_starter(self) -> Starter | Firstborn:
        """Who is to start the container: one that becomes its first process, or one that clones it."""
        spare, self._spare = self._spare, None
        if spare is not None:
            if self.becomes:
                return spare
            spare.discard()
        return Firstborn() if self.becomes else Starter()

    def _open_gate(self) -> None:
        """Let the start finish, when all is done here and there and the engine has done its part."""
        if self.state != "starting" or self._starter is None or self._door is None or self._gate_is_open:
            return
        if not self._log.ready or (self._relay is not None and not self._relay.ready):
            return
        if isinstance(self._starter, Firstborn) and (self._control is None or starter.is_gone(self._control.sock)):
            return  # its end is the next that the loop sees, and undoes the start
        if self._engine_said_go or not self._request["configure_network"]:
            if not self._engine_said_go:
                self._send("begun", {})
            self._gate_is_open = True
            self._starter.go()

    def _open_log(self, request: "dict[str, Any]") -> "Writer":
        log = request["log"]
        kind, config, attrs = log["type"], log.get("config") or {}, log.get("attrs")
        if options.is_direct(kind, config):
            text = jsontext.dumps(attrs) if attrs else ""
            return options.open_file(kind, config, request["container_dir"], self.id, text, self.loop)
        from boxwright.launcher.logpipe import LogPipe  # loaded already: see `launcher._preload`

        return LogPipe(self.loop, request, self._log_said)

    def _log_said(self, kind: str, why: str) -> None:
        """What a log that is written elsewhere has to say."""
        if kind == "ready":
            self._open_gate()
        elif kind == "dropped":
            self.event("log_dropped", {"lines": self._log.dropped, "error": why})
        elif self.state == "starting":
            text = f"failed to initialize logging driver: {why}"
            self._fail(errdefs.StepError(text, step="log").to_dict(), b"[]")

    def _relay_said(self, why: str) -> None:
        """What carries IPv6 to the container's ports listens, or has ended."""
        if not why:
            self._open_gate()
        elif self.state == "starting":
            self._fail(errdefs.StepError(why, step="ports").to_dict(), b"[]")
        else:
            self.event("relay_ended", {"error": why})

    def _starter_said(self, message: "dict[str, Any]", fds: list[int]) -> None:
        kind = message["type"]
        reap(message)
        if kind == "network":
            # One that was prepared in advance opens its network before anybody knows whether there is to be one.
            if self._request["configure_network"]:
                self._send("created", {"pid": message["pid"]}, fds)
            packets.close_all(fds)
        elif kind == "console":
            self.stdio.connect_console(fds[0], self._request["open_stdin"])
        elif kind == "executed":
            self._executed(message, dict(zip(message["fds"], fds, strict=True)))
        elif kind == "failed":
            self._fail(message["error"], message["body"])

    def _executed(self, message: "dict[str, Any]", fds: dict[str, int]) -> None:
        self.state, self._began_ns = "running", monotonic_ns()
        self.pid, self.start_time, self.started_at = message["pid"], message["start_time"], message["started_at"]
        self.pidfd, self._lock_fd, self._oom_fd = fds["pidfd"], fds.get("lock", -1), fds.get("oom", -1)
        self._shares_pids, self._steps = message["shares_pids"], message["body"]
        if isinstance(self._starter, Firstborn):
            self._starter = None
        fields = {"pid": self.pid, "start_time": self.start_time, "started_at": self.started_at}
        self._send("started", fields, (), self._steps)
        if wanted := self._request["limit"]:
            self._limit = limits.Limit(self, wanted)
        self._request = {}
        if self._oom_fd >= 0:
            self.loop.watch(self._oom_fd, IN, self._oom)
        self.loop.watch(self.pidfd, IN, self._init_ended)
        self._write_record({})

    def _starter_ended(self) -> None:
        self._starter = None
        if self.state == "starting":
            self._fail(death(starter.group(self.cgroup, {})).to_dict(), b"[]")

    def _fail(self, error: "dict[str, Any]", steps: bytes) -> None:
        """A step failed: undo the rest, then say so."""
        self._undo()
        self._send("failed", {"error": error}, (), steps)

    def _undo(self) -> None:
        """Leave nothing behind of a start."""
        self.state = "undone"
        if self._starter is not None:
            self._starter.kill()
        if self._spare is not None:  # it may be at work: the engine has told it as well
            self._spare.discard()
            self._spare = None
        self._remove_traces()
        strays.end_all()
        if hasattr(self, "stdio"):
            self.stdio.close()
            self.stdio.finish()
        self.loop.running = False

    # The life.

    def _oom(self, _: int) -> None:
        try:
            os.read(self._oom_fd, 4096)
        except OSError:
            pass
        self._count_oom(starter.group(self.cgroup, {}))

    def _count_oom(self, group: "cgroups.Manager") -> bool:
        """Tell of kills that have not been told of; whether there were any at all."""
        kills = group.oom_kills()
        if kills > self._oom_seen:
            self._oom_seen = kills
            self.event("oom", {})
        return kills > 0

    def reap_strays(self) -> None:
        """An exec's helper has died: whether it left a child shows when that has ended too."""
        if self.state != "running":
            return
        try:
            if strays.reap(self):
                return
        except OSError:
            pass  # no descriptor to look with
        self.loop.at(monotonic_ns() + strays.AGAIN_NS, self.reap_strays)

    # The end.

    def _init_ended(self, _: int) -> None:
        ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return
        finished_at = rfc3339nano(time_ns())
        self.state = "ending"
        self.loop.forget(self.pidfd)
        number = 0 if ended.si_code == os.CLD_EXITED else ended.si_status
        group = starter.group(self.cgroup, {})
        self._exit = {
            "exit_code": 128 + number if number else ended.si_status,
            "signal": number,
            "oom_killed": self._count_oom(group),
            "finished_at": finished_at,
            "lived_ns": monotonic_ns() - self._began_ns,
            "error": "",
            "timed_out": self._limit is not None and self._limit.passed,
        }
        try:
            # With a pid namespace of its own the kernel has seen to the rest already.
            if self._shares_pids or group.pids():
                group.kill()
        except (errdefs.StepError, OSError) as failure:
            self._exit["error"] = str(failure)
        self._close_relay()
        for session in tuple(self.sessions.values()):
            session.poll()
        self.stdio.drain(self._drained)

    def _drained(self) -> None:
        self._log.finish(self._logged)

    def _logged(self) -> None:
        """All that is to be logged is, or has been given up."""
        assert self._exit is not None
        if self._log.dropped:
            self.event("log_dropped", {"lines": self._log.dropped, "error": self._log.error})
        self._close_lock()
        self._write_record(self._exit)
        self.state = "ended"
        self._send("exit", {"status": self._exit})
        self.stdio.finish()
        for session in tuple(self.sessions.values()):
            if session.exit_code is None:
                session.stdio.close()
                session.stdio.finish()
        self._remove_traces()
        if self._control is None:
            self._leave()

    def _write_record(self, end: "dict[str, Any]") -> None:
        record = {"generation": self.generation, "pid": self.pid, "start_time": self.start_time,
                  "started_at": self.started_at, **end}  # fmt: skip
        try:
            exitrecord.write(self._record_fd, record)
        except OSError as failure:  # the engine, if it is there, gets it by message
            self.event("record_failed", {"error": str(failure)})

    def _remove_traces(self) -> None:
        """The cgroup, the snapshot's lock, socket and relay; and then the record's lock: the next life may begin."""
        self._close_relay()
        if self._oom_fd >= 0:
            self.loop.forget(self._oom_fd)
            os.close(self._oom_fd)
            self._oom_fd = -1
        group = starter.group(self.cgroup, {})
        try:
            if group.pids():
                group.kill()
            group.destroy()
        except (errdefs.StepError, OSError):
            pass  # the engine's clean-up tries again, and says what is in the way
        self._close_lock()
        door, self._door = self._door, None
        if door is not None:
            door.close()
        if self._record_fd >= 0:
            os.close(self._record_fd)
            self._record_fd = -1

    def _close_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    def _close_lock(self) -> None:
        """The snapshot may be used by others."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _leave(self, again: bool = False) -> None:
        """Nobody needs this process any more, except clients that still read; or `again`, for another container."""
        control, self._control = self._control, None
        self.state = "leaving"
        if control is not None:
            if again and self._is_idle() and not _has_children():
                self.kept = control.take_socket()
            if self.kept is None:
                control.close()
        self.leave_when_idle()

    def leave_when_idle(self) -> None:
        if self.state == "leaving" and self._is_idle():
            self.loop.running = False

    def _is_idle(self) -> bool:
        return self.stdio.idle and all(s.stdio.idle for s in self.sessions.values())


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
