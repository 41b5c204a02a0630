"""The image store: names, conflicts, what is removed with an image, what is shown, and import."""

import asyncio
import gzip
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.image_archives import (
    ARCHITECTURE,
    BASE,
    SIMPLE,
    TOP,
    config,
    docker,
    load,
)
from support.stores import Stores, mounted, stores, stream, tree

from boxwright.errdefs import Conflict, InvalidParameter, NotFound
from boxwright.storage.content import digest_of
from boxwright.storage.layers import chain_ids

pytestmark = pytest.mark.root


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with stores(request.param) as found:
        yield found


# -- removal -----------------------------------------------------------------------------------------------------------


def remove(
    made: Stores, text: str, force: bool = False, using: list[tuple[str, bool]] | None = None
) -> list[dict[str, str]]:
    return list(made.images.remove(text, force, False, lambda identifier: using or []))


def test_removal_by_name(made: Stores) -> None:
    before = made.files()
    [identifier], _ = load(made, SIMPLE)
    made.images.tag("app:1", "other", "2")
    chain = made.images.get("app:1").chain_ids
    assert remove(made, "app:1") == [{"Untagged": "app:1"}]
    made.events.clear()
    assert remove(made, "other:2") == [
        {"Untagged": "other:2"}, {"Deleted": identifier}, {"Deleted": chain[1]}, {"Deleted": chain[0]},
    ]  # fmt: skip
    assert [(kind, action) for kind, action, *_ in made.events] == [("image", "untag"), ("image", "delete")]
    assert made.trash.drain() and made.files() == before


def test_removal_by_id(made: Stores) -> None:
    [identifier], _ = load(made, SIMPLE)
    made.images.tag("app:1", "app", "2")
    with pytest.raises(Conflict) as caught:
        remove(made, identifier)
    short = identifier[7:19]
    assert (
        str(caught.value)
        == f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    )
    records = remove(made, short, force=True)
    assert records[:3] == [{"Untagged": "app:1"}, {"Untagged": "app:2"}, {"Deleted": identifier}]


def test_removal_by_id_with_one_name(made: Stores) -> None:
    [identifier], _ = load(made, SIMPLE)
    assert remove(made, identifier[7:15])[:2] == [{"Untagged": "app:1"}, {"Deleted": identifier}]


def test_removal_of_what_containers_use(made: Stores) -> None:
    [identifier], _ = load(made, SIMPLE)
    short, running, stopped = identifier[7:19], [("f" * 64, True)], [("e" * 64, False)]
    conflicts = [
        (
            "app:1",
            False,
            running,
            'conflict: unable to remove repository reference "app:1" (must force) - container ffffffffffff is using its referenced image '
            + short,
        ),
        (
            "app:1",
            False,
            stopped,
            'conflict: unable to remove repository reference "app:1" (must force) - container eeeeeeeeeeee is using its referenced image '
            + short,
        ),
        (
            identifier,
            False,
            running,
            f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container ffffffffffff",
        ),
        (
            identifier,
            True,
            running,
            f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container ffffffffffff",
        ),
        (
            identifier,
            False,
            stopped,
            f"conflict: unable to delete {short} (must be forced) - image is being used by stopped container eeeeeeeeeeee",
        ),
    ]
    for name, force, using, message in conflicts:
        with pytest.raises(Conflict) as caught:
            remove(made, name, force, using)
        assert str(caught.value) == message
        assert made.images.get("app:1").id == identifier
    assert remove(made, "app:1", True, running) == [{"Untagged": "app:1"}]
    assert made.images.get(identifier).repo_tags == []
    assert {"Deleted": identifier} in remove(made, identifier, True, stopped)


def test_layers_of_a_removed_image_stay_with_a_container(made: Stores) -> None:
    load(made, SIMPLE)
    chain = made.images.get("app:1").chain_ids
    asyncio.run(made.snapshotter.prepare("c" * 64, chain))
    records = remove(made, "app:1", True, [("c" * 64, False)])
    assert records == [{"Untagged": "app:1"}, {"Deleted": digest_of(config(BASE, TOP))}]
    with mounted(made.snapshotter.mount("c" * 64)) as path:
        assert "top" in tree(path)
    made.reopen(keep={"c" * 64})
    with mounted(made.snapshotter.mount("c" * 64)) as path:
        assert "top" in tree(path)
    made.snapshotter.remove("c" * 64)
    assert made.db.query("SELECT * FROM layers") == []


def test_layers_are_shared_and_counted(made: Stores) -> None:
    load(made, docker((["one:1"], config(BASE, TOP), [BASE, TOP]), (["two:1"], config(BASE), [BASE])))
    assert remove(made, "one:1")[1:] == [
        {"Deleted": digest_of(config(BASE, TOP))}, {"Deleted": chain_ids([digest_of(BASE), digest_of(TOP)])[-1]},
    ]  # fmt: skip
    with mounted(made.snapshotter.view(made.images.get("two:1").chain_ids)) as path:
        assert "bin/sh" in tree(path)


def test_an_image_that_is_held_stays(made: Stores) -> None:
    [identifier], _ = load(made, SIMPLE)
    with made.images.hold(identifier):
        with pytest.raises(Conflict, match="a container is being created from the image"):
            remove(made, identifier, True)
        assert remove(made, "app:1", True) == [{"Untagged": "app:1"}]
    assert {"Deleted": identifier} in remove(made, identifier)


def test_an_image_that_is_removed_while_it_is_saved_is_saved_whole(made: Stores) -> None:
    load(made, docker((["app:1"], config(BASE, TOP), [BASE, TOP])))
    chain = made.images.get("app:1").chain_ids

    async def both() -> tuple[bytes, list[dict[str, str]]]:
        whole = b"".join([piece async for piece in made.images.save(["app:1"])])
        stream = made.images.save(["app:1"])
        pieces = [await anext(stream)]
        removed = remove(made, "app:1")
        assert made.images.find("app:1") is None and all(map(made.snapshotter.has_layer, chain))
        pieces += [piece async for piece in stream]
        assert b"".join(pieces) == whole
        return whole, list(removed)

    whole, removed = asyncio.run(both())
    assert removed == [{"Untagged": "app:1"}, {"Deleted": digest_of(config(BASE, TOP))}]
    assert made.db.query("SELECT * FROM layers") == []  # they went with the last who read them
    load(made, whole)
    assert made.images.get("app:1").chain_ids == chain


def test_manifests_that_an_image_came_with(made: Stores) -> None:
    """As many as are kept, the latest first; they go with the image, and not when they are another image as well."""
    [identifier], _ = load(made, SIMPLE)
    other = config(BASE, comment="other")
    [second], _ = load(made, docker((["other:1"], other, [BASE])))
    document = made.content.get(identifier)
    sent = [json.dumps({"schemaVersion": 2, "n": number}).encode() for number in range(6)]
    for data in (other, *sent):
        made.images.add(document, [], manifest=("kind/of", data))
    found = made.images.originals.of(identifier, [])
    assert found is not None and (found.media_type, found.data) == ("kind/of", sent[5])
    preferred = made.images.originals.of(identifier, [digest_of(sent[3]), digest_of(b"")])
    assert preferred is not None and preferred.data == sent[3]
    assert made.images.originals.all() == {digest_of(data) for data in sent[2:]}
    made.images.add(document, [], manifest=("kind/of", sent[2]))
    assert made.images.originals.digests(identifier)[0] == digest_of(sent[2])
    made.images.add(document, [], manifest=("kind/of", other))
    made.reopen()
    assert digest_of(other) in made.images.originals.digests(identifier)
    remove(made, "app:1")
    assert made.images.originals.all() == set() and made.content.get(second) == other
    made.reopen()
    assert [row[0] for row in made.db.query("SELECT digest FROM blobs")] == [second]


def test_tags(made: Stores) -> None:
    [identifier], _ = load(made, SIMPLE)
    made.images.tag("app:1", "localhost:5000/a/b", "v1")
    made.images.tag(identifier[7:19], "plain")
    assert made.images.get("localhost:5000/a/b:v1").id == made.images.get("plain").id == identifier
    assert made.images.get("plain").repo_tags == ["app:1", "plain:latest", "localhost:5000/a/b:v1"]
    assert ("image", "tag", identifier, {"kind": "test", "name": "plain:latest"}) in made.events
    for repo, tag, message in (
        ("Bad", "", "invalid reference format: repository name (library/Bad) must be lowercase"),
        ("ok", "not/ok", "invalid tag format"),
        ("", "x", "invalid reference format"),
        (f"a@{identifier}", "", "refusing to create a tag with a digest reference"),
        ("hostfs", "", "hostfs is the name of a built-in image"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            made.images.tag("app:1", repo, tag)
        assert str(caught.value) == message
    with pytest.raises(NotFound):
        made.images.tag("nosuch", "x")


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_list_and_its_filters(made: Stores) -> None:
    old = config(BASE, created="2020-01-01T00:00:00Z", config={"Labels": {"a": "1"}})
    new = config(BASE, created="2022-01-01T00:00:00Z", config={"Labels": {"a": "2", "b": ""}})
    none = config(TOP, created="2021-01-01T00:00:00Z", config=None)
    load(made, docker((["old:1", "reg.io/old:2"], old, [BASE]), (["new:1"], new, [BASE]), (None, none, [TOP])))

    def listed(**filters: list[str]) -> list[str]:
        rows = made.images.list(filters={name.replace("_not", "!"): values for name, values in filters.items()})
        return [",".join(row["RepoTags"]) for row in rows]

    assert listed() == ["new:1", "", "old:1,reg.io/old:2"]
    row = made.images.list()[-1]
    assert row == {
        "Containers": -1, "Created": 1577836800, "Id": digest_of(old), "Labels": {"a": "1"}, "ParentId": "",
        "RepoDigests": [], "RepoTags": ["old:1", "reg.io/old:2"], "SharedSize": -1, "Size": 6,
    }  # fmt: skip
    assert [row["SharedSize"] for row in made.images.list(shared_size=True)] == [6, 0, 6]
    assert listed(dangling=["true"]) == [""]
    assert listed(dangling=["false"]) == ["new:1", "old:1,reg.io/old:2"]
    assert listed(label=["a"]) == ["new:1", "old:1,reg.io/old:2"]
    assert listed(label=["a=2", "b"]) == ["new:1"]
    assert listed(label_not=["a=2"]) == ["", "old:1,reg.io/old:2"]
    assert listed(reference=["old"]) == ["old:1"]
    assert listed(reference=["*:1"]) == ["new:1", "old:1"]
    assert listed(reference=["reg.io/*"]) == ["reg.io/old:2"]
    assert listed(reference=["o?d:[1-9]"]) == ["old:1"]
    assert listed(before=["new:1"]) == ["", "old:1,reg.io/old:2"]
    assert listed(since=["old:1"]) == ["new:1", ""]
    assert listed(until=["2021-06-01"]) == ["", "old:1,reg.io/old:2"]
    assert listed(until=["1h"]) == listed()
    assert listed(until=["1577836801"]) == ["old:1,reg.io/old:2"]
    for filters, error, message in (
        ({"foo": ["x"]}, InvalidParameter, "invalid filter 'foo'"),
        ({"dangling": ["maybe"]}, InvalidParameter, "invalid filter 'dangling=[maybe]'"),
        ({"before": ["nosuch"]}, NotFound, "No such image: nosuch:latest"),
        ({"until": ["yesterday"]}, InvalidParameter, "invalid filter 'until=yesterday'"),
        ({"reference": ["[a"]}, InvalidParameter, "invalid filter 'reference=[a': syntax error in pattern"),
    ):
        with pytest.raises(error) as caught:  # type: ignore[call-overload]
            made.images.list(filters=filters)
        assert str(caught.value) == message


def test_inspect_and_history(made: Stores) -> None:
    steps = [
        {"created": "2024-01-01T00:00:00Z", "created_by": "base"},
        {"created": "2024-01-02T00:00:00Z", "created_by": "ENV A=b", "empty_layer": True},
        {"created": "2024-01-03T00:00:00Z", "created_by": "top", "comment": "last"},
    ]
    document = config(BASE, TOP, history=steps, author="me", variant="v8")
    [identifier], _ = load(made, docker((["app:1"], document, [BASE, TOP])))
    shown = made.images.inspect("app:1")
    assert shown["Id"] == identifier and shown["RepoTags"] == ["app:1"] and shown["RepoDigests"] == []
    assert (shown["Author"], shown["Variant"], shown["Comment"], shown["Size"]) == ("me", "v8", "last", 9)
    assert shown["Created"] == "2024-01-02T03:04:05.123456789Z"
    assert shown["Config"]["Cmd"] == ["sh"] and shown["Config"]["Entrypoint"] is None
    assert shown["RootFS"] == {"Type": "layers", "Layers": [digest_of(BASE), digest_of(TOP)]}
    assert shown["GraphDriver"]["Name"] == made.snapshotter.name
    assert shown["Metadata"]["LastTagTime"].startswith("20")
    assert [(row["Id"], row["CreatedBy"], row["Size"], row["Tags"], row["Comment"]) for row in made.images.history("app:1")] == [
        (identifier, "top", 3, ["app:1"], "last"), ("<missing>", "ENV A=b", 0, None, ""), ("<missing>", "base", 6, None, ""),
    ]  # fmt: skip


# -- import ------------------------------------------------------------------------------------------------------------


def test_import(made: Stores) -> None:
    said: list[dict[str, Any]] = []
    identifier = asyncio.run(
        made.images.import_(
            stream(gzip.compress(BASE)),
            "imported",
            "v1",
            ['CMD ["sh"]', "ENV A=b"],
            "hello",
            "linux/arm64/v8",
            said.append,
        )
    )
    assert said == [{"status": identifier}]
    image = made.images.get("imported:v1")
    assert (image.id, image.architecture, image.config["variant"]) == (identifier, "arm64", "v8")
    assert image.defaults == {"Cmd": ["sh"], "Env": ["A=b"]}
    assert made.images.history("imported:v1")[0]["Comment"] == "hello" == made.images.inspect(identifier)["Comment"]
    assert image.parsed.rootfs.diff_ids == [digest_of(BASE)]
    with mounted(made.snapshotter.view(image.chain_ids)) as path:
        assert "bin/sh" in tree(path)


def test_import_without_a_name(made: Stores) -> None:
    identifier = asyncio.run(made.images.import_(stream(BASE)))
    image = made.images.get(identifier)
    assert (image.repo_tags, image.architecture) == ([], ARCHITECTURE)
    assert made.images.history(identifier)[0]["Comment"] == "Imported from -"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo": "Bad"}, "must be lowercase"), ({"repo": "a", "tag": "b c"}, "invalid tag format"),
        ({"changes": ["RUN x"]}, "run is not a valid change command"), ({"platform": "windows/amd64"}, "not supported"),
        ({"platform": "a/b/c/d"}, "invalid platform"), ({"repo": "hostfs"}, "built-in"),
    ],
)  # fmt: skip
def test_import_refuses(made: Stores, arguments: dict[str, Any], message: str) -> None:
    before = made.files()
    with pytest.raises(InvalidParameter, match=message):
        asyncio.run(made.images.import_(stream(BASE), **arguments))
    with pytest.raises(InvalidParameter):
        asyncio.run(made.images.import_(stream(b"no archive")))
    assert made.trash.drain() and made.files() == before


def test_old_images_with_null_and_lone_strings(made: Stores) -> None:
    document = config(
        BASE, config={"Cmd": "sh -c x", "Env": None, "ExposedPorts": {"80/tcp": {}}, "Unknown": [1]}, history=None
    )
    load(made, docker((["app:1"], document, [BASE])))
    assert made.images.get("app:1").defaults == {"Cmd": ["sh -c x"], "ExposedPorts": {"80/tcp": {}}}
    assert made.images.history("app:1") == []


def test_names_survive_a_restart(made: Stores) -> None:
    [identifier], _ = load(made, SIMPLE)
    made.reopen()
    assert made.images.get("app:1").id == identifier
    with mounted(made.snapshotter.view(made.images.get("app:1").chain_ids)) as path:
        assert "top" in tree(path)


def test_hostfs_is_an_image_where_it_is_switched_on(made: Stores) -> None:
    with pytest.raises(NotFound):
        made.images.get("hostfs")
    with stores(hostfs=True) as other:
        image = other.images.get("hostfs")
        assert image.chain_ids == ["hostfs"] and image.defaults["Cmd"] in (["bash"], ["sh"])
        assert os.path.realpath(other.root) in image.masked_paths
        assert os.path.realpath("/etc/shadow") in image.masked_paths
        assert {mount["destination"] for mount in image.mounts} >= {"/tmp"}
        assert other.images.list() == []
        assert other.images.inspect("hostfs")["RepoTags"] == ["hostfs:latest"]
        assert len(other.images.history("hostfs")) == 1
        for action in (lambda: other.images.tag("hostfs", "x"), lambda: remove(other, "hostfs")):
            with pytest.raises(InvalidParameter, match="built-in"):
                action()
