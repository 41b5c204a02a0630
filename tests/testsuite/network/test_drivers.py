"""What every network driver must do, whatever it makes: the same tests run against each.

A driver is used as the controller uses it, in namespaces of the test's own.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kernel.netns import Namespace, World, links, ruleset, wait_until

from boxwright.network.drivers import Driver
from boxwright.network.drivers.bridge import BridgeDriver
from boxwright.network.drivers.passive import PassiveDriver
from boxwright.network.endpoint import Endpoint, Published
from boxwright.network.firewall import Firewall
from boxwright.network.interfaces import Host
from boxwright.network.model import Network
from boxwright.network.netlink_thread import Worker

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]

INSTANCE = "0011eeff"


@dataclass
class Parts:
    """A driver with the threads that it works on; made on the loop, inside the host namespace."""

    driver: Driver
    network: Network
    firewall: Firewall
    threads: list[Worker]

    async def close(self) -> None:
        await self.driver.close(self.network)
        await self.threads[1].submit(self.firewall.remove)
        await self.threads[1].submit(self.firewall.close)
        for thread in self.threads:
            await thread.close()


async def make(name: str) -> Parts:
    netlink, filter = Worker("netlink"), Worker("nftables")
    host, firewall = Host(INSTANCE), Firewall(INSTANCE)
    drivers: dict[str, Driver] = {
        "bridge": BridgeDriver(host, netlink, firewall, filter),
        "host": PassiveDriver("host"),
        "null": PassiveDriver("null"),
    }
    network = Network(id=name[0] * 64, name=f"net-{name}", driver=name, created="")
    if drivers[name].addresses:
        network.subnet, network.gateway, network.bridge = "10.66.0.0/24", "10.66.0.1", "bwsuite0"
    await drivers[name].open(network)
    await filter.submit(firewall.write, [network], [], False)
    return Parts(drivers[name], network, firewall, [netlink, filter])


def endpoint(parts: Parts, number: int) -> Endpoint:
    made = Endpoint(
        id=f"{number:064x}",
        network_id=parts.network.id,
        network=parts.network.name,
        driver=parts.driver.name,
        container_id=f"{number:064x}",
        container_name=f"c{number}",
        generation=1,
    )
    if parts.driver.addresses:
        made.link, made.address = f"bw0011{number:08x}", f"10.66.0.{number + 1}"
        made.prefix_length, made.gateway, made.mac_address = 24, "10.66.0.1", f"02:42:0a:42:00:{number + 1:02x}"
        made.published = [Published("tcp", "0.0.0.0", 8000 + number, 80)]
    return made


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["bridge", "host", "null"])
def run(request: pytest.FixtureRequest, world: World) -> Callable[[Callable[[Parts], Coroutine[Any, Any, None]]], None]:
    """Run a coroutine function that takes the parts of one driver; it leaves the host as it was."""

    async def body(test: Callable[[Parts], Coroutine[Any, Any, None]]) -> None:
        before = await asyncio.to_thread(links, world.host), str(await asyncio.to_thread(ruleset, world.host))
        parts = await make(request.param)
        assert parts.driver.name == request.param
        await test(parts)
        for space in world.containers:
            space.end()

        def as_before() -> bool:
            return (links(world.host), str(ruleset(world.host))) == before

        await parts.close()
        await asyncio.to_thread(wait_until, as_before, "the host is as before")

    return lambda test: world.run(lambda: body(test))


Run = Callable[[Callable[[Parts], Coroutine[Any, Any, None]]], None]


async def join(parts: Parts, space: Namespace, number: int) -> Endpoint:
    made = endpoint(parts, number)
    await parts.driver.connect(parts.network, made, space.netns_fd, space.netlink_fd)
    return made


def test_a_life(run: Run, world: World) -> None:
    async def test(parts: Parts) -> None:
        space = world.container()
        made = await join(parts, space, 1)
        os.fstat(space.netns_fd)  # the descriptors stay the caller's, and usable
        os.fstat(space.netlink_fd)
        shown = await asyncio.to_thread(space.run, "ip", "-o", "-4", "addr")
        assert ("127.0.0.1/8" in shown) == parts.driver.addresses
        assert (f"{made.address}/24" in shown) == parts.driver.addresses
        await parts.driver.disconnect(parts.network, made)

    run(test)


def test_open_and_close_are_idempotent(run: Run, world: World) -> None:
    async def test(parts: Parts) -> None:
        await parts.driver.open(parts.network)
        await parts.driver.open(parts.network)
        space = world.container()
        made = await join(parts, space, 1)
        await parts.driver.disconnect(parts.network, made)
        await parts.driver.close(parts.network)
        await parts.driver.close(parts.network)

    run(test)


def test_disconnect_is_idempotent_and_needs_no_connect(run: Run, world: World) -> None:
    async def test(parts: Parts) -> None:
        never = endpoint(parts, 1)
        await parts.driver.disconnect(parts.network, never)
        made = await join(parts, world.container(), 2)
        await parts.driver.disconnect(parts.network, made)
        await parts.driver.disconnect(parts.network, made)

    run(test)


def test_disconnect_works_when_the_namespace_is_gone(run: Run, world: World) -> None:
    async def test(parts: Parts) -> None:
        space = world.container()
        made = await join(parts, space, 1)
        space.end()
        await parts.driver.disconnect(parts.network, made)

    run(test)


def test_many_at_once(run: Run, world: World) -> None:
    async def test(parts: Parts) -> None:
        spaces = [world.container() for _ in range(8)]
        made = await asyncio.gather(*(join(parts, space, n) for n, space in enumerate(spaces, start=1)))
        await asyncio.gather(*(parts.driver.disconnect(parts.network, e) for e in made))

    run(test)


def test_an_adopted_network_goes_on(run: Run, world: World) -> None:
    """A second engine life opens what the first one made: connected containers stay connected, new ones come."""

    async def test(parts: Parts) -> None:
        first = await join(parts, world.container(), 1)
        again = await make(parts.driver.name)
        second = await join(again, world.container(), 2)
        if again.driver.addresses:
            space = world.containers[1]
            await asyncio.to_thread(space.run, "busybox", "ping", "-c1", "-W5", first.address)
        for made in (first, second):
            await again.driver.disconnect(again.network, made)
        for thread in again.threads:
            await thread.close()

    run(test)
