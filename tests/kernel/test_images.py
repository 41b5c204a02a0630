"""Archives of images are loaded, those that lie are refused, and nothing is left over."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard
from support.image_archives import (
    ARCHITECTURE,
    BASE,
    SIMPLE,
    TOP,
    blob,
    config,
    descriptor,
    docker,
    files,
    layout,
    load,
    manifest,
)
from support.stores import Stores, mounted, stores, tree
from support.tars import member, pack, symlink

from boxwright.errdefs import Error, InvalidParameter, NotFound
from boxwright.storage.content import digest_of

pytestmark = pytest.mark.root


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest) -> Iterator[Stores]:
    with stores(request.param) as found:
        yield found


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
