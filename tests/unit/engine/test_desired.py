"""Inspect, list, rename and remove, over the real store and verbs."""

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.desired import Desired

from boxwright.db import intents
from boxwright.engine import clock, inspect, listing, pause, remove, rename, start, stop
from boxwright.engine.state import Operation, State, Status
from boxwright.errdefs import Conflict, InvalidParameter, NotFound, System
from boxwright.network.endpoint import Published

Desire = Callable[[Callable[[Desired], Awaitable[None]]], None]

# Top-level keys of Docker 28's answers, in its order.
INSPECT_KEYS = [
    "Id",
    "Created",
    "Path",
    "Args",
    "State",
    "Image",
    "ResolvConfPath",
    "HostnamePath",
    "HostsPath",
    "LogPath",
    "Name",
    "RestartCount",
    "Driver",
    "Platform",
    "MountLabel",
    "ProcessLabel",
    "AppArmorProfile",
    "ExecIDs",
    "HostConfig",
    "GraphDriver",
    "Mounts",
    "Config",
    "NetworkSettings",
    "Boxwright",
]
LIST_KEYS = [
    "Id",
    "Names",
    "Image",
    "ImageID",
    "Command",
    "Created",
    "Ports",
    "Labels",
    "State",
    "Status",
    "HostConfig",
    "NetworkSettings",
    "Mounts",
]


async def listed(world: Desired, filters: dict[str, list[str]] | None = None, **options: Any) -> list[str]:
    found = await listing.containers(world.eng, options.pop("all", True), filters=filters, **options)
    return [line["Names"][0][1:] for line in found]


# --- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_of_a_container_that_has_never_run(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("web", {"Cmd": ["sh", "-c", "true"], "HostConfig": {"Binds": ["v:/v", "/tmp:/b:ro"]}})
        found = await inspect.inspect(world.eng, "web")
        assert list(found) == INSPECT_KEYS
        assert (found["Id"], found["Name"], found["Path"], found["Args"]) == (c.id, "/web", "sh", ["-c", "true"])
        assert found["State"] == {
            "Status": "created", "Running": False, "Paused": False, "Restarting": False, "OOMKilled": False,
            "Dead": False, "Pid": 0, "ExitCode": 0, "Error": "", "StartedAt": clock.ZERO, "FinishedAt": clock.ZERO,
        }  # fmt: skip
        assert found["LogPath"] == found["HostsPath"] == ""
        assert found["ExecIDs"] is None
        assert found["Mounts"] == [
            {
                "Type": "volume", "Name": "v", "Source": "/volumes/v/_data", "Destination": "/v", "Driver": "local",
                "Mode": "z", "RW": True, "Propagation": "",
            },
            {
                "Type": "bind", "Source": "/tmp", "Destination": "/b", "Mode": "ro", "RW": False,
                "Propagation": found["Mounts"][1]["Propagation"],
            },
        ]  # fmt: skip
        settings = found["NetworkSettings"]
        assert settings["Ports"] == {} and settings["IPAddress"] == ""
        assert list(settings["Networks"]) == ["bridge"]
        assert settings["Networks"]["bridge"]["NetworkID"] == ""
        assert found["HostConfig"]["Binds"] == ["v:/v", "/tmp:/b:ro"]
        assert found["HostConfig"]["CapAdd"] is None and found["HostConfig"]["Links"] is None
        assert found["GraphDriver"]["Name"] == "overlay2"
        assert found["Boxwright"] == {
            "Generation": 0, "Operation": "", "Timeline": [], "StartError": None, "Timeout": 0, "TimedOut": False,
            "Problem": "",
        }  # fmt: skip
        assert "SizeRw" not in found

    desire(work)


def test_inspect_of_a_running_container(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("web", {"ExposedPorts": {"90/tcp": {}}})
        await start.start(world.eng, "web")
        endpoint = c.endpoints["bridge"]
        endpoint.exposed = ["80/tcp", "90/tcp"]
        endpoint.published = [Published("tcp", "0.0.0.0", 8080, 80)]
        found = await inspect.inspect(world.eng, c.id[:12], size=True)
        assert found["State"]["Running"] and found["State"]["Pid"] == 4242
        assert found["LogPath"].endswith(f"{c.id}-json.log")
        settings = found["NetworkSettings"]
        assert settings["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": None}
        assert settings["IPAddress"] == "172.17.0.2" == settings["Networks"]["bridge"]["IPAddress"]
        assert settings["SandboxKey"] == "/proc/4242/ns/net"
        assert (found["SizeRw"], found["SizeRootFs"]) == (24, 1024)
        assert found["Boxwright"]["Generation"] == 1 and found["Boxwright"]["Timeline"]
        (line,) = await listing.containers(world.eng)
        assert line["Ports"] == [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 90, "Type": "tcp"},
        ]
        await stop.stop(world.eng, "web", None, 0)
        found = await inspect.inspect(world.eng, "web")
        assert found["NetworkSettings"]["Ports"] == {} and found["NetworkSettings"]["SandboxKey"] == ""

    desire(work)


def test_lookup_by_id_name_and_prefix(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        store = world.eng.store
        one, two = await world.make("one"), await world.make("two")
        # A name that is another's id prefix: the exact name wins.
        named = await world.make(one.id[:6])
        assert store.get(one.id[:6]) is named and store.get(one.id) is one
        assert store.get("one") is store.get("/one") is store.get(one.id[:40]) is one
        with pytest.raises(NotFound, match=r"^No such container: nope$"):
            store.get("nope")
        with pytest.raises(InvalidParameter):
            store.get("")
        for ref in ("/", "//", "one/two", "../one", "%2e", "one\0", "\udcff", "é"):
            with pytest.raises(NotFound):
                store.get(ref)
        # Of 17 ids two begin alike.
        ids = sorted([one.id, two.id, named.id, *[(await world.make()).id for _ in range(14)]])
        shared = next(a[0] for a, b in itertools.pairwise(ids) if a[0] == b[0])
        with pytest.raises(InvalidParameter, match=f"Multiple IDs found with provided prefix: {shared}"):
            store.get(shared)

    desire(work)


def test_the_store_comes_back_as_it_was(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        from boxwright.engine.graphdb import Graph
        from boxwright.engine.store import Store

        await world.make("db")
        c = await world.make("web", {"Image": "app", "HostConfig": {"Links": ["db:sql"], "Tmpfs": {"/t": ""}}})
        await start.start(world.eng, "db")
        await start.start(world.eng, "web")
        again = Store(world.eng.db, Graph(world.eng.db))
        again.load()
        copy = again.get("web")
        assert copy.record == c.record and copy.state == c.state
        assert again.get("web/sql").name == "db"
        await stop.stop(world.eng, "web", None, 0)
        await stop.stop(world.eng, "db", None, 0)

    desire(work)


def test_memory_does_not_believe_what_was_rolled_back(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        store = world.eng.store
        c = await world.make("web")
        state, record = c.state, c.record
        with pytest.raises(ZeroDivisionError), world.eng.db.transaction():
            store.change(c, status=Status.RUNNING, pid=7)
            store.replace(c, name="other")
            assert c.state.pid == 7 and c.name == "other"
            raise ZeroDivisionError
        assert c.state is state and c.record is record
        with pytest.raises(ZeroDivisionError), world.eng.db.transaction():
            store.delete(c)
            assert c.gone and store.by_id(c.id) is None
            raise ZeroDivisionError
        assert not c.gone and store.get("web") is store.get(c.id[:10]) is c
        with pytest.raises(Conflict, match="cannot go from created to paused"):
            store.change(c, status=Status.PAUSED)

    desire(work)


def test_claims_wait_for_each_other_and_not_for_a_removal(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        store = world.eng.store
        c = await world.make("web")
        order: list[str] = []

        async def verb(name: str, operation: Operation) -> None:
            async with store.claim(c, operation):
                order.append(f"{name} begins")
                assert c.state.operation is operation
                await asyncio.sleep(0)
                order.append(f"{name} ends")

        await asyncio.gather(verb("a", Operation.STARTING), verb("b", Operation.STOPPING))
        assert order == ["a begins", "a ends", "b begins", "b ends"]
        assert c.state.operation is Operation.NONE
        async with store.claim(c, Operation.REMOVING):
            with pytest.raises(Conflict, match=f"removal of container {c.id} is already in progress"):
                async with store.claim(c, Operation.STARTING):
                    pass
        waiting = asyncio.create_task(verb("late", Operation.STARTING))
        async with store.claim(c, Operation.UPDATING):
            await asyncio.sleep(0)
            store.delete(c)
        with pytest.raises(NotFound):
            await waiting

    desire(work)


# --- list -----------------------------------------------------------------------------------------------------------


def test_a_line_has_dockers_shape(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("web", {"Image": "app", "Cmd": ["a b", "c"], "HostConfig": {"Annotations": {"x": "y"}}})
        (line,) = await listing.containers(world.eng, all=True)
        assert list(line) == LIST_KEYS
        assert line["Command"] == "/app 'a b' c"
        assert line["Names"] == ["/web"] and line["Image"] == "app" and line["ImageID"] == c.record.image
        assert line["Created"] == pytest.approx(time.time(), abs=5)
        assert (line["State"], line["Status"]) == ("created", "Created")
        assert line["Labels"] == {"maker": "us"}
        assert line["HostConfig"] == {"NetworkMode": "default", "Annotations": {"x": "y"}}
        assert line["Mounts"][0]["Destination"] == "/data"
        (line,) = await listing.containers(world.eng, all=True, size=True)
        assert (line["SizeRw"], line["SizeRootFs"]) == (24, 1024)
        # The tag moves on: the image's id is shown.
        del world.images.images["app"]
        (line,) = await listing.containers(world.eng, all=True)
        assert line["Image"] == c.record.image

    desire(work)


def test_which_containers_are_listed(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        for name in ("c1", "c2", "c3"):
            await world.make(name)
        await start.start(world.eng, "c2")
        assert await listed(world) == ["c3", "c2", "c1"]
        assert await listed(world, all=False) == ["c2"]
        assert await listed(world, all=False, limit=2) == ["c3", "c2"]
        assert await listed(world, all=False, filters={"status": ["created"]}) == ["c3", "c1"]
        await stop.stop(world.eng, "c2", None, 0)

    desire(work)


def test_every_filter(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        c1 = await world.make(
            "web-1", {"Labels": {"tier": "front", "x": ""}, "HostConfig": {"Binds": ["data:/d", "/tmp:/b"]}}
        )
        published = {"80/tcp": [{"HostPort": "8080"}]}
        await world.make("web-2", {"Image": "app", "HostConfig": {"PortBindings": published, "NetworkMode": "host"}})
        c3 = await world.make("db", {"ExposedPorts": {"53/udp": {}, "8000-8002/tcp": {}}})
        await start.start(eng, "db")

        async def by(**filters: Any) -> list[str]:
            return await listed(world, {k.replace("_", "-"): v for k, v in filters.items()})

        assert await by(name=["web"]) == ["web-2", "web-1"]
        assert await by(name=["^/web-1$"]) == ["web-1"] and await by(name=["^web-1$"]) == ["web-1"]
        assert await by(name=["1", "db"]) == ["db", "web-1"]
        assert await by(id=[c1.id[:12], c3.id]) == ["db", "web-1"]
        assert await by(label=["tier"]) == ["web-1"] and await by(label=["tier=front", "x="]) == ["web-1"]
        assert await by(label=["tier=back"]) == [] and await by(label=["tier", "nope"]) == []
        assert await by(status=["running", "paused"]) == ["db"]
        assert await by(ancestor=["busybox"]) == ["db", "web-2", "web-1"]
        assert await by(ancestor=["app"]) == ["web-2"] and await by(ancestor=["nope"]) == []
        assert await by(before=["db"]) == ["web-2", "web-1"] and await by(since=[c1.id]) == ["db", "web-2"]
        assert await by(before=["db"], since=["web-1"]) == ["web-2"]
        assert await by(volume=["data"]) == ["web-1"] and await by(volume=["/b"]) == ["web-1"]
        assert await by(volume=["/tmp"]) == ["web-1"] and await by(volume=["/data"]) == ["web-2"]
        c3.endpoints["bridge"].exposed = ["53/udp", "80/tcp", "8001/tcp"]
        c3.endpoints["bridge"].published = [Published("tcp", "0.0.0.0", 8080, 80)]
        assert await by(publish=["8080"]) == ["db"] and await by(publish=["80"]) == await by(publish=["8080/udp"]) == []
        assert await by(publish=["8079-8081"]) == ["db"]
        assert await by(expose=["8001"]) == await by(expose=["53/udp", "9/tcp"]) == await by(expose=["80"]) == ["db"]
        assert await by(expose=["8080"]) == [] and await by(expose=["8080"], publish=["8080"]) == ["db"]
        assert await by(network=["bridge"]) == ["db", "web-1"] and await by(network=["host"]) == ["web-2"]
        assert await by(network=["net1"]) == ["db"]
        assert await by(health=["none"]) == ["db", "web-2", "web-1"] and await by(health=["healthy"]) == []
        assert await by(is_task=["false"]) == ["db", "web-2", "web-1"] and await by(is_task=["1"]) == []
        assert await by(isolation=["default"]) == []
        world.driver.lives[-1].end(3)
        await world.until(lambda: c3.state.status is Status.EXITED)
        assert await by(exited=["3"]) == ["db"] and await by(exited=["0"]) == []
        assert await by(name=[]) == ["db", "web-2", "web-1"]

    desire(work)


@pytest.mark.parametrize(
    ("filters", "kind", "text"),
    [
        ({"zz": ["a"]}, InvalidParameter, "invalid filter 'zz'"),
        ({"status": ["a"]}, InvalidParameter, "invalid filter 'status=a'"),
        ({"health": ["a"]}, InvalidParameter, "filter value for health: a"),
        ({"is-task": ["a"]}, InvalidParameter, "invalid filter 'is-task=[a]'"),
        ({"exited": ["a"]}, InvalidParameter, "exited=a"),
        ({"before": ["nope"]}, NotFound, "No such container: nope"),
        ({"publish": ["zz"]}, InvalidParameter, "error while looking up for publish zz"),
        ({"expose": ["1:2"]}, InvalidParameter, "filter for 'expose' should not contain ':': 1:2"),
        ({"name": ["(?i)x"]}, InvalidParameter, "invalid filter 'name'"),
        ({"id": ["a" * 2000]}, InvalidParameter, "invalid filter 'id'"),
    ],
)
def test_filters_that_are_refused(
    desire: Desire, filters: dict[str, list[str]], kind: type[Exception], text: str
) -> None:
    async def work(world: Desired) -> None:
        with pytest.raises(kind) as caught:
            await listing.containers(world.eng, filters=filters)
        assert text in str(caught.value)

    desire(work)


def test_what_go_cannot_compile_finds_nothing(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        await world.make("web")
        assert await listed(world, {"name": ["(("]}) == []
        assert await listed(world, {"name": ["^/w.*b$"]}) == await listed(world, {"name": [r"w[e*+]b\*?"]}) == ["web"]

    desire(work)


def moment(ago: float) -> str:
    return clock.rfc3339(time.time_ns() - int(ago * 1e9))


def test_status_texts() -> None:
    def text(status: Status, **fields: Any) -> str:
        return listing.status(State(status=status, **fields))

    assert text(Status.CREATED) == "Created"
    assert text(Status.RUNNING, started_at=moment(300.5)) == "Up 5 minutes"
    assert text(Status.PAUSED, started_at=moment(2.5)) == "Up 2 seconds (Paused)"
    assert text(Status.EXITED, started_at=moment(9), finished_at=moment(3.5)) == "Exited (0) 3 seconds ago"
    assert text(Status.EXITED, started_at=moment(9), finished_at=moment(1.5), exit_code=137).startswith(
        "Exited (137) 1 s"
    )
    assert text(Status.RESTARTING, started_at=moment(9), finished_at=moment(0), exit_code=1) == (
        "Restarting (1) Less than a second ago"
    )
    assert text(Status.REMOVING) == "Removal In Progress" and text(Status.DEAD) == "Dead"
    healthy = {"Status": "healthy"}
    assert text(Status.RUNNING, started_at=moment(61), health=healthy) == "Up About a minute (healthy)"
    assert text(Status.RUNNING, started_at=moment(61), health={"Status": "starting"}) == (
        "Up About a minute (health: starting)"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"), (1, "1 second"), (59.9, "59 seconds"), (60, "About a minute"), (119, "About a minute"),
        (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"), (5399, "About an hour"), (5400, "2 hours"),
        (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (13 * 86400, "13 days"), (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"), (60 * 86400, "2 months"), (729 * 86400, "24 months"), (730 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    assert listing.human_duration(seconds) == text


@given(st.integers(0, 2**61))
def test_times_go_there_and_back(ns: int) -> None:
    assert clock.nanoseconds(clock.rfc3339(ns)) == ns


def test_times_of_others() -> None:
    assert clock.nanoseconds(clock.ZERO) == clock.nanoseconds("") == 0
    assert clock.rfc3339(0) == "1970-01-01T00:00:00Z"
    assert clock.rfc3339(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert clock.nanoseconds("1970-01-01T02:00:01.25+02:00") == 1_250_000_000
    assert clock.nanoseconds("1970-01-01T00:00:01.123456789123Z") == 1_123_456_789
    with pytest.raises(ValueError):
        clock.nanoseconds("yesterday")


# --- rename ---------------------------------------------------------------------------------------------------------


def test_rename(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        c = await world.make("old")
        other = await world.make("other")
        await rename.rename(eng, "old", "/new")
        assert c.name == "new" and eng.store.find("old") is None and eng.store.get("new") is c
        assert world.events[-1] == "rename"
        assert eng.bus.recent()[-1]["Actor"]["Attributes"]["oldName"] == "/old"
        with pytest.raises(Conflict) as caught:
            await rename.rename(eng, "new", "other")
        assert str(caught.value).startswith(
            f'Error when allocating new name: Conflict. The container name "/other" is already in use by container "{other.id}".'
        )
        for new, text in (("", "Neither old nor new names may be empty"), ("new", "same name as its current name")):
            with pytest.raises(InvalidParameter, match=text):
                await rename.rename(eng, "new", new)
        with pytest.raises(InvalidParameter, match="Error when allocating new name: Invalid container name"):
            await rename.rename(eng, "new", "a/b")
        with pytest.raises(NotFound):
            await rename.rename(eng, "old", "x1")
        assert c.name == "new" and eng.store.get("new") is c

    desire(work)


# --- remove ---------------------------------------------------------------------------------------------------------


def test_remove_leaves_nothing(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        c = await world.make("web", {"Image": "app", "HostConfig": {"Binds": ["named:/n"]}})
        anonymous = next(p.name for p in c.record.mounts if not p.named)
        await remove.remove(eng, "web")
        assert len(eng.store) == 0 and eng.db.query("SELECT id FROM entities") == [("0",)]
        assert world.snapshots.keys == {} and not os.path.exists(eng.container_dir(c.id))
        assert set(world.volumes.volumes) == {anonymous, "named"}
        assert world.events == ["create", "destroy"] and intents.pending(eng.db) == []
        again = await world.make("web", {"Image": "app", "HostConfig": {"Binds": ["named:/n"]}})
        assert again.id != c.id
        await remove.remove(eng, "web", volumes=True)
        assert set(world.volumes.volumes) == {anonymous, "named"}
        with pytest.raises(NotFound):
            await remove.remove(eng, "web")

    desire(work)


def test_a_running_container_is_removed_by_force_only(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        c = await world.make("web")
        await start.start(eng, "web")
        with pytest.raises(Conflict) as caught:
            await remove.remove(eng, "web")
        assert str(caught.value) == (
            'cannot remove container "web": container is running: stop the container before removing or force remove'
        )
        await pause.pause(eng, "web")
        with pytest.raises(Conflict, match='"web": container is paused and must be unpaused first'):
            await remove.remove(eng, "web")
        await pause.unpause(eng, "web")
        assert c.state.operation is Operation.NONE
        await remove.remove(eng, "web", force=True)
        assert [e for e in world.events if e != "disconnect"][-3:] == ["kill", "die", "destroy"]
        assert len(eng.store) == 0

    desire(work)


def test_force_does_not_wait_for_a_patient_stop(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        await world.make("web")
        await start.start(eng, "web")
        world.driver.lives[-1].dies_of = {9}
        stopping = asyncio.create_task(stop.stop(eng, "web", None, 3600))
        await world.until(lambda: 15 in world.driver.lives[-1].signals)
        await remove.remove(eng, "web", force=True)
        await stopping
        assert len(eng.store) == 0

    desire(work)


def test_two_removals_at_once(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        c = await world.make("web")
        await start.start(eng, "web")
        results = await asyncio.gather(
            *(remove.remove(eng, "web", force=True) for _ in range(3)), return_exceptions=True
        )
        assert results.count(None) == 1
        refusals = [r for r in results if r is not None]
        assert all(isinstance(r, Conflict | NotFound) for r in refusals)
        assert world.events.count("destroy") == 1 and c.gone

    desire(work)


def test_a_container_that_cannot_be_removed_is_dead_and_can_be_tried_again(
    desire: Desire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(world: Desired) -> None:
        c = await world.make("web")

        def fail(key: str) -> None:
            raise OSError(5, "Input/output error", key)

        with monkeypatch.context() as patched:
            patched.setattr(world.snapshots, "remove", fail)
            with pytest.raises(System, match="could not be removed"):
                await remove.remove(world.eng, "web")
        assert c.state.status is Status.DEAD and c.state.operation is Operation.NONE
        assert intents.pending(world.eng.db) == []
        with pytest.raises(Conflict):
            await start.start(world.eng, "web")
        await remove.remove(world.eng, "web")
        assert len(world.eng.store) == 0

    desire(work)


def test_an_engine_that_died_in_a_removal_finishes_it(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        c = await world.make("web", {"Image": "app"})
        volume = c.record.mounts[0].name
        with eng.db.transaction():
            eng.store.change(c, status=Status.REMOVING, operation=Operation.REMOVING)
            intents.begin(eng.db, remove.INTENT, c.id, {"volumes": [volume]})
        # A second one got further: its row is gone, its volume is not.
        await world.volumes.create("left", "local", None, None)
        intents.begin(eng.db, remove.INTENT, "f" * 64, {"volumes": ["left", "gone already"]})
        await remove.recover(eng)
        assert len(eng.store) == 0 and world.snapshots.keys == {} and world.volumes.volumes == {}
        assert intents.pending(eng.db) == []

    desire(work)


def test_auto_removal_takes_anonymous_volumes_along(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        await world.make("web", {"Image": "app", "HostConfig": {"AutoRemove": True, "Binds": ["named:/n"]}})
        await start.start(eng, "web")
        world.driver.lives[-1].end(0)
        await world.until(lambda: not len(eng.store))
        await eng.settle()
        assert set(world.volumes.volumes) == {"named"}
        assert world.events[-2:] == ["die", "destroy"]

    desire(work)
