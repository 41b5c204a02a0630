"""The image store: archives in, names, conflicts, what is removed with an image, and that nothing is left over."""

import asyncio
import gzip
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard
from support.stores import Stores, mounted, stores, stream, tree
from support.tars import directory, member, pack, symlink

from boxwright.errdefs import Conflict, Error, InvalidParameter, NotFound
from boxwright.images.image import host_architecture
from boxwright.storage.content import digest_of
from boxwright.storage.layers import chain_ids

pytestmark = pytest.mark.root

BASE = pack(directory("bin"), member("bin/sh", content=b"#!base"))
TOP = pack(member("top", content=b"top"))
ARCHITECTURE = host_architecture()


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with stores(request.param) as found:
        yield found


def config(*layers: bytes, **fields: Any) -> bytes:
    document = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "created": "2024-01-02T03:04:05.123456789Z",
        "config": {"Cmd": ["sh"], "Env": ["A=b"], "Labels": {"kind": "test"}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))],
        **fields,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def files(*items: tuple[str, bytes]) -> bytes:
    return pack(*(member(name, content=content) for name, content in items))


def docker(*images: tuple[list[str] | None, bytes, list[bytes]]) -> bytes:
    """A docker-archive: (names, configuration, layers)."""
    items, manifest = [], []
    for number, (names, document, layers) in enumerate(images):
        items.append((f"{number}.json", document))
        paths = []
        for index, layer in enumerate(layers):
            items.append((f"{number}-{index}/layer.tar", layer))
            paths.append(items[-1][0])
        manifest.append({"Config": f"{number}.json", "RepoTags": names, "Layers": paths})
    return files(*items, ("manifest.json", json.dumps(manifest).encode()))


def blob(data: bytes) -> tuple[str, bytes]:
    return "blobs/sha256/" + digest_of(data)[7:], data


def descriptor(data: bytes, kind: str = "", **fields: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data), **fields}


def layout(index: dict[str, Any], *blobs: bytes) -> bytes:
    return files(
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        ("index.json", json.dumps(index).encode()),
        *(blob(data) for data in blobs),
    )


def manifest(document: bytes, *layers: bytes) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "config": descriptor(document, "application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers],
        }
    ).encode()


def load(made: Stores, archive: bytes, quiet: bool = True) -> tuple[list[str], list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    return list(asyncio.run(made.images.load(stream(archive), quiet, said.append))), said


SIMPLE = docker((["app:1"], config(BASE, TOP), [BASE, TOP]))


def test_an_image_is_loaded_and_whole(made: Stores) -> None:
    [identifier], said = load(made, SIMPLE, quiet=False)
    assert identifier == digest_of(config(BASE, TOP))
    assert said[-1] == {"stream": "Loaded image: app:1\n"}
    layers = {message["id"] for message in said if message.get("status") == "Loading layer"}
    assert layers == {digest_of(layer)[7:19] for layer in (BASE, TOP)}
    assert all({"current", "total"} == set(m["progressDetail"]) for m in said[:-1])
    image = made.images.get("app:1")
    assert (image.id, image.repo_tags, image.architecture, image.os) == (identifier, ["app:1"], ARCHITECTURE, "linux")
    assert image.defaults["Cmd"] == ["sh"] and image.created == 1704164645
    assert image.size == len(b"#!base") + len(b"top")
    with mounted(made.snapshotter.view(image.chain_ids)) as path:
        assert set(tree(path)) == {"bin", "bin/sh", "top"}
    assert ("image", "load", identifier, {"kind": "test", "name": identifier}) in made.events


def test_every_way_to_name_an_image(made: Stores) -> None:
    [identifier], _ = load(made, docker((["app:latest"], config(BASE), [BASE])))
    for name in (
        "app",
        "app:latest",
        "library/app",
        "docker.io/library/app:latest",
        identifier,
        identifier[7:19],
        identifier[:20],
    ):
        assert made.images.get(name).id == identifier, name
    for name, message in (
        ("nosuch", "No such image: nosuch:latest"),
        ("app:2", "No such image: app:2"),
        ("sha256:" + "0" * 64, "No such image: sha256:" + "0" * 64),
        ("me/app@sha256:" + "0" * 64, "No such image: me/app@sha256:" + "0" * 64),
    ):
        with pytest.raises(NotFound) as caught:
            made.images.get(name)
        assert str(caught.value) == message
        assert made.images.find(name) is None
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        made.images.get("a b")
    assert made.images.find("a b") is None


def test_layers_that_are_there_are_not_unpacked_again(made: Stores) -> None:
    load(made, SIMPLE)
    _, said = load(made, docker((["other:1"], config(BASE, TOP, author="x"), [BASE, TOP])), quiet=False)
    assert said == [{"stream": "Loaded image: other:1\n"}]
    assert len(made.snapshotter.layers.all()) == 2  # type: ignore[attr-defined]


def test_a_name_moves(made: Stores) -> None:
    [first], _ = load(made, SIMPLE)
    [second], said = load(made, docker((["app:1"], config(BASE, author="x"), [BASE])))
    assert said == [
        {"stream": f"The image app:1 already exists, renaming the old one with ID {first} to empty string\n"},
        {"stream": "Loaded image: app:1\n"},
    ]
    assert made.images.get("app:1").id == second
    assert made.images.get(first).repo_tags == []


def test_several_images_and_none_named(made: Stores) -> None:
    archive = docker(
        (["a:1", "b:2"], config(BASE), [BASE]), (None, config(BASE, TOP), [BASE, TOP]), (["c:3"], config(TOP), [TOP])
    )
    identifiers, said = load(made, archive)
    assert [message["stream"] for message in said] == [
        "Loaded image: a:1\n", "Loaded image: b:2\n", f"Loaded image ID: {identifiers[1]}\n", "Loaded image: c:3\n",
    ]  # fmt: skip
    assert made.images.get("b:2").id == made.images.get("a:1").id == identifiers[0]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_archives_and_layers(made: Stores, compress: Any) -> None:
    archive = docker((["app:1"], config(BASE, TOP), [compress(BASE), compress(TOP)]))
    load(made, compress(archive))
    with mounted(made.snapshotter.view(made.images.get("app:1").chain_ids)) as path:
        assert "top" in tree(path)


def test_docker_save_links_layers_that_occur_twice(made: Stores) -> None:
    document = config(BASE, TOP, BASE)
    names = json.dumps(
        [{"Config": "c", "RepoTags": ["app:1"], "Layers": ["x/layer.tar", "y/layer.tar", "z/layer.tar"]}]
    )
    archive = pack(
        member("c", content=document), member("x/layer.tar", content=BASE), member("y/layer.tar", content=TOP),
        symlink("z/layer.tar", "../x/layer.tar"), member("manifest.json", content=names.encode()),
    )  # fmt: skip
    load(made, archive)
    assert len(made.images.get("app:1").chain_ids) == 3


def test_an_oci_layout(made: Stores) -> None:
    document, packed = config(BASE, TOP), gzip.compress(TOP)
    one = manifest(document, BASE, packed)
    named = {"io.containerd.image.name": "docker.io/library/app:1", "org.opencontainers.image.ref.name": "1"}
    index = {"schemaVersion": 2, "manifests": [descriptor(one, annotations=named)]}
    [identifier], said = load(made, layout(index, document, one, BASE, packed))
    assert identifier == digest_of(document) and said == [{"stream": "Loaded image: app:1\n"}]
    with mounted(made.snapshotter.view(made.images.get("app:1").chain_ids)) as path:
        assert "top" in tree(path)


def test_an_oci_layout_for_several_platforms(made: Stores) -> None:
    """The one for this host is taken, through an index in the index; attestations are passed over."""
    mine, other = config(BASE), config(TOP, architecture="other")
    first, second = manifest(other, TOP), manifest(mine, BASE)
    attestation = manifest(b"{}")
    inner = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                descriptor(attestation, platform={"os": "unknown", "architecture": "unknown"}),
                descriptor(first, platform={"os": "linux", "architecture": "other"}),
                descriptor(second, platform={"os": "linux", "architecture": ARCHITECTURE}),
            ],
        }
    ).encode()
    index = {
        "manifests": [
            descriptor(
                inner,
                "application/vnd.oci.image.index.v1+json",
                annotations={"org.opencontainers.image.ref.name": "example.com/app:v2"},
            )
        ]
    }
    [identifier], said = load(made, layout(index, mine, other, first, second, inner, attestation, BASE, TOP))
    assert identifier == digest_of(mine) and said == [{"stream": "Loaded image: example.com/app:v2\n"}]


def test_what_docker_25_saves_is_both(made: Stores) -> None:
    document = config(BASE)
    one = manifest(document, BASE)
    index = {"schemaVersion": 2, "manifests": [descriptor(one)]}
    names = [{"Config": blob(document)[0], "RepoTags": ["app:25"], "Layers": [blob(BASE)[0]]}]
    archive = files(
        ("oci-layout", b"{}"), ("index.json", json.dumps(index).encode()), blob(document), blob(one), blob(BASE),
        ("manifest.json", json.dumps(names).encode()),
    )  # fmt: skip
    load(made, archive)
    assert made.images.get("app:25").id == digest_of(document)


DEEP = b"[" * 200_000
LIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "does not contain a manifest.json"),
    "an empty archive": (bytes(10240), "does not contain a manifest.json"),
    "text": (b"hello", "unexpected EOF"),
    "gzip of text": (gzip.compress(b"hello"), "unexpected EOF"),
    "gzip cut short": (gzip.compress(SIMPLE)[:500], "gzip"),
    "manifest is no list": (files(("manifest.json", b"{}")), "no list of images"),
    "manifest is no JSON": (files(("manifest.json", b"{")), "invalid manifest.json"),
    "manifest is deep": (files(("manifest.json", DEEP)), "invalid manifest.json"),
    "manifest is huge": (files(("manifest.json", b" " * (5 << 20))), "too large"),
    "config is huge": (files(("c", b" " * (5 << 20)), ("manifest.json", b'[{"Config":"c"}]')), "too large"),
    "config is missing": (files(("manifest.json", b'[{"Config":"x"}]')), "x: no such file"),
    "config leads out": (files(("manifest.json", b'[{"Config":"../../../etc/passwd"}]')), "no such file"),
    "config is a link out": (
        pack(symlink("c", "/etc/passwd"), member("manifest.json", content=b'[{"Config":"c"}]')), "no such file"),
    "links in a circle": (
        pack(symlink("c", "d"), symlink("d", "c"), member("manifest.json", content=b'[{"Config":"c"}]')), "no such file"),
    "config is no JSON": (docker((["a:1"], b"x", [])), "invalid JSON"),
    "config is deep": (docker((["a:1"], DEEP, [])), "invalid JSON"),
    "config is a list": (docker((["a:1"], b"[]", [])), "an object is expected"),
    "Env of numbers": (docker((["a:1"], config(BASE, config={"Env": [1]}), [BASE])), "invalid ImageConfig"),
    "Labels of lists": (docker((["a:1"], config(BASE, config={"Labels": {"a": []}}), [BASE])), "invalid ImageConfig"),
    "a thousand and one labels": (
        docker((["a:1"], config(BASE, config={"Labels": {str(n): "" for n in range(1001)}}), [BASE])), "more than 1000 labels"),
    "hundreds of volumes": (
        docker((["a:1"], config(BASE, config={"Volumes": {f"/{n}": {} for n in range(257)}}), [BASE])), "more than 256 volumes"),
    "diff ids of numbers": (docker((["a:1"], config(rootfs={"diff_ids": [1]}), [BASE])), "invalid ImageConfig"),
    "diff id of another kind": (docker((["a:1"], config(rootfs={"diff_ids": ["md5:1"]}), [BASE])), "malformed"),
    "diff id that is a path": (docker((["a:1"], config(rootfs={"diff_ids": ["sha256:../../x"]}), [BASE])), "malformed"),
    "too many layers": (
        docker((["a:1"], config(rootfs={"diff_ids": ["sha256:" + "a" * 64] * 501}), [])), "max depth exceeded"),
    "more layers than diff ids": (docker((["a:1"], config(BASE), [BASE, TOP])), "layers length mismatch: expected 2, got 1"),
    "fewer layers than diff ids": (docker((["a:1"], config(BASE, TOP), [BASE])), "layers length mismatch: expected 1, got 2"),
    "another layer": (docker((["a:1"], config(BASE), [TOP])), "invalid diffID for layer 0: expected"),
    "second layer is another": (docker((["a:1"], config(BASE, TOP), [BASE, BASE])), "invalid diffID for layer 1: expected"),
    "layer is noise": (docker((["a:1"], config(b"x" * 600), [b"x" * 600])), "archive/tar"),
    "name in capitals": (docker((["A/Foo:1"], config(BASE), [BASE])), "must be lowercase"),
    "name without a tag": (docker((["app"], config(BASE), [BASE])), 'invalid tag "app"'),
    "another system": (docker((["a:1"], config(BASE, os="windows"), [BASE])), "cannot load windows image on linux"),
    "index without images": (layout({"manifests": []}), "names no image"),
    "index with a path for a digest": (layout({"manifests": [{"digest": "sha256:../../x"}]}), "malformed"),
    "index whose blob is missing": (layout({"manifests": [descriptor(b"x")]}), "no such file"),
    "index whose blob is another": (
        files(("index.json", json.dumps({"manifests": [descriptor(b"x")]}).encode()), ("blobs/sha256/" + digest_of(b"x")[7:], b"y")),
        "have another digest"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_and_leave_nothing(made: Stores, lie: str) -> None:
    archive, message = LIES[lie]
    before = made.files()
    with pytest.raises(Error) as caught:
        load(made, archive)
    assert message in str(caught.value)
    assert made.images.list(all=True) == []
    assert made.trash.drain() and made.files() == before
    assert made.db.query("SELECT * FROM layers") == made.db.query("SELECT * FROM blobs") == []


def test_an_index_that_leads_to_itself(made: Stores) -> None:
    """Cannot be by digests, but deep it can be."""
    inner = manifest(config(BASE), BASE)
    blobs = [inner]
    for _ in range(10):
        inner = json.dumps({"manifests": [descriptor(inner)]}).encode()
        blobs.append(inner)
    with pytest.raises(InvalidParameter, match="indexes within indexes"):
        load(made, layout({"manifests": [descriptor(inner)]}, *blobs))


def test_indexes_that_multiply(made: Stores) -> None:
    """A thousand times a thousand times a thousand looks at one small blob."""
    inner = json.dumps({"manifests": [], "mediaType": "application/vnd.oci.image.index.v1+json"}).encode()
    blobs = []
    for _ in range(3):
        blobs.append(inner)
        entry = descriptor(inner, "application/vnd.oci.image.index.v1+json")
        inner = json.dumps({"manifests": [entry] * 1000}).encode()
    blobs.append(inner)
    entry = descriptor(inner, "application/vnd.oci.image.index.v1+json")
    with pytest.raises(InvalidParameter, match="exceed"):
        load(made, layout({"manifests": [entry] * 1000}, *blobs))


def test_too_many_members_and_names(made: Stores) -> None:
    for archive in (
        files(*((f"f{n}", b"") for n in range(50_001))),
        files(*((f"{n}" + "x" * 3000, b"") for n in range(1500))),
    ):
        with pytest.raises(InvalidParameter, match="an archive of more than 50000 members"):
            load(made, archive)


def test_a_failed_image_does_not_take_the_others_layers(made: Stores) -> None:
    load(made, docker((["good:1"], config(BASE), [BASE])))
    with pytest.raises(InvalidParameter):
        load(made, docker((["bad:1"], config(BASE, TOP), [BASE, BASE])))
    assert len(made.db.query("SELECT * FROM layers")) == 1
    with mounted(made.snapshotter.view(made.images.get("good:1").chain_ids)) as path:
        assert "bin/sh" in tree(path)


def test_a_client_that_goes_away_leaves_nothing(made: Stores) -> None:
    before = made.files()

    async def broken() -> Any:
        yield SIMPLE[:1000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        asyncio.run(made.images.load(broken(), True, lambda message: None))
    assert made.files() == before


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
