"""What the API server itself costs for a request: CPU time of the server's process, over a backend that does nothing.

    python benchmarks/api.py [--requests N]

Prints microseconds of CPU (user and system) a request, for a ping, an inspect, a create with a body as the docker CLI
sends it, and an attach that is opened and ended; asyncio and uvloop.
"""

import argparse
import asyncio
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from boxwright.api import server
from boxwright.api.app import App
from boxwright.types import CreateRequest, HostConfig, NetworkingConfig
from tests.api.fake_backend import FakeBackend

BODY = msgspec.json.encode(
    CreateRequest(image="busybox", cmd=["true"], host_config=HostConfig(), networking_config=NetworkingConfig())
)
HEAD = b" HTTP/1.1\r\nHost: docker\r\nUser-Agent: Docker-Client/28.2.2 (linux)\r\n"
CREATE = b"POST /v1.51/containers/create" + HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
REQUESTS = {
    "ping": b"GET /_ping" + HEAD + b"\r\n",
    "inspect": b"GET /v1.51/containers/box/json" + HEAD + b"\r\n",
    "create": CREATE % (len(BODY), BODY),
}
ATTACH = b"POST /v1.51/containers/box/attach?stdin=1" + HEAD + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def serve(path: str, factory: Callable[[], asyncio.AbstractEventLoop], ready: int) -> None:
    async def main() -> None:
        backend = FakeBackend()
        backend.seen = _Nothing()
        await server.serve(App(backend), [f"unix://{path}"])
        os.write(ready, b"1")
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


class _Nothing(list):  # type: ignore[type-arg]
    def append(self, value: object) -> None:
        """Keep nothing: the fake's list of calls would grow."""


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used, at the resolution of the scheduler's clock."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def keep_alive(path: str, request: bytes, count: int) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        for _ in range(count):
            sock.sendall(request)
            if not sock.recv(65536):
                raise ConnectionError("closed by the server")


def attach(path: str, count: int) -> None:
    for _ in range(count):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(ATTACH)
            sock.recv(65536)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


def measure(name: str, factory: Callable[[], asyncio.AbstractEventLoop], count: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/b.sock"
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            serve(path, factory, writer)
            os._exit(0)
        try:
            os.read(reader, 1)
            runs = [
                (what, lambda n, request=request: keep_alive(path, request, n)) for what, request in REQUESTS.items()
            ]
            for what, run in [*runs, ("attach", lambda n: attach(path, n))]:
                run(count // 10)
                before = cpu(pid)
                run(count)
                print(f"{name:8} {what:8} {(cpu(pid) - before) / count * 1e6:7.1f} µs")
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=5000)
    count = parser.parse_args().requests
    measure("asyncio", asyncio.new_event_loop, count)
    if server.loop_factory() is not asyncio.new_event_loop:
        measure("uvloop", server.loop_factory(), count)


if __name__ == "__main__":
    main()
