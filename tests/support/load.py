"""A mixed load of clients for the fault tests: each owns one container at a time and knows what was acknowledged.

A request that broke off with the engine may have happened or not; everything that was acknowledged must hold later,
and a second attempt at what broke off must succeed.
"""

import contextlib
import http.client
import io
import os
import random
import tarfile
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

from support.engine import Engine, Response, wait_for

SEED = int(os.environ.get("BOXWRIGHT_FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
LINES = 40
PATIENCE = 60.0  # seconds, for what comes about by itself; kills go on meanwhile

FINITE = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; usleep 5000; done; exit $CODE"
FOREVER = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i; usleep 5000; done"


class Gone(Exception):
    """The engine died under this request: it may have happened or not."""


class Load:
    """What the clients share with who kills.

    up: whether the engine runs.  over: whether new lives begin.  hit: grows when a launcher or a shim is about to be
    killed, and when it is dead; odd in between.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.hit = engine, 0
        self.up, self.over = threading.Event(), threading.Event()
        self.up.set()

    def disturbed(self, since: int) -> bool:
        """Whether a launcher or a shim was being killed when `hit` was `since`, or has been later."""
        return since % 2 == 1 or self.hit != since

    def kill_engine(self) -> None:
        self.up.clear()
        self.engine.kill()
        self.engine.start()
        self.up.set()


class Worker:
    """One client with one container at a time."""

    def __init__(self, load: Load, number: int) -> None:
        self.load, self.engine, self.up, self.over = load, load.engine, load.up, load.over
        self.random = random.Random(f"{SEED}/{number}")
        self.number = number
        self.done: list[str] = []

    def call(self, method: str, path: str, body: Any = None) -> Response:
        try:
            return self.engine.api(method, path, body, timeout=30)
        except (OSError, http.client.HTTPException) as error:
            raise Gone from error

    def insist(self, method: str, path: str, body: Any = None, good: tuple[int, ...] = (200, 201, 204)) -> Response:
        """Repeat until the engine answers; 304, 404 and 409 count as done when an earlier attempt may have been it."""
        broke_off = False
        for _ in range(200):
            self.up.wait(30)
            hit = self.load.hit
            try:
                answer = self.call(method, path, body)
            except Gone:
                broke_off = True
                self.over.wait(0.02)
                continue
            if answer.status == 500 and self.load.disturbed(hit):
                assert answer.message, f"{method} {path}: 500 without a word (seed {SEED})"
                broke_off = True
                continue
            allowed = good + ((304, 404, 409) if broke_off else ())
            assert answer.status in allowed, f"{method} {path}: {answer.status} {answer.raw!r} (seed {SEED})"
            return answer
        raise AssertionError(f"{method} {path} was never answered (seed {SEED})")

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.insist("GET", f"/containers/{name}/json").json
        return found

    def kinds(self) -> tuple[Callable[[str], None], ...]:
        """The lives that this client gives."""
        return (
            self.finite, self.forever, self.failing, self.always, self.probed, self.limited, self.released, self.paused,
            self.published, self.copied,
        )  # fmt: skip

    def run(self) -> None:
        """Whole lives, one after the other, of the kinds in turn, until it is over."""
        life = 0
        kinds = self.kinds()
        while not self.over.is_set():
            life += 1
            name = f"{type(self).__name__.lower()}{self.number}-{life}"
            kinds[(self.number + life) % len(kinds)](name)
            self.done.append(name)

    def create(self, name: str, script: str, config: dict[str, Any] | None = None, **host_config: Any) -> None:
        body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "Env": [f"CODE={self.number}"]}
        self.insist("POST", f"/containers/create?name={name}", {**body, **(config or {}), "HostConfig": host_config})

    def until(self, name: str, what: str, condition: Callable[[], Any]) -> None:
        wait_for(condition, f"{name} {what} (seed {SEED})", PATIENCE)

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.inspect(name)["State"]
        return found

    def start(self, name: str) -> None:
        """Start it once: a request that broke off may have started it, and it may have ended since."""
        while True:
            self.up.wait(30)
            hit = self.load.hit
            try:
                answer = self.call("POST", f"/containers/{name}/start")
                if answer.status == 500 and answer.message and self.load.disturbed(hit):
                    continue  # launchers were killed again and again: it says so, and can be started again
                assert answer.status in (204, 304), f"start {name}: {answer.status} {answer.raw!r} (seed {SEED})"
                return
            except Gone:
                if not self.inspect(name)["State"]["StartedAt"].startswith("0001-"):
                    return

    def remove(self, name: str) -> None:
        self.insist("DELETE", f"/containers/{name}?force=1&v=1")
        assert self.insist("GET", f"/containers/{name}/json", good=(404,)).status == 404

    def lines(self, name: str) -> list[str]:
        """The log, read through the engine, as lines without frames."""
        raw = self.insist("GET", f"/containers/{name}/logs?stdout=1&stderr=1").raw
        out = b""
        while raw:
            length = int.from_bytes(raw[4:8], "big")
            out, raw = out + raw[8 : 8 + length], raw[8 + length :]
        return out.decode().splitlines()

    def finite(self, name: str) -> None:
        """It ends by itself: the exit code and every line, once and in order."""
        self.create(name, FINITE)
        self.start(name)
        wait_for(lambda: self.inspect(name)["State"]["Status"] == "exited", f"{name} ends (seed {SEED})", 60)
        assert self.inspect(name)["State"]["ExitCode"] == self.number, f"{name} (seed {SEED})"
        assert self.lines(name) == [f"line {i + 1}" for i in range(LINES)], f"{name} (seed {SEED})"
        self.remove(name)

    def forever(self, name: str) -> None:
        """What has been acknowledged as running is the same process after any crash; exec works; stop ends it."""
        self.create(name, FOREVER)
        self.start(name)
        first = self.inspect(name)["State"]
        assert first["Running"], f"{name} (seed {SEED}): {first}"
        for _ in range(self.random.randrange(1, 4)):
            self.execute(name)
            again = self.inspect(name)["State"]
            assert (again["Running"], again["Pid"]) == (True, first["Pid"]), f"{name} (seed {SEED}): {first} {again}"
        self.insist("POST", f"/containers/{name}/stop?t=10", good=(204, 304))
        wait_for(lambda: not self.inspect(name)["State"]["Running"], f"{name} stops (seed {SEED})")
        assert self.inspect(name)["State"]["ExitCode"] in (0, 143), f"{name} (seed {SEED})"
        seen = self.lines(name)
        assert seen == [f"line {i + 1}" for i in range(len(seen))], f"{name} (seed {SEED}): {seen}"
        self.remove(name)

    def execute(self, name: str) -> None:
        """An exec that the engine survives has its output and its exit code; one that breaks off is left alone."""
        try:
            made = self.call(
                "POST", f"/containers/{name}/exec", {"Cmd": ["sh", "-c", "echo inside; exit 7"], "AttachStdout": True}
            )
            if made.status != 201:
                return
            exec_id, engine = made.json["Id"], self.engine.process
            out = self.call("POST", f"/exec/{exec_id}/start", {"Detach": False}).raw
            if not self.up.is_set() or self.engine.process is not engine:
                return  # a stream that ends with its engine looks like one that ends by itself
            assert out[8:] == b"inside\n", f"{name} (seed {SEED}): {out!r}"
            assert self.call("GET", f"/exec/{exec_id}/json").json["ExitCode"] == 7, f"{name} (seed {SEED})"
        except Gone:
            return

    def failing(self, name: str) -> None:
        """on-failure:2 is started three times in all, crashes or not."""
        self.create(name, "echo try; exit 9", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 2})
        hit = self.load.hit
        self.start(name)
        wait_for(lambda: self.inspect(name)["State"]["Status"] == "exited", f"{name} gives up (seed {SEED})", 60)
        found = self.inspect(name)
        if found["State"]["ExitCode"] == 128 and self.load.disturbed(hit):
            # A restart of its own met a helper that was killed: as dockerd's, the policy ends there, and says why.
            assert found["State"]["Error"], f"{name} (seed {SEED})"
            self.remove(name)
            return
        assert found["State"]["ExitCode"] == 9, f"{name} (seed {SEED})"
        assert found["RestartCount"] == 2, f"{name} (seed {SEED})"
        assert self.lines(name) == ["try"] * 3, f"{name} (seed {SEED})"
        self.remove(name)

    def always(self, name: str) -> None:
        """`always` goes on after a crash, and ends with stop."""
        self.create(name, "echo life; usleep 20000", RestartPolicy={"Name": "always"})
        self.start(name)
        wait_for(lambda: self.inspect(name)["RestartCount"] >= 2, f"{name} comes back (seed {SEED})", 60)
        self.insist("POST", f"/containers/{name}/stop?t=5", good=(204, 304))
        wait_for(lambda: self.inspect(name)["State"]["Status"] == "exited", f"{name} stops (seed {SEED})")
        self.remove(name)

    def probed(self, name: str) -> None:
        """A health check goes on after any crash, and follows what the container is."""
        check = {"Test": ["CMD-SHELL", "test ! -e /ill"], "Interval": 50_000_000, "Retries": 1, "Timeout": 5 * 10**9}
        self.create(name, FOREVER, {"Healthcheck": check})
        self.start(name)
        self.until(name, "is healthy", lambda: self.state(name)["Health"]["Status"] == "healthy")
        self.put(name, "/", "ill", b"")
        self.until(name, "is unhealthy", lambda: self.state(name)["Health"]["Status"] == "unhealthy")
        assert self.state(name)["Running"], f"{name} (seed {SEED})"
        self.remove(name)

    def limited(self, name: str) -> None:
        """The limit of an exec holds whether or not there is an engine."""
        self.create(name, FOREVER)
        self.start(name)
        before = self.engine.process
        made = self.insist("POST", f"/containers/{name}/exec", {"Cmd": ["sleep", "777"], "Timeout": 1})
        with contextlib.suppress(Gone):
            self.call("POST", f"/exec/{made.json['Id']}/start", {"Detach": True})
        self.until(name, "has no exec", lambda: b"sleep 777" not in self.insist("GET", f"/containers/{name}/top").raw)
        while self.engine.process is before and self.up.is_set():
            with contextlib.suppress(Gone):
                seen = self.call("GET", f"/exec/{made.json['Id']}/json")
                if seen.status != 200 or not seen.json["Running"]:
                    assert seen.status == 404 or seen.json["ExitCode"] in (None, 137), f"{name} (seed {SEED}): {seen}"
                    break
        assert self.state(name)["Running"], f"{name} (seed {SEED})"
        self.remove(name)

    def released(self, name: str) -> None:
        """A policy that is taken back holds from the answer on."""
        self.create(name, "usleep 30000", RestartPolicy={"Name": "always"})
        self.start(name)
        self.until(name, "comes back", lambda: self.inspect(name)["RestartCount"] >= 1)
        self.insist("POST", f"/containers/{name}/update", {"RestartPolicy": {"Name": "no"}})
        assert self.inspect(name)["HostConfig"]["RestartPolicy"]["Name"] == "no", f"{name} (seed {SEED})"
        self.until(name, "stays down", lambda: self.state(name)["Status"] == "exited")
        count = self.inspect(name)["RestartCount"]
        self.over.wait(0.3)
        found = self.inspect(name)
        assert (found["State"]["Status"], found["RestartCount"]) == ("exited", count), f"{name} (seed {SEED})"
        self.remove(name)

    def paused(self, name: str) -> None:
        """Paused and renamed it stays what it is, and goes on where it stood."""
        self.create(name, FOREVER)
        self.start(name)
        first = self.state(name)
        self.insist("POST", f"/containers/{name}/pause")
        state = self.state(name)
        assert (state["Status"], state["Pid"]) == ("paused", first["Pid"]), f"{name} (seed {SEED}): {state}"
        other = f"{name}-renamed"
        self.insist("POST", f"/containers/{name}/rename?name={other}")
        assert self.insist("GET", f"/containers/{name}/json", good=(404,)).status == 404
        stood = self.lines(other)
        self.insist("POST", f"/containers/{other}/unpause")
        self.until(other, "goes on", lambda: len(self.lines(other)) > len(stood))
        seen = self.lines(other)
        assert seen == [f"line {i + 1}" for i in range(len(seen))], f"{other} (seed {SEED})"
        assert self.state(other)["Pid"] == first["Pid"], f"{other} (seed {SEED})"
        self.remove(other)

    def published(self, name: str) -> None:
        """A published port leads to the container after any crash, and stays the same."""
        page = f"mkdir /w; echo {name} > /w/index.html; exec httpd -f -p 80 -h /w"
        self.create(name, page, PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]})
        self.start(name)
        port = self.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as found:
                    return bool(found.read().decode().strip() == name)
            except (OSError, http.client.HTTPException):
                return False

        for _ in range(3):
            self.until(name, f"answers on {port}", answers)
            self.over.wait(0.1)
            assert self.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] == port, f"{name} ({SEED})"
        self.remove(name)

    def copied(self, name: str) -> None:
        """What is written to a volume, copied in and committed is there; all of it can be removed."""
        volume, image = f"v-{name}", f"i-{name}"
        self.insist("POST", "/volumes/create", {"Name": volume})
        self.create(name, "echo kept > /data/kept; " + FOREVER, Binds=[f"{volume}:/data"])
        self.start(name)
        self.until(name, "has written", lambda: self.get(name, "/data/kept") == b"kept\n")
        self.put(name, "/etc", "own", name.encode())
        assert self.get(name, "/etc/own") == name.encode(), f"{name} (seed {SEED})"
        self.insist("POST", f"/commit?container={name}&repo={image}&pause=1", {})
        self.until(name, "goes on", lambda: self.state(name)["Status"] == "running")
        self.remove(name)
        self.create(name, "cat /etc/own /data/kept", {"Image": image}, Binds=[f"{volume}:/data"])
        self.start(name)
        self.until(name, "ends", lambda: self.state(name)["Status"] == "exited")
        assert self.lines(name) == [f"{name}kept"], f"{name} (seed {SEED}): {self.lines(name)}"
        self.remove(name)
        self.insist("DELETE", f"/images/{image}")
        self.insist("DELETE", f"/volumes/{volume}")

    def put(self, name: str, directory: str, file: str, content: bytes) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        self.insist("PUT", f"/containers/{name}/archive?path={directory}", packed.getvalue())

    def get(self, name: str, path: str) -> bytes:
        """The content of a file; b"" when it is not there, or the copy broke off."""
        answer = self.insist("GET", f"/containers/{name}/archive?path={path}", good=(200, 404))
        with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(answer.raw)) as archive:
            found = archive.extractfile(archive.getmembers()[0])
            return found.read() if found else b""
        return b""


class Mortal(Worker):
    """A client whose containers' shims are killed too: each dies as a whole, is seen to, and can be started again."""

    def kinds(self) -> tuple[Callable[[str], None], ...]:
        return (self.mortal, self.reborn)

    def mortal(self, name: str) -> None:
        """Its shim's death is its own: 137, and nothing of it runs on."""
        self.create(name, FOREVER, Binds=["/data"], PortBindings={"80/tcp": [{"HostPort": ""}]})
        for _ in range(2):
            self.start(name)
            pid = self.state(name)["Pid"]
            for _ in range(self.random.randrange(1, 4)):
                with contextlib.suppress(Gone):
                    made = self.call("POST", f"/containers/{name}/exec", {"Cmd": ["sleep", "0.05"]})
                    if made.status == 201:
                        self.call("POST", f"/exec/{made.json['Id']}/start", {"Detach": False})
            self.insist("POST", f"/containers/{name}/stop?t=10", good=(204, 304))
            state = self.state(name)
            ended = (0, 128, 137, 143)  # 128: a start that broke off with its engine was undone by the next
            assert state["Status"] == "exited" and state["ExitCode"] in ended, f"{name} (seed {SEED}): {state}"
            assert not pid or not os.path.exists(f"/proc/{pid}/ns/mnt"), f"{name}: {pid} runs on (seed {SEED})"
        self.remove(name)

    def reborn(self, name: str) -> None:
        """`always` holds for a container whose shim was killed."""
        self.create(name, FOREVER, RestartPolicy={"Name": "always"})
        self.start(name)
        for _ in range(5):
            self.over.wait(0.05)
            self.until(name, "runs", lambda: self.state(name)["Running"])
        self.remove(name)
