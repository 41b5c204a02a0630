"""What `docker stats` of many containers costs: one answer after the other, all at once, and the docker CLI's table.

usage: python -m benchmarks.stats [--containers N] [--rounds N] [--peer-rounds N] [--no-peer]

A figure is the median of the rounds in milliseconds for all containers together.  The client is a socket with the
requests made before, so that the figures are the engine's; "GET /_ping" as often over the same connection is what the
transport alone costs, and "parse" what the answers cost a client that decodes them.
"""

import argparse
import contextlib
import json
import socket
import statistics
import time
from collections.abc import Callable

from benchmarks import peers
from benchmarks.engines import Client, docker, images, sweep


class Wire:
    """A keep-alive connection that sends bytes and reads answers of a given length."""

    def __init__(self, host: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(host.removeprefix("unix://"))

    def send(self, path: str) -> None:
        self.sock.sendall(f"GET /v1.41{path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())

    def receive(self) -> bytes:
        """One answer's body."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{head!r} {body!r}")
        if b"content-length" in fields:
            while len(body) < int(fields[b"content-length"]):
                body += self._more()
            return body
        while not body.endswith(b"\r\n0\r\n\r\n"):
            body += self._more()
        size, _, rest = body.partition(b"\r\n")
        return rest[: int(size, 16)]  # both engines send these answers in one chunk

    def _more(self) -> bytes:
        if not (data := self.sock.recv(1 << 16)):
            raise RuntimeError("the engine has closed the connection")
        return data


def median(work: Callable[[], object], rounds: int) -> float:
    if rounds > 1:
        work()
    spans = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        spans.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(spans)


def measure(host: str, count: int, rounds: int) -> dict[str, float]:
    client = Client(host)
    ids = [client.create(["sleep", "600"]) for _ in range(count)]
    for cid in ids:
        client.call("POST", f"/containers/{cid}/start")
    wire, bodies = Wire(host), [b""]

    def pings() -> None:
        for _ in ids:
            wire.send("/_ping")
            wire.receive()

    def in_turn() -> None:
        bodies.clear()
        for cid in ids:
            wire.send(f"/containers/{cid}/stats?stream=false&one-shot=true")
            bodies.append(wire.receive())

    def at_once() -> None:
        for one, cid in zip(wires, ids, strict=True):
            one.send(f"/containers/{cid}/stats?stream=false&one-shot=true")
        for one in wires:
            one.receive()

    result = {"ping": median(pings, rounds), "in turn": median(in_turn, rounds)}
    if [json.loads(body)["id"] for body in bodies] != ids or not json.loads(bodies[0])["memory_stats"]:
        raise RuntimeError("these are no figures")
    result["parse"] = median(lambda: [json.loads(body) for body in bodies], rounds)
    wires = [Wire(host) for _ in ids]
    result["at once"] = median(at_once, rounds)
    result["docker stats"] = median(lambda: docker(host, "stats", "--no-stream"), min(rounds, 3))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer-rounds", type=int, default=1)
    parser.add_argument("--no-peer", action="store_true", help="only boxwright")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        hosts = {"boxwright": stack.enter_context(peers.boxwright())}
        if not options.no_peer:
            hosts["dockerd"] = stack.enter_context(peers.dockerd())
        for engine, host in hosts.items():
            docker(host, "load", "-q", "-i", str(images.busybox_archive()))
            try:
                rounds = options.rounds if engine == "boxwright" else options.peer_rounds
                for name, value in measure(host, options.containers, rounds).items():
                    print(f"{engine:10} {name:14} {value:9.1f} ms", flush=True)
            finally:
                sweep(host)


if __name__ == "__main__":
    main()
