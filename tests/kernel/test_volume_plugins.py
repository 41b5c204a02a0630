"""Volumes of other drivers: the store before a real plugin process, which also lies, dies and comes back."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from support.stores import Stores, stores
from support.tars import directory, member, pack

from boxwright import plugins
from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, System

pytestmark = pytest.mark.root

PROGRAM = Path(__file__).parents[1] / "support" / "volume_plugin.py"


class Plugin:
    """The process `driver`, with its socket in a plugin directory of the test's own."""

    def __init__(self, home: Path) -> None:
        self.home, self.socket = home / "plugin", home / "sockets" / "driver.sock"
        self.home.mkdir()
        self.socket.parent.mkdir()
        self.start()

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.socket), str(self.home)], stdout=subprocess.PIPE
        )
        assert self.process.stdout and self.process.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    def mode(self, word: str) -> None:
        (self.home / "mode").write_text(word)

    def mounted(self, name: str) -> list[str]:
        found: list[str] = json.loads((self.home / "mounted").read_text()).get(name) or []
        return found

    def asked(self, verb: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.home / "log").read_text().splitlines()]
        return [line for line in lines if line["verb"] == verb]


@pytest.fixture
def made() -> Iterator[Stores]:
    with stores() as found:
        found.snapshotter.needed = lambda chain_id: True
        yield found


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    monkeypatch.setattr(plugins, "SOCKETS", str(tmp_path / "sockets"))
    monkeypatch.setattr(plugins, "SPECS", (str(tmp_path / "specs"),))
    found = Plugin(tmp_path)
    yield found
    found.stop()


def create(made: Stores, name: str | None = "data", driver: str = "driver", **more: Any) -> dict[str, Any]:
    return asyncio.run(made.volumes.create(name, driver, **more))


def listed(made: Stores, **filters: list[str]) -> dict[str, Any]:
    return asyncio.run(made.volumes.list(filters))


def names(made: Stores, **filters: list[str]) -> list[str]:
    return [volume["Name"] for volume in listed(made, **filters)["Volumes"]]


def test_a_life(made: Stores, plugin: Plugin) -> None:
    shown = create(made, options={"size": "1g"}, labels={"a": "b"})
    assert (shown["Driver"], shown["Scope"], shown["Mountpoint"]) == ("driver", "global", "")
    assert plugin.asked("Create") == [{"verb": "Create", "Name": "data", "Opts": {"size": "1g"}}]
    assert made.volumes.drivers == ["local", "driver"]
    assert create(made)["Options"] == {"size": "1g"} and len(plugin.asked("Create")) == 1

    path = asyncio.run(made.volumes.mount("data", "1" * 64))
    assert path == str(plugin.home / "volumes" / "data")
    Path(path, "file").write_text("x")
    asyncio.run(made.volumes.mount("data", "2" * 64))
    found = asyncio.run(made.volumes.get("data"))
    assert found["Status"] == {"files": 1} and found["Mountpoint"] == path and found["Labels"] == {"a": "b"}
    [first, second] = [ask["ID"] for ask in plugin.asked("Mount")]
    assert first != second and plugin.mounted("data") == sorted([first, second])
    asyncio.run(made.volumes.unmount("data", "1" * 64))
    asyncio.run(made.volumes.unmount("data", "1" * 64))
    assert [ask["ID"] for ask in plugin.asked("Unmount")] == [first] and plugin.mounted("data") == [second]
    asyncio.run(made.volumes.unmount("data", "2" * 64))
    assert plugin.mounted("data") == []

    asyncio.run(made.volumes.remove("data"))
    assert os.listdir(plugin.home / "volumes") == [] and names(made) == []
    assert [event[1] for event in made.events] == [
        "create",
        "mount",
        "mount",
        "unmount",
        "unmount",
        "unmount",
        "destroy",
    ]


def test_a_life_without_the_database(made: Stores, plugin: Plugin) -> None:
    """What the plugin has, and nobody made here, is listed, shown, used by name alone and removed."""
    (plugin.home / "volumes" / "theirs").mkdir()
    assert names(made) == ["theirs"] and asyncio.run(made.volumes.get("theirs"))["Driver"] == "driver"
    assert create(made, "theirs", "")["Driver"] == "driver"
    asyncio.run(made.volumes.mount("theirs", "1" * 64))
    assert len(plugin.mounted("theirs")) == 1
    asyncio.run(made.volumes.unmount("theirs", "1" * 64))
    asyncio.run(made.volumes.remove("theirs"))
    assert names(made) == [] and plugin.asked("Create") == []


def test_one_name_one_volume(made: Stores, plugin: Plugin) -> None:
    create(made, "here", "local")
    create(made, "there")
    for name, driver, owner in (("here", "driver", "local"), ("there", "local", "driver")):
        with pytest.raises(Conflict) as caught:
            create(made, name, driver)
        text = f"create {name}: driver '{owner}' already has volume '{name}': volume name must be unique"
        assert str(caught.value) == text
    assert create(made, "there", "")["Driver"] == "driver" and create(made, "here", "")["Driver"] == "local"
    with pytest.raises(NotFound, match='create here: error looking up volume plugin x: plugin "x" not found'):
        create(made, "here", "x")
    (plugin.home / "volumes" / "here").mkdir()  # theirs stays in the shadow of ours
    assert {volume["Name"]: volume["Driver"] for volume in listed(made)["Volumes"]} == {
        "here": "local", "there": "driver",
    }  # fmt: skip
    assert names(made, driver=["driver"]) == ["there"] and names(made, driver=["local"]) == ["here"]


def test_prune_and_usage_are_for_local_volumes(made: Stores, plugin: Plugin) -> None:
    create(made, "remote", anonymous=True)
    assert asyncio.run(made.volumes.prune({"all": ["true"]}))["VolumesDeleted"] is None
    assert asyncio.run(made.volumes.usage()) == []


def test_a_refusal(made: Stores, plugin: Plugin) -> None:
    with pytest.raises(System) as caught:
        create(made, options={"refuse": "1"})
    assert str(caught.value) == "create data: VolumeDriver.Create: no room for it"
    assert made.db.query("SELECT * FROM volumes") == [] and made.events == []
    create(made)
    plugin.mode("status:Remove")
    with pytest.raises(System, match=r"^remove data: VolumeDriver\.Remove: the pool is broken$"):
        asyncio.run(made.volumes.remove("data"))
    assert names(made) == ["data"]
    asyncio.run(made.volumes.remove("data", force=True))
    assert made.db.query("SELECT * FROM volumes") == []


LIES = {
    "garbage": "VolumeDriver.Mount: ",
    "deep": "VolumeDriver.Mount: ",
    "huge": "the answer is longer than 1048576 bytes",
    "list": "VolumeDriver.Mount: ",
    "numbers": "the mount point '7' is not an absolute path",
    "relative": "the mount point 'etc' is not an absolute path",
    "dots": "the mount point '/tmp/../etc' is not an absolute path",
    "root": "the mount point '//' is not an absolute path",
    "nul": "is not an absolute path",
    "none": "the mount point 'None' is not an absolute path",
    "die": "VolumeDriver.Mount: ",
    "status": "VolumeDriver.Mount: the pool is broken",
}


@pytest.mark.parametrize("mode", LIES)
def test_a_mount_that_lies(made: Stores, plugin: Plugin, mode: str) -> None:
    create(made)
    plugin.mode(f"{mode}:Mount")
    with pytest.raises(System) as caught:
        asyncio.run(made.volumes.mount("data", "1" * 64))
    assert LIES[mode] in str(caught.value)
    plugin.mode("")
    if mode == "die":  # it had mounted it; who gives it back is its next life
        plugin.stop()
        plugin.start()
        assert len(plugin.mounted("data")) == 1
    asyncio.run(made.volumes.unmount("data", "1" * 64))
    assert plugin.mounted("data") == [] and made.db.query("SELECT * FROM volume_mounts") == []
    assert asyncio.run(made.volumes.mount("data", "1" * 64)) == str(plugin.home / "volumes" / "data")
    asyncio.run(made.volumes.unmount("data", "1" * 64))


@pytest.mark.parametrize("mode", ["garbage", "deep", "huge", "numbers", "relative", "other"])
def test_a_get_that_lies(made: Stores, plugin: Plugin, mode: str) -> None:
    create(made)
    plugin.mode(f"{mode}:Get")
    with pytest.raises(System, match=r'^get data: error while checking if volume "data" exists in driver "driver": '):
        asyncio.run(made.volumes.get("data"))
    with pytest.raises(Conflict, match="got an error while checking the driver"):
        create(made)
    with pytest.raises(NotFound, match=r"^get nosuch: no such volume$"):
        asyncio.run(made.volumes.get("nosuch"))


def test_a_list_that_lies(made: Stores, plugin: Plugin) -> None:
    create(made, "good")
    create(made, "mine", "local")
    plugin.mode("names:List")
    assert names(made) == ["good", "mine"] and listed(made)["Warnings"] is None
    plugin.mode("numbers:List")
    found = listed(made)
    assert [volume["Name"] for volume in found["Volumes"]] == ["good", "mine"]
    assert found["Warnings"][0].startswith("list driver: VolumeDriver.List: ")


def test_silence(made: Stores, plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    create(made)
    monkeypatch.setattr("boxwright.volumes.external.LONG", 0.2)
    plugin.mode("silent:Mount")
    with pytest.raises(System, match=r"no answer to VolumeDriver\.Mount within 0\.2 seconds"):
        asyncio.run(made.volumes.mount("data", "1" * 64))


def test_a_plugin_that_is_away(made: Stores, plugin: Plugin) -> None:
    create(made)
    create(made, "mine", "local")
    asyncio.run(made.volumes.mount("data", "1" * 64))
    plugin.stop()
    for call in (made.volumes.get("data"), made.volumes.mount("data", "2" * 64), made.volumes.remove("data")):
        with pytest.raises(System):
            asyncio.run(call)
    with pytest.raises(System):
        asyncio.run(made.volumes.unmount("data", "1" * 64))
    found = listed(made)
    assert [volume["Name"] for volume in found["Volumes"]] == ["data", "mine"]
    assert found["Warnings"][0].startswith("list driver: ")
    plugin.start()
    assert len(plugin.mounted("data")) == 1
    asyncio.run(made.volumes.remove("data"))  # gives the forgotten mounts back first
    assert plugin.mounted("data") == [] and names(made) == ["mine"]


def test_what_a_dead_engine_left(made: Stores, plugin: Plugin) -> None:
    create(made)
    asyncio.run(made.volumes.mount("data", "alive"))
    asyncio.run(made.volumes.mount("data", "dead"))
    [kept, lost] = [ask["ID"] for ask in plugin.asked("Mount")]
    # Between the intent and the plugin's answer, and between the intent and the question.
    made.db.execute("INSERT INTO volume_mounts VALUES ('never-asked', 'data', 'dead')")
    made.db.execute("INSERT INTO volumes VALUES ('half', 'driver', 'null', 'null', 1, '')")
    made.close()
    made.open()
    made.volumes.reconcile({"alive"})
    asyncio.run(made.volumes.recover())
    assert plugin.mounted("data") == [kept] and lost != kept
    assert made.db.query("SELECT id FROM volume_mounts") == [(kept,)]
    assert names(made) == ["data"]
    asyncio.run(made.volumes.remove("half"))
    assert made.db.query("SELECT name FROM volumes") == [("data",)]
    asyncio.run(made.volumes.unmount("data", "alive"))
    assert plugin.mounted("data") == []


def test_a_plugin_that_lost_it(made: Stores, plugin: Plugin) -> None:
    create(made, labels={"old": "1"})
    os.rmdir(plugin.home / "volumes" / "data")
    assert names(made) == []
    with pytest.raises(NotFound, match="get data: no such volume"):
        asyncio.run(made.volumes.get("data"))
    assert create(made)["Labels"] is None and os.listdir(plugin.home / "volumes") == ["data"]


def test_borrowing_and_copy_up(made: Stores, plugin: Plugin) -> None:
    create(made)
    chain = asyncio.run(made.layers(pack(directory("d"), member("d/file", content=b"one"))))
    asyncio.run(made.volumes.copy_up("data", made.snapshotter.view(chain), "/d"))
    assert os.listdir(plugin.home / "volumes" / "data") == ["file"] and plugin.mounted("data") == []

    async def borrow() -> None:
        async with AsyncExitStack() as undo:
            path = await made.volumes.borrow("data", undo)
            assert os.listdir(path) == ["file"] and len(plugin.mounted("data")) == 1

    asyncio.run(borrow())
    assert plugin.mounted("data") == []


def test_where_plugins_are_looked_for(made: Stores, plugin: Plugin, tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "by-spec.spec").write_text(f"unix://{plugin.socket}\n")
    (specs / "by-json.json").write_text(json.dumps({"Name": "by-json", "Addr": f"unix://{plugin.socket}"}))
    (specs / "tcp.spec").write_text("tcp://127.0.0.1:1")
    (specs / "broken.json").write_text("{")
    below = plugin.socket.parent / "below"
    below.mkdir()
    (below / "below.sock").symlink_to(plugin.socket)
    for driver in ("by-spec", "by-json", "below"):
        assert create(made, f"of-{driver}", driver)["Driver"] == driver
    for driver, error, message in (
        ("tcp", System, "only unix:// addresses are known"),
        ("broken", System, "error looking up volume plugin broken: "),
        ("nosuch", NotFound, 'error looking up volume plugin nosuch: plugin "nosuch" not found'),
        ("../sockets/driver", NotFound, 'plugin "../sockets/driver" not found'),
        ("vendor/driver:latest", NotFound, 'plugin "vendor/driver:latest" not found'),
    ):
        with pytest.raises(Error) as caught:
            create(made, "xx", driver)
        assert type(caught.value) is error and message in str(caught.value)
    with pytest.raises(InvalidParameter):
        create(made, "a/b", "local")
