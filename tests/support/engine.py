"""A real engine for tests: its own roots, socket, bridge; the real docker CLI pointed at it."""

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support import images

# Seconds; a processor that is emulated is given more (support/machine.py).
DEADLINE = float(os.environ.get("BOXWRIGHT_TEST_DEADLINE", "30"))


# Commands of the docker CLI that ran, each as often as it did; pytest's --count-commands tells of them.
COMMANDS: Counter[tuple[str, ...]] = Counter()


def wait_for(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Poll `condition` until it is true; for states of the kernel that send no event. Returns its value."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        select.select([], [], [], 0.01)
    return value


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the engine's socket; paths longer than sun_path go through a directory descriptor."""

    def __init__(self, path: str, timeout: float = DEADLINE) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass
class Ran:
    """A finished command: exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out.strip()


class Engine:
    """`boxwright serve` as a child process; `kill()` is SIGKILL, `restart()` starts it again on the same roots."""

    version = "/v1.51"

    def __init__(self, *flags: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="bwt", dir="/tmp"))
        self.bridge = f"{self.home.name[:11]}"
        self.socket = str(self.home / "run.sock")
        self.log = self.home / "engine.log"
        self.flags = list(flags)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def data_root(self) -> Path:
        return self.home / "data"

    @property
    def exec_root(self) -> Path:
        return self.home / "exec"

    def start(self, *flags: str) -> "Engine":
        """Start and wait until the API accepts; raises with the engine's own log when it does not."""
        read, write = os.pipe()
        roots = ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root), "-H", self.host]
        own = ["--bridge", self.bridge, "--ephemeral", "--ready-fd", str(write)]
        command = [sys.executable, "-m", "boxwright.cli.main", "serve", *roots, *own, *self.flags, *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write], start_new_session=True
            )
        os.close(write)
        ready, _, _ = select.select([read], [], [], DEADLINE)
        said = os.read(read, 16) if ready else b""
        os.close(read)
        if said != b"ready\n":
            raise AssertionError(f"the engine did not come up: {self.log.read_text()[-4000:]}")
        return self

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process
        self.process.kill()
        self.process.wait(DEADLINE)

    def restart(self, *flags: str) -> "Engine":
        if self.process and self.process.poll() is None:
            self.kill()
        return self.start(*flags)

    def close(self) -> None:
        """End an ephemeral engine with everything it made, and fail when it does not end well."""
        try:
            if self.process is None:
                return
            if self.process.poll() is not None:
                self.start()
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(120)
            assert code == 0, f"engine ended with {code}: {self.log.read_text()[-4000:]}"
        finally:
            if self.process and self.process.poll() is None:
                self.kill()
            self.process = None  # closing again finds nothing to end
            if not os.environ.get("BOXWRIGHT_KEEP"):
                shutil.rmtree(self.home, ignore_errors=True)

    def load(self, archive: Path | None = None) -> "Engine":
        """Load an image archive, busybox by default."""
        self.ok("load", "-q", "-i", str(archive or images.busybox_archive()))
        return self

    def docker(
        self, *arguments: str, stdin: bytes | None = None, timeout: float = 60, env: dict[str, str] | None = None
    ) -> Ran:
        """Run the real docker CLI to its end; the exit code is the caller's to check."""
        COMMANDS[arguments] += 1
        done = subprocess.run(
            ["docker", "-H", self.host, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "DOCKER_CONFIG": str(self.home / "config"), **(env or {})},
        )
        return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def ok(self, *arguments: str, **options: Any) -> str:
        """The same for a command that must succeed: its standard output, stripped."""
        ran = self.docker(*arguments, **options)
        assert ran.code == 0, f"docker {' '.join(arguments)}: exit {ran.code}\n{ran.out}\n{ran.err}"
        return ran.text

    def spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """The docker CLI as a running process with pipes; the caller ends it."""
        COMMANDS[arguments] += 1
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            ["docker", "-H", self.host, *arguments],
            env={**os.environ, "DOCKER_CONFIG": str(self.home / "config")},
            **{**streams, **options},
        )

    def api(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = DEADLINE
    ) -> Response:
        """One request of the API's newest version; a body that is not bytes is sent as JSON."""
        with contextlib.closing(UnixConnection(self.socket, timeout)) as connection:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            default = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(
                method,
                path if path.startswith("/v1.") else self.version + path,
                body=data,
                headers={**default, **(headers or {})},
            )
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def inspect(self, name: str) -> dict[str, Any]:
        answer = self.api("GET", f"/containers/{quote(name)}/json")
        assert answer.status == 200, answer.raw
        result: dict[str, Any] = answer.json
        return result


class Peer(Engine):
    """An engine that is running already and is not ours: tests written here can be checked against it."""

    version = "/v1.41"

    def __init__(self, host: str) -> None:
        super().__init__()
        self.socket = host.removeprefix("unix://")

    def start(self, *flags: str) -> "Engine":
        return self

    def close(self) -> None:
        """Remove the containers and volumes that the tests left."""
        for kind, remove in (("ps", "rm"), ("volume", "volume")):
            names = self.docker(*([kind, "-aq"] if kind == "ps" else [kind, "ls", "-q"])).out.split()
            if names:
                self.docker(*([remove, "-fv"] if kind == "ps" else [remove, "rm", "-f"]), *names)
        shutil.rmtree(self.home, ignore_errors=True)
