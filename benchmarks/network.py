"""What a container's network costs: plan, connect and release of endpoints, one at a time, 32 at once, with many there.

    python benchmarks/network.py [COUNT]

Runs as root in network namespaces of its own; nothing of it is seen from the machine's own.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kernel.netns import Namespace, Net, World

from boxwright.network.endpoint import Endpoint

CLIENTS = 32


def show(what: str, seconds: list[float]) -> None:
    """One line: median and p99 in milliseconds."""
    ordered = sorted(seconds)
    median, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{what:<52}{median * 1e3:9.3f} ms{p99 * 1e3:9.3f} ms")


class Times:
    def __init__(self) -> None:
        self.plan: list[float] = []
        self.connect: list[float] = []
        self.release: list[float] = []

    async def cycle(self, net: Net, space: Namespace, bindings: dict[str, Any], keep: list[Endpoint] | None) -> None:
        start = time.perf_counter()
        endpoint = net.plan(bindings=bindings)
        planned = time.perf_counter()
        await net.controller.connect(endpoint, space.netns_fd, space.netlink_fd)
        connected = time.perf_counter()
        self.plan.append(planned - start)
        self.connect.append(connected - planned)
        if keep is not None:
            keep.append(endpoint)
            return
        await net.controller.release(endpoint)
        self.release.append(time.perf_counter() - connected)

    def show(self, what: str) -> None:
        for name in ("plan", "connect", "release"):
            if values := getattr(self, name):
                show(f"{what}: {name}", values)


async def one_at_a_time(net: Net, world: World, count: int, bindings: dict[str, Any]) -> Times:
    times = Times()
    for _ in range(count):
        space = world.container()
        await times.cycle(net, space, bindings, None)
        world.containers.remove(space)
        space.end()
    return times


async def at_once(net: Net, world: World, rounds: int, bindings: dict[str, Any]) -> Times:
    times = Times()
    for _ in range(rounds):
        spaces = [world.container() for _ in range(CLIENTS)]
        work: list[Awaitable[None]] = [times.cycle(net, space, bindings, None) for space in spaces]
        await asyncio.gather(*work)
        for space in spaces:
            world.containers.remove(space)
            space.end()
    return times


async def measure(path: str, world: World, count: int) -> None:
    ports = {"80/tcp": [{"HostPort": ""}]}
    async with Net(path) as net:
        print(f"{'':<52}{'median':>12}{'p99':>12}")
        (await one_at_a_time(net, world, count, {})).show("no port")
        (await one_at_a_time(net, world, count, ports)).show("one port")
        (await at_once(net, world, count // CLIENTS + 1, {})).show(f"{CLIENTS} at once, no port")
        (await at_once(net, world, count // CLIENTS + 1, ports)).show(f"{CLIENTS} at once, one port")
        many: list[Endpoint] = []
        for _ in range(300):
            await Times().cycle(net, world.container(), ports, many)
        (await one_at_a_time(net, world, count, ports)).show("300 there, one port")
        for endpoint in many:
            await net.controller.release(endpoint)
        await net.controller.close(remove=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    world = World()
    try:
        with tempfile.TemporaryDirectory() as directory:
            body: Callable[[], Any] = lambda: measure(f"{directory}/db", world, count)  # noqa: E731
            world.run(body, deadline=300)
    finally:
        world.close()


if __name__ == "__main__":
    main()
