"""What is about an image comes with a pull and goes with a push: indexes, attestations, referrers of OCI 1.1."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from support import images
from support.engine import Engine, wait_for
from support.hostile_registry import ARCHITECTURE, DOCKER, OCI_INDEX, HostileRegistry, digest
from support.registries import registry as debians

pytestmark = [pytest.mark.root, pytest.mark.network]

OCI = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
Image = Callable[..., dict[str, Any]]
REFERENCE = "vnd.docker.reference.digest"


@pytest.fixture
def first() -> Iterator[HostileRegistry]:
    with HostileRegistry() as made:
        yield made


@pytest.fixture
def second() -> Iterator[HostileRegistry]:
    with HostileRegistry() as made:
        yield made


@pytest.fixture
def own() -> Iterator[Engine]:
    """An engine that has no image."""
    made = Engine()
    try:
        yield made.start()
    finally:
        made.close()


def blobs(engine: Engine) -> set[str]:
    """The digests of all documents that the engine keeps."""
    return {f"sha256:{name}" for name in os.listdir(engine.data_root / "content" / "blobs" / "sha256")}


@pytest.fixture
def image(engine: Engine, first: HostileRegistry) -> Image:
    """Puts an image into the registry `first`; returns its descriptor in an index.

    An engine pushes it: so what another one packs for a second registry are the same blobs, and the manifest stays.
    """

    def made(tag: str = "") -> dict[str, Any]:
        name = f"{first.address}/app:made"
        engine.api(
            "POST", f"/images/create?fromSrc=-&repo={name[:-5]}&tag=made", images.layer([("f", os.urandom(100))])
        )
        engine.ok("push", name)
        engine.ok("rmi", name)
        media_type, document = first.manifests.pop(("app", "made"))
        first.manifest("app", tag or digest(document), document, media_type)
        return {"mediaType": media_type, "digest": digest(document), "size": len(document),
                "platform": {"os": "linux", "architecture": ARCHITECTURE}}  # fmt: skip

    return made


def referrer(registry: HostileRegistry, subject: str = "", name: str = "app", content: bytes = b"") -> dict[str, Any]:
    """Put something into the registry that is about `subject`; returns its descriptor."""
    content = content or os.urandom(50)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "artifactType": "application/x.signature",
        "config": {"mediaType": EMPTY, "digest": registry.blob(b"{}"), "size": 2},
        "layers": [{"mediaType": "application/x.content", "digest": registry.blob(content), "size": len(content)}],
        "annotations": {"about": "a test"},
    }
    if subject:
        document["subject"] = {"mediaType": DOCKER, "digest": subject, "size": 1}
    data = json.dumps(document).encode()
    registry.manifest(name, digest(data), data, OCI)
    return {"mediaType": OCI, "digest": digest(data), "size": len(data), "artifactType": "application/x.signature"}


def attestation(registry: HostileRegistry, subject: str) -> dict[str, Any]:
    """As buildx makes them: a part of the image's index, for no platform."""
    found = referrer(registry)
    return {**found, "platform": {"os": "unknown", "architecture": "unknown"}, "annotations": {REFERENCE: subject}}


def index(registry: HostileRegistry, tag: str, *entries: dict[str, Any], name: str = "app") -> str:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return registry.manifest(name, tag, document, OCI_INDEX)


def listing(
    referrers: dict[str, list[dict[str, Any]]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """A registry's referrers API."""

    async def answer(request: web.Request) -> web.StreamResponse | None:
        _, found, subject = request.path.rpartition("/referrers/")
        if not found:
            return None
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": referrers.get(subject, [])}
        return web.json_response(document, content_type=OCI_INDEX)

    return answer


def push(engine: Engine, source: str, target: str) -> str:
    """Push an image on; returns the digest that the engine tells."""
    engine.ok("tag", source, target)
    return engine.ok("push", target).splitlines()[-1].split("digest: ")[1].split()[0]


def test_an_index_of_one_platform_is_pushed_on(
    own: Engine, image: Image, first: HostileRegistry, second: HostileRegistry
) -> None:
    """What buildx makes: the image, and an attestation of how it was built."""
    made = image()
    about = attestation(first, made["digest"])
    top = index(first, "1", made, about)
    source, target = f"{first.address}/app:1", f"{second.address}/other/app:2"
    own.ok("pull", source)
    assert push(own, source, target) == top
    assert second.manifests["other/app", "2"] == (OCI_INDEX, first.manifests["app", "1"][1])
    assert second.manifests["other/app", about["digest"]] == first.manifests["app", about["digest"]]
    assert set(first.blobs) == set(second.blobs)
    names = own.api("GET", f"/images/{target}/json").json["RepoDigests"]
    assert f"{second.address}/other/app@{top}" in names and f"{first.address}/app@{top}" in names
    # Once more, and nothing is sent but what the tag stands for.
    second.seen.clear()
    assert push(own, source, target) == top
    assert not second.count("POST", "uploads")


def test_an_index_of_many_platforms(own: Engine, image: Image, first: HostileRegistry, second: HostileRegistry) -> None:
    """It is put together again where all of its images are; elsewhere there is the one that was pulled."""
    made, strange = image(), image()
    strange["platform"] = {"os": "linux", "architecture": "s390x"}
    top = index(first, "1", made, strange)
    own.ok("pull", f"{first.address}/app:1")
    assert push(own, f"{first.address}/app:1", f"{first.address}/app:2") == top
    assert first.manifests["app", "2"] == first.manifests["app", "1"]
    assert push(own, f"{first.address}/app:1", f"{second.address}/app:1") == made["digest"]
    assert ("app", top) not in second.manifests


@pytest.mark.parametrize("api", [True, False])
def test_referrers_of_image_and_index(
    own: Engine, image: Image, first: HostileRegistry, second: HostileRegistry, api: bool
) -> None:
    made = image()
    top = index(first, "1", made)
    signature, sbom = referrer(first, top), referrer(first, made["digest"])
    if api:
        first.hook = listing({top: [signature], made["digest"]: [sbom]})
    else:
        for subject, entry in ((top, signature), (made["digest"], sbom)):
            index(first, subject.replace(":", "-"), entry)
    source = f"{first.address}/app:1"
    own.ok("pull", source)
    own.kill()
    own.restart()
    assert {top, made["digest"], signature["digest"], sbom["digest"]} <= blobs(own)
    for _ in range(2):
        assert push(own, source, f"{second.address}/app:1") == top
    for subject, entry in ((top, signature), (made["digest"], sbom)):
        assert second.manifests["app", entry["digest"]] == first.manifests["app", entry["digest"]]
        listed = json.loads(second.manifests["app", subject.replace(":", "-")][1])["manifests"]
        assert [each["digest"] for each in listed] == [entry["digest"]]
        assert listed[0]["artifactType"] == entry["artifactType"] and listed[0]["annotations"] == {"about": "a test"}
    assert set(first.blobs) == set(second.blobs)


def test_a_registry_that_keeps_the_list_itself(
    own: Engine, image: Image, first: HostileRegistry, second: HostileRegistry
) -> None:
    made = image("1")["digest"]
    signature = referrer(first, made)
    first.hook = listing({made: [signature]})

    async def keeps(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT" and request.path.endswith(signature["digest"]):
            second.manifest("app", signature["digest"], await request.read(), OCI)
            return web.Response(status=201, headers={"OCI-Subject": made})
        return None

    second.hook = keeps
    own.ok("pull", f"{first.address}/app:1")
    assert push(own, f"{first.address}/app:1", f"{second.address}/app:1") == made
    assert ("app", signature["digest"]) in second.manifests
    assert ("app", made.replace(":", "-")) not in second.manifests


def test_a_signature_that_comes_later(
    own: Engine, image: Image, first: HostileRegistry, second: HostileRegistry
) -> None:
    made = image("1")["digest"]
    own.ok("pull", f"{first.address}/app:1")
    signature = referrer(first, made)
    first.hook = listing({made: [signature]})
    assert "Image is up to date" in own.ok("pull", f"{first.address}/app:1")
    first.seen.clear()
    own.ok("pull", f"{first.address}/app:1")
    assert not first.count("GET", signature["digest"]), "what is kept is not fetched again"
    push(own, f"{first.address}/app:1", f"{second.address}/app:1")
    assert ("app", signature["digest"]) in second.manifests


def test_of_docker_hub_only_the_index_is_kept(image: Image, first: HostileRegistry) -> None:
    """It counts every manifest that is fetched."""
    made = image()
    about = attestation(first, made["digest"])
    top = index(first, "1", made, about)
    for (_, name), document in list(first.manifests.items()):
        first.manifests["library/app", name] = document
    own = Engine("--registry-mirror", f"http://{first.address}")
    try:
        own.start()
        first.seen.clear()
        own.ok("pull", "app:1")
        assert {top, made["digest"]} <= blobs(own) and about["digest"] not in blobs(own)
        assert not first.count("GET", "/referrers/") and first.count("GET", "/manifests/") == 2
    finally:
        own.close()


def test_they_go_with_the_image(own: Engine, image: Image, first: HostileRegistry) -> None:
    made = image()
    index(first, "1", made, attestation(first, made["digest"]))
    own.ok("pull", f"{first.address}/app:1")
    assert len(blobs(own)) == 6  # configuration, manifest, index; attestation, its configuration and its content
    own.ok("rmi", f"{first.address}/app:1")
    wait_for(lambda: not blobs(own), "nothing is kept of what is gone")


def wrong(registry: HostileRegistry, subject: str) -> dict[str, tuple[dict[str, Any], str]]:
    """Referrers that are none, by what is wrong with them: the entry of the list, and a digest that must not be kept."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    entry = referrer(registry, f"sha256:{'1' * 64}")
    found["of something else"] = entry, entry["digest"]
    entry = referrer(registry, subject)
    registry.manifests["app", entry["digest"]] = OCI, registry.manifests["app", entry["digest"]][1] + b" "
    found["other bytes"] = entry, entry["digest"]
    content = os.urandom(5 << 20)
    entry = referrer(registry, subject, content=content)
    found["too large"] = entry, entry["digest"]
    content = os.urandom(40)
    entry = referrer(registry, subject, content=content)
    registry.blobs[digest(content)] = b"other"
    found["other content"] = entry, entry["digest"]
    content = os.urandom(40)
    entry = referrer(registry, subject, content=content)
    del registry.blobs[digest(content)]
    found["without content"] = entry, entry["digest"]
    data = b"no manifest"
    registry.manifest("app", digest(data), data, "text/plain")
    found["no manifest"] = {"mediaType": OCI, "digest": digest(data), "size": 1}, digest(data)
    found["not there"] = {"mediaType": OCI, "digest": f"sha256:{'2' * 64}", "size": 1}, f"sha256:{'2' * 64}"
    return found


def test_what_is_wrong_with_them_is_nothing_to_the_image(own: Engine, image: Image, first: HostileRegistry) -> None:
    made = image("1")["digest"]
    cases = wrong(first, made)
    good = referrer(first, made)
    first.hook = listing({made: [*(entry for entry, _ in cases.values()), good]})
    own.ok("pull", f"{first.address}/app:1")
    kept = blobs(own)
    assert good["digest"] in kept
    for what, (_, forbidden) in cases.items():
        assert forbidden not in kept, what


@pytest.mark.parametrize(
    "body", [b"", b"[", b"{}", b'{"manifests": 3}', b'{"manifests": [{"digest": "x"}]}', b"x" * (5 << 20)]
)
def test_a_list_that_is_none(own: Engine, image: Image, first: HostileRegistry, body: bytes) -> None:
    async def answer(request: web.Request) -> web.StreamResponse | None:
        return (
            web.Response(body=body) if "/referrers/" in request.path or "/manifests/sha256-" in request.path else None
        )

    image("1")
    first.hook = answer
    own.ok("pull", f"{first.address}/app:1")


def test_a_list_that_never_comes(own: Engine, image: Image, first: HostileRegistry) -> None:
    async def answer(request: web.Request) -> web.StreamResponse | None:
        if "/referrers/" in request.path:
            await asyncio.Event().wait()
        return None

    image("1")
    first.hook = answer
    own.ok("pull", f"{first.address}/app:1")


def test_more_than_are_kept(own: Engine, image: Image, first: HostileRegistry) -> None:
    made = image("1")["digest"]
    many = [referrer(first, made) for _ in range(60)]
    first.hook = listing({made: many})
    own.ok("pull", f"{first.address}/app:1")
    assert len({entry["digest"] for entry in many} & blobs(own)) == 50


def test_what_a_registry_does_not_take_is_told(
    own: Engine, image: Image, first: HostileRegistry, second: HostileRegistry
) -> None:
    made = image("1")["digest"]
    signature = referrer(first, made)
    first.hook = listing({made: [signature]})

    async def refuses(request: web.Request) -> web.StreamResponse | None:
        refused = request.method == "PUT" and request.path.endswith(signature["digest"])
        return (
            web.json_response({"errors": [{"code": "UNSUPPORTED", "message": "no artifacts"}]}, status=400)
            if refused
            else None
        )

    second.hook = refuses
    own.ok("pull", f"{first.address}/app:1")
    own.ok("tag", f"{first.address}/app:1", f"{second.address}/app:1")
    said = own.ok("push", f"{second.address}/app:1")
    assert f"{signature['digest']}: a referrer of {made} is left out: unsupported: no artifacts" in said
    assert f"digest: {made}" in said


def test_debians_registry(own: Engine, image: Image, first: HostileRegistry) -> None:
    made = image()
    signature = referrer(first, made["digest"])
    first.hook = listing({made["digest"]: [signature]})
    top = index(first, "1", made, attestation(first, made["digest"]))
    own.ok("pull", f"{first.address}/app:1")
    with debians() as registry, HostileRegistry() as third:
        assert push(own, f"{first.address}/app:1", registry.name("app:1")) == top
        again = Engine()
        try:
            again.start().ok("pull", registry.name("app:1"))
            assert push(again, registry.name("app:1"), f"{third.address}/app:1") == top
        finally:
            again.close()
        assert third.manifests["app", signature["digest"]] == first.manifests["app", signature["digest"]]
