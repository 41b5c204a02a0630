"""Volumes: names, what is shown, who uses them, their own file systems, and what they are filled with."""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.stores import Stores, stores, tree
from support.tars import device, directory, link, member, pack, symlink

from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound, System

pytestmark = pytest.mark.root


@pytest.fixture
def made() -> Iterator[Stores]:
    with stores() as found:
        found.snapshotter.needed = lambda chain_id: True
        yield found


def create(made: Stores, name: str | None = None, **arguments: Any) -> dict[str, Any]:
    return asyncio.run(made.volumes.create(name, **arguments))


def got(made: Stores, name: str) -> dict[str, Any]:
    return asyncio.run(made.volumes.get(name))


def listed(made: Stores, **filters: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asyncio.run(made.volumes.list(filters))["Volumes"]
    return found


def names(made: Stores, **filters: list[str]) -> list[str]:
    return [volume["Name"] for volume in listed(made, **filters)]


def mounts(made: Stores) -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if made.root in line]


def test_create_get_list_remove(made: Stores) -> None:
    before = made.files()
    shown = create(made, "data", labels={"a": "b"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown.pop("CreatedAt"))
    assert shown == {
        "Driver": "local", "Labels": {"a": "b"}, "Mountpoint": f"{made.root}/volumes/data/_data", "Name": "data",
        "Options": None, "Scope": "local",
    }  # fmt: skip
    assert os.stat(shown["Mountpoint"]).st_mode & 0o7777 == 0o755
    Path(f"{shown['Mountpoint']}/kept").write_text("x")
    assert create(made, "data")["Labels"] == {"a": "b"}  # it is there already
    assert os.listdir(shown["Mountpoint"]) == ["kept"]
    assert asyncio.run(made.volumes.list()) == {"Volumes": [got(made, "data")], "Warnings": None}
    asyncio.run(made.volumes.remove("data"))
    assert listed(made) == []
    with pytest.raises(NotFound) as caught:
        got(made, "data")
    assert str(caught.value) == "get data: no such volume"
    assert made.volumes.trash.drain() and made.files() == before
    assert [event[:3] for event in made.events] == [
        ("volume", "create", "data"), ("volume", "destroy", "data"),
    ]  # fmt: skip


INVALID = (
    '"{0}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you'
    " intended to pass a host directory, use absolute path"
)


@pytest.mark.parametrize("name", ["x/y", "a b", "-x", ".x", "..", "../x", "ü", "a\n", "a\0b", "/etc"])
def test_names_that_cannot_be(made: Stores, name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        create(made, name)
    assert str(caught.value) == f"create {name}: " + INVALID.format(name)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"name": "a"},
            InvalidParameter,
            "create a: volume name is too short, names should be at least two alphanumeric characters",
        ),
        ({"name": "a" * 256}, InvalidParameter, "file name too long"),
        (
            {"name": "xx", "driver": "foo"},
            NotFound,
            'create xx: error looking up volume plugin foo: plugin "foo" not found',
        ),
        ({"name": "xx", "options": {"foo": "x"}}, InvalidParameter, 'create xx: invalid option: "foo"'),
        ({"name": "xx", "options": {"type": "nfs"}}, InvalidParameter, 'create xx: missing required option: "device"'),
        ({"name": "xx", "options": {"o": "x"}}, InvalidParameter, 'create xx: missing required option: "device"'),
    ],
)
def test_what_create_refuses(made: Stores, arguments: dict[str, Any], error: type[Error], message: str) -> None:
    with pytest.raises(error) as caught:
        create(made, **arguments)
    assert message in str(caught.value)
    assert listed(made) == [] and os.listdir(f"{made.root}/volumes") == []


def test_anonymous_volumes_and_prune(made: Stores) -> None:
    nameless = create(made)["Name"]
    assert re.fullmatch(r"[0-9a-f]{64}", nameless)
    assert got(made, nameless)["Labels"] == {"com.docker.volume.anonymous": ""}
    create(made, "given-by-a-container", anonymous=True)
    create(made, "named", labels={"keep": "1"})
    create(made, "used", anonymous=True)
    made.used["used"] = ["f" * 64]
    Path(got(made, nameless)["Mountpoint"], "file").write_bytes(bytes(1000))
    found = asyncio.run(made.volumes.prune())
    assert sorted(found["VolumesDeleted"]) == sorted([nameless, "given-by-a-container"])
    assert found["SpaceReclaimed"] == 1000
    assert names(made) == ["named", "used"]
    assert asyncio.run(made.volumes.prune())["VolumesDeleted"] is None
    assert asyncio.run(made.volumes.prune({"all": ["true"], "label!": ["keep"]}))["VolumesDeleted"] is None
    assert asyncio.run(made.volumes.prune({"all": ["1"], "label": ["keep=1"]}))["VolumesDeleted"] == ["named"]
    with pytest.raises(InvalidParameter, match="invalid filter 'foo'"):
        asyncio.run(made.volumes.prune({"foo": ["x"]}))


def test_a_volume_in_use_stays(made: Stores) -> None:
    create(made, "data")
    made.used["data"] = ["1" * 64, "2" * 64]
    for force in (False, True):
        with pytest.raises(Conflict) as caught:
            asyncio.run(made.volumes.remove("data", force))
        assert str(caught.value) == f"remove data: volume is in use - [{'1' * 64} {'2' * 64}]"
    with pytest.raises(NotFound, match="get nosuch: no such volume"):
        asyncio.run(made.volumes.remove("nosuch"))
    asyncio.run(made.volumes.remove("nosuch", True))


def test_filters(made: Stores) -> None:
    for name, labels in (("one", {"a": "1"}), ("two", {"a": "2"}), ("other", None)):
        create(made, name, labels=labels)
    made.used["one"] = ["1" * 64]
    assert names(made) == ["one", "other", "two"]
    assert names(made, name=["o"]) == ["one", "other", "two"]
    assert names(made, name=["ne", "tw"]) == ["one", "two"]
    assert names(made, label=["a"]) == ["one", "two"]
    assert names(made, label=["a=2"]) == ["two"]
    assert names(made, dangling=["true"]) == ["other", "two"]
    assert names(made, dangling=["0"]) == ["one"]
    assert names(made, driver=["local"]) == ["one", "other", "two"]
    assert names(made, driver=["nfs"]) == []
    for filters, message in (
        ({"foo": ["x"]}, "invalid filter 'foo'"),
        ({"dangling": ["x"]}, "invalid filter 'dangling=[x]'"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            listed(made, **filters)
        assert str(caught.value) == message


def test_usage(made: Stores) -> None:
    create(made, "data")
    Path(got(made, "data")["Mountpoint"], "f").write_bytes(bytes(123))
    made.used["data"] = ["1" * 64]
    [shown] = asyncio.run(made.volumes.usage())
    assert shown["UsageData"] == {"Size": 123, "RefCount": 1}


def test_a_file_system_of_its_own(made: Stores) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0700,nosuid,uid=5"}
    create(made, "ram", options=options)
    create(made, "plain")

    async def use() -> None:
        path = await made.volumes.mount("ram", "1" * 64)
        assert mounts(made) == [path]
        assert os.stat(path).st_uid == 5 and os.statvfs(path).f_flag & os.ST_NOSUID
        Path(path, "f").write_text("x")
        await made.volumes.mount("ram", "2" * 64)
        await made.volumes.mount("plain", "2" * 64)
        assert mounts(made) == [path] and os.listdir(path) == ["f"]
        await made.volumes.unmount("ram", "1" * 64)
        assert mounts(made) == [path]
        await made.volumes.unmount("ram", "2" * 64)
        await made.volumes.unmount("ram", "2" * 64)
        await made.volumes.unmount("plain", "2" * 64)
        await made.volumes.unmount("nosuch", "2" * 64)
        assert mounts(made) == [] and os.listdir(path) == []

    asyncio.run(use())


def test_a_bind_of_its_own(made: Stores, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    create(made, "bound", options={"type": "none", "device": str(tmp_path), "o": "bind,ro"})

    async def use() -> None:
        path = await made.volumes.mount("bound", "1" * 64)
        assert os.listdir(path) == ["f"]
        with pytest.raises(OSError, match="Read-only"):
            Path(path, "g").write_text("x")
        await made.volumes.unmount("bound", "1" * 64)

    asyncio.run(use())
    assert mounts(made) == [] and os.listdir(tmp_path) == ["f"]


def test_a_file_system_that_cannot_be_mounted(made: Stores) -> None:
    create(made, "bad", options={"type": "ext4", "device": "/no/such/device"})
    with pytest.raises(System) as caught:
        asyncio.run(made.volumes.mount("bad", "1" * 64))
    assert str(caught.value).startswith("failed to mount local volume: mount /no/such/device:")
    assert mounts(made) == []
    made.volumes.reconcile(set())
    assert made.db.query("SELECT * FROM volume_users") == []


def test_what_a_dead_engine_left(made: Stores) -> None:
    create(made, "ram", options={"type": "tmpfs", "device": "tmpfs"})
    create(made, "kept", options={"type": "tmpfs", "device": "tmpfs"})
    create(made, "row-only")
    path = asyncio.run(made.volumes.mount("ram", "dead"))
    kept = asyncio.run(made.volumes.mount("kept", "alive"))
    os.makedirs(f"{made.root}/volumes/half-made/_data")
    os.makedirs(f"{made.root}/volumes/found")
    os.makedirs(f"{made.root}/volumes/adopted/_data")
    Path(f"{made.root}/volumes/adopted/_data/precious").write_text("x")
    os.rename(f"{made.root}/volumes/row-only", f"{made.root}/tmp/row-only")
    made.close()
    made.open()
    made.volumes.reconcile({"alive"})
    assert mounts(made) == [kept] and path != kept
    assert names(made) == ["adopted", "kept", "ram"]
    assert os.listdir(got(made, "adopted")["Mountpoint"]) == ["precious"]
    assert not os.path.exists(f"{made.root}/volumes/half-made")
    asyncio.run(made.volumes.unmount("kept", "alive"))
    assert mounts(made) == []


# -- copy-up -----------------------------------------------------------------------------------------------------------

IMAGE = [
    pack(
        directory("data", mode=0o1750, uid=10, gid=20, mtime=1_600_000_000),
        member("data/file", content=b"one", uid=30, gid=40, mode=0o4711, mtime=1_500_000_000),
        link("data/second", "data/file"), symlink("data/link", "/etc/passwd", uid=7), directory("data/sub", mode=0o700),
        member("data/sub/deep", content=b"deep", pax_headers={"SCHILY.xattr.user.note": "hello"}),
        device("data/null", 1, 3, mode=0o666), member("data/gone", content=b"x"), symlink("alias", "data"),
        symlink("outside", "../../../../../../../tmp"), member("plain", content=b"no directory"),
    ),
    pack(member("data/.wh.gone"), member("data/above", content=b"two")),
]  # fmt: skip


def filled(made: Stores, path: str, layers: int = 2) -> dict[str, Any]:
    """A volume after copy-up from `path` of the image; "." is its own directory."""
    chain = asyncio.run(made.layers(*IMAGE[:layers]))
    where = create(made)
    asyncio.run(made.volumes.copy_up(where["Name"], made.snapshotter.view(chain), path))
    status = os.stat(where["Mountpoint"])
    return {
        **tree(where["Mountpoint"]),
        ".": (status.st_mode & 0o7777, status.st_uid, status.st_gid),
        "path": where["Mountpoint"],
    }


@pytest.mark.parametrize("path", ["/data", "/alias", "data/", "/data/../data"])
def test_an_empty_volume_is_filled(made: Stores, path: str) -> None:
    found = filled(made, path)
    assert found["."] == (0o1750, 10, 20)
    assert found["file"] == (0o10, 0o4711, 30, 40, b"one")
    assert found["link"] == (0o12, 0o777, 7, 0, "/etc/passwd")
    assert found["above"][4] == b"two" and "gone" not in found
    assert found["sub"][1] == 0o700 and found["sub/deep"][4] == b"deep"
    assert found["null"][4] == os.makedev(1, 3)
    where = found["path"]
    assert os.stat(f"{where}/file").st_ino == os.stat(f"{where}/second").st_ino
    assert os.stat(f"{where}/file").st_mtime == 1_500_000_000
    assert os.getxattr(f"{where}/sub/deep", "user.note") == b"hello"


@pytest.mark.parametrize("path", ["/nosuch", "/plain", "/data/file", "/outside", "/../../../../tmp"])
def test_nothing_to_fill_it_with(made: Stores, path: str) -> None:
    """Not the host's directories either, wherever the image's links and the path's dots lead."""
    found = filled(made, path)
    assert set(found) == {".", "path"} and found["."] == (0o755, 0, 0)


def test_a_single_layer(made: Stores) -> None:
    assert filled(made, "/data", layers=1)["gone"][4] == b"x"


def test_a_volume_with_something_in_it_is_left_alone(made: Stores) -> None:
    chain = asyncio.run(made.layers(*IMAGE))
    where = create(made, "data")["Mountpoint"]
    Path(where, "mine").write_text("x")
    asyncio.run(made.volumes.copy_up("data", made.snapshotter.view(chain), "/data"))
    assert os.listdir(where) == ["mine"]
    assert mounts(made) == []
