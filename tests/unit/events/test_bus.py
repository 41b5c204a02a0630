import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from boxwright.events import bus as bus_module
from boxwright.events.bus import RING, Bus, Subscription
from boxwright.events.filters import Filter

DEADLINE = 5.0


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), DEADLINE))


async def take(subscription: Subscription, count: int) -> list[str]:
    return [(await anext(subscription))["Action"] for _ in range(count)]


async def rest(subscription: Subscription) -> list[str]:
    return [event["Action"] async for event in subscription]


def test_a_container_event_has_dockers_shape() -> None:
    async def work() -> None:
        event = Bus().publish("container", "start", "id", {"image": "busybox", "name": "web"})
        assert list(event) == ["status", "id", "from", "Type", "Action", "Actor", "scope", "time", "timeNano"]
        assert event["status"] == event["Action"] == "start"
        assert event["from"] == "busybox"
        assert event["Actor"] == {"ID": "id", "Attributes": {"image": "busybox", "name": "web"}}
        assert event["scope"] == "local"
        assert event["timeNano"] // 10**9 == event["time"]

    run(work)


def test_other_types_have_no_old_fields() -> None:
    async def work() -> None:
        assert "status" not in Bus().publish("network", "connect", "n")
        image = Bus().publish("image", "tag", "sha256:1", {"name": "busybox"})
        assert image["status"] == "tag" and "from" not in image

    run(work)


def test_a_subscriber_hears_what_comes_after_it() -> None:
    async def work() -> None:
        bus = Bus()
        bus.publish("container", "create", "a")
        subscription = bus.subscribe()
        bus.publish("container", "start", "a")
        bus.publish("container", "die", "a")
        assert await take(subscription, 2) == ["start", "die"]
        subscription.close()
        bus.publish("container", "destroy", "a")
        assert await rest(subscription) == []
        assert bus.listeners == 0

    run(work)


def test_since_replays_and_until_ends() -> None:
    async def work() -> None:
        bus = Bus()
        bus.publish("container", "one", "a")
        second = bus.publish("container", "two", "a")
        bus.publish("container", "three", "a")
        assert await rest(bus.subscribe(since_ns=0, until_ns=time.time_ns())) == ["one", "two", "three"]
        assert await rest(bus.subscribe(since_ns=second["timeNano"], until_ns=second["timeNano"])) == ["two"]
        soon = bus.subscribe(until_ns=time.time_ns() + 50_000_000)
        bus.publish("container", "four", "a")
        assert await rest(soon) == ["four"]

    run(work)


def test_the_ring_keeps_the_last_ones() -> None:
    async def work() -> None:
        bus = Bus()
        for number in range(RING + 10):
            bus.publish("container", str(number), "a")
        kept = await rest(bus.subscribe(since_ns=0, until_ns=time.time_ns()))
        assert kept == [str(number) for number in range(10, RING + 10)]

    run(work)


def test_a_reader_that_is_too_slow_is_let_go_not_lied_to(monkeypatch: Any) -> None:
    monkeypatch.setattr(bus_module, "QUEUE", 3)

    async def work() -> None:
        bus = Bus()
        subscription = bus.subscribe()
        for number in range(5):
            bus.publish("container", str(number), "a")
        assert bus.listeners == 0
        assert await rest(subscription) == ["0", "1", "2"]

    run(work)


def accepted(filters: dict[str, list[str]], type: str, action: str, id: str, **attributes: str) -> bool:
    async def work() -> bool:
        return Filter(filters).matches(Bus().publish(type, action, id, attributes))

    return asyncio.run(work())


def test_filters() -> None:
    def web(filters: dict[str, list[str]], action: str = "start") -> bool:
        labels = {"tier": "front"}
        return accepted(filters, "container", action, "abcdef", name="web", image="repo/busybox:1", **labels)

    assert web({})
    assert web({"type": ["container"]}) and not web({"type": ["image"]}) and web({"type": ["image", "container"]})
    assert web({"event": ["start"]}) and not web({"event": ["star"]})
    assert web({"container": ["web"]}) and web({"container": ["abc"]}) and not web({"container": ["def"]})
    assert web({"image": ["repo/busybox:1"]}) and web({"image": ["repo/busybox"]}) and not web({"image": ["busybox"]})
    assert web({"label": ["tier"]}) and web({"label": ["tier=front"]})
    assert not web({"label": ["tier=front", "other"]}) and not web({"label": ["tier=back"]})
    assert web({"scope": ["local"]}) and not web({"scope": ["swarm"]})
    assert web({"event": ["exec_create"]}, "exec_create: sh -c true")
    assert not web({"event": ["exec_start"]}, "exec_create: sh")
    assert web({"event": ["exec_create: sh"]}, "exec_create: sh")
    assert web({"event": ["health_status"]}, "health_status: healthy")
    assert not web({"event": ["start"], "type": ["network"]})
    assert accepted({"volume": ["data"]}, "volume", "create", "data")
    assert accepted({"network": ["bri"]}, "network", "connect", "n1", name="bridge")
    assert accepted({"daemon": ["vm"]}, "daemon", "reload", "x", name="vm")
    assert accepted({"image": ["busybox"]}, "image", "tag", "sha256:1", name="busybox:latest")
    assert accepted({"image": ["localhost:5000/x"]}, "image", "tag", "sha256:1", name="localhost:5000/x")


names = st.sampled_from(["type", "event", "container", "image", "label", "volume", "network", "daemon", "scope"])
values = st.lists(st.text("abc=:/", max_size=4), max_size=3)


@given(st.dictionaries(names, values), st.dictionaries(names, values))
def test_more_filters_never_accept_more(some: dict[str, list[str]], more: dict[str, list[str]]) -> None:
    event = {
        "Type": "container",
        "Action": "a",
        "Actor": {"ID": "ab", "Attributes": {"image": "a:b", "name": "c", "a": "b"}},
        "scope": "a",
    }
    both = {**some, **more}
    if Filter(both).matches(event) and all(name not in more for name in some):
        assert Filter(some).matches(event) and Filter(more).matches(event)
