"""Registries that are slow, broken, busy or hostile: what breaks off goes on, what is wrong leaves nothing."""

import asyncio
import json
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from support import images
from support.engine import Engine, wait_for
from support.hostile_registry import (
    ARCHITECTURE,
    DOCKER,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    OCI_INDEX,
    HostileRegistry,
    broken,
    described,
    digest,
    failure,
    ranged,
)
from support.pulls import LARGE, SMALL, gone, pull, pulled, refused, residue

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture
def registry() -> Iterator[HostileRegistry]:
    with HostileRegistry() as made:
        yield made


# -- what breaks off -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resumes", [True, False])
def test_a_blob_that_breaks_off(engine: Engine, registry: HostileRegistry, resumes: bool) -> None:
    registry.image("flaky", "1", [LARGE])
    times = 0

    async def hook(request: web.Request) -> web.StreamResponse | None:
        nonlocal times
        data = registry.blobs.get(request.path.rpartition("/")[2], b"")
        if len(data) < 1_000_000:
            return None
        times += 1
        if times < 4:
            start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")) if resumes else 0
            if not start:
                return await broken(request, data, 700_000 * times)
            rest = data[start:]
            response = web.StreamResponse(
                status=206,
                headers={
                    "Content-Length": str(len(rest)),
                    "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}",
                },
            )
            await response.prepare(request)
            await response.write(rest[:300_000])
            assert request.transport is not None
            request.transport.close()
            return response
        return ranged(request, data) if resumes else web.Response(body=data)

    registry.hook = hook
    with gone(engine, f"{registry.address}/flaky:1"):
        said = pulled(engine, registry, "flaky:1")
        assert any(message["status"].startswith("Retrying in ") for message in said)
        assert times == 4
        asked = [headers["Range"] for _, _, headers in registry.seen if "Range" in headers]
        assert len(asked) == 3 and asked == sorted(asked, key=lambda text: int(text[6:-1]))


def test_a_blob_that_never_comes(registry: HostileRegistry) -> None:
    engine = Engine("--max-download-attempts", "2")
    try:
        engine.start()
        registry.image("never", "1", [LARGE, SMALL])

        async def hook(request: web.Request) -> web.StreamResponse | None:
            data = registry.blobs.get(request.path.rpartition("/")[2], b"")
            return await broken(request, data, 0) if len(data) > 1_000_000 else None

        registry.hook = hook
        assert refused(engine, registry, "never:1").endswith(": unexpected EOF")
        assert sum(1 for _, path, _ in registry.seen if "/blobs/" in path) <= 4
    finally:
        engine.close()


def test_a_busy_registry_is_waited_for(engine: Engine, registry: HostileRegistry) -> None:
    registry.image("busy", "1", [SMALL])
    busy: dict[str, int] = {}

    async def hook(request: web.Request) -> web.StreamResponse | None:
        busy[request.path] = busy.get(request.path, 0) + 1
        if request.path == "/v2/" or busy[request.path] > 2:
            return None
        status = 429 if busy[request.path] == 1 else 503
        return failure(status, "TOOMANYREQUESTS", "slowly", Retry_After="0")

    registry.hook = hook
    with gone(engine, f"{registry.address}/busy:1"):
        pulled(engine, registry, "busy:1")
    assert set(busy.values()) == {1, 3}


def test_one_that_stays_busy_is_given_up(engine: Engine, registry: HostileRegistry) -> None:
    async def hook(request: web.Request) -> web.StreamResponse | None:
        return None if request.path == "/v2/" else failure(429, "TOOMANYREQUESTS", "limit", Retry_After="0")

    registry.hook = hook
    assert refused(engine, registry, "busy:1") == "toomanyrequests: limit"
    assert registry.count("GET", "manifests") == 5


# -- what several want ---------------------------------------------------------------------------------------------


def test_two_pulls_share_a_download(engine: Engine, registry: HostileRegistry) -> None:
    registry.image("one", "1", [LARGE])
    registry.image("two", "1", [LARGE, SMALL])
    go = asyncio.Event()
    blob = described(registry, [LARGE])["layers"][0]["digest"]

    async def hook(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith(blob):
            await go.wait()
        return None

    registry.hook = hook
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda name=name: results.append(pull(engine, registry, name)))
        for name in ("one:1", "two:1", "one:1")
    ]
    with gone(engine, f"{registry.address}/one:1", f"{registry.address}/two:1"):
        for thread in threads:
            thread.start()
        wait_for(lambda: registry.count("GET", "/blobs/") == 5, "two configurations, one twice, and two layers")
        registry.loop.call_soon_threadsafe(go.set)
        for thread in threads:
            thread.join(60)
        assert [said[-1]["status"].startswith("Status: ") for _, said in results] == [True] * 3
        assert registry.count("GET", blob) == 1


def test_a_client_that_leaves_ends_the_download(engine: Engine, registry: HostileRegistry) -> None:
    registry.image("slow", "1", [LARGE])
    before = residue(engine)
    ended = threading.Event()

    async def hook(request: web.Request) -> web.StreamResponse | None:
        data = registry.blobs.get(request.path.rpartition("/")[2], b"")
        if len(data) < 1_000_000:
            return None
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        try:
            while True:
                await response.write(data[:1000])
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    registry.hook = hook
    client = engine.spawn("pull", f"{registry.address}/slow:1")
    wait_for(lambda: registry.count("GET", "/blobs/") == 2, "the layer is asked for")
    wait_for(lambda: any(n.startswith("layer-") for n in os.listdir(engine.data_root / "tmp")), "it is unpacked")
    client.terminate()
    client.communicate(timeout=30)
    assert ended.wait(30)
    wait_for(lambda: residue(engine) == before, f"nothing is left: {residue(engine)}")


def test_an_engine_that_ends_ends_its_pulls(registry: HostileRegistry) -> None:
    registry.image("slow", "1", [LARGE])

    async def hook(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" in request.path and len(registry.blobs[request.path.rpartition("/")[2]]) > 1_000_000:
            await asyncio.Event().wait()
        return None

    registry.hook = hook
    engine = Engine()
    try:
        engine.start()
        with engine.spawn("pull", f"{registry.address}/slow:1") as client:
            wait_for(lambda: registry.count("GET", "/blobs/") == 2, "the layer is asked for")
            engine.close()  # which fails when the engine does not end, or not well
            client.communicate(timeout=30)
    finally:
        engine.close()


def test_no_more_than_three_at_once(engine: Engine, registry: HostileRegistry) -> None:
    layers = [images.layer([(f"file{number}", os.urandom(1000))]) for number in range(9)]
    registry.image("many", "1", layers)
    present = most = 0

    async def hook(request: web.Request) -> web.StreamResponse | None:
        nonlocal present, most
        if "/blobs/" not in request.path:
            return None
        present += 1
        most = max(most, present)
        await asyncio.sleep(0.05)
        present -= 1
        return None

    registry.hook = hook
    with gone(engine, f"{registry.address}/many:1"):
        said = pulled(engine, registry, "many:1")
        assert most == 3
        assert sum(message["status"] == "Waiting" for message in said) == 6


# -- what is wrong ---------------------------------------------------------------------------------------------------


def change_blob(registry: HostileRegistry, document: dict[str, Any], change: Any) -> None:
    name = document["layers"][0]["digest"]
    registry.blobs[name] = change(registry.blobs[name])


def bad_images(registry: HostileRegistry) -> dict[str, str]:
    """Tags of the repository `bad`, and a part of the text of each refusal."""

    def add(tag: str, document: Any, media_type: str = DOCKER) -> None:
        registry.manifest("bad", tag, document, media_type)

    flipped = described(registry, [images.layer([("a", b"flipped" * 1000)])])
    change_blob(registry, flipped, lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:])
    add("flipped", flipped)
    longer = described(registry, [images.layer([("a", b"longer" * 1000)])])
    change_blob(registry, longer, lambda data: data + b"x")
    add("longer", longer)
    add(
        "other-diff-id",
        described(
            registry, [images.layer([("a", b"other")])], rootfs={"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]}
        ),
    )
    add("fewer-layers", described(registry, [SMALL], rootfs={"type": "layers", "diff_ids": []}))
    outside = described(registry, [images.layer([("../../outside", b"x")])])
    add("outside", outside)
    noise = registry.blob(b"\x1f\x8b\x08" + b"noise" * 100)
    broken_gzip = described(registry, [images.layer([("a", b"gzip")])])
    broken_gzip["layers"][0] |= {"digest": noise, "size": 503}
    add("no-gzip", broken_gzip)
    swapped = described(registry, [images.layer([("a", b"config")])])
    registry.blobs[swapped["config"]["digest"]] += b" "
    add("other-config", swapped)
    huge = described(registry, [SMALL])
    huge["config"]["size"] = 1 << 40
    add("huge-config", huge)
    add("huge", b'{"schemaVersion":2,"x":"' + b"x" * (4 << 20) + b'"}')
    add("deep", b"[" * 100_000)
    add("no-json", b"hello")
    add("schema-1", {"schemaVersion": 1, "fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+prettyjws")
    both = described(registry, [SMALL])
    both["manifests"] = [{"digest": f"sha256:{'1' * 64}", "mediaType": DOCKER, "size": 1}]
    add("both", {**both, "mediaType": ""}, OCI_INDEX)
    add("two-types", described(registry, [SMALL]), OCI_INDEX)
    helm = described(registry, [SMALL])
    helm["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    add("helm", helm)
    strange = described(registry, [SMALL])
    strange["layers"][0]["mediaType"] = "application/x-strange"
    add("strange", strange)
    negative = described(registry, [SMALL])
    negative["layers"][0]["size"] = -1
    add("negative", negative)
    add("windows", described(registry, [SMALL], os="windows"))
    add(
        "malformed-digest", {**described(registry, [SMALL]), "config": {"digest": "sha256:../../etc/passwd", "size": 2}}
    )
    platform = {"os": "linux", "architecture": ARCHITECTURE}
    nested = registry.manifest("bad", "n0", described(registry, [SMALL]))
    for _ in range(6):
        entry = {"digest": nested, "size": 1, "mediaType": OCI_INDEX, "platform": platform}
        nested = registry.manifest("bad", "nested", {"schemaVersion": 2, "manifests": [entry]}, OCI_INDEX)
    other = {"digest": nested, "size": 1, "mediaType": DOCKER, "platform": {"os": "linux", "architecture": "s390x"}}
    add("no-platform", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other]}, OCI_INDEX)
    missing = described(registry, [images.layer([("a", b"missing")])])
    del registry.blobs[missing["layers"][0]["digest"]]
    add("missing-layer", missing)
    return {
        "flipped": "filesystem layer verification failed for digest sha256:",
        "longer": "it is longer than the",
        "other-diff-id": "layers from manifest don't match image configuration",
        "fewer-layers": "layers from manifest don't match image configuration",
        "outside": "outside",
        "no-gzip": "archive: ",
        "other-config": "image config verification failed for digest",
        "huge-config": "a configuration of 1099511627776 bytes",
        "huge": "the manifest is larger than 4194304 bytes",
        "deep": "invalid JSON",
        "no-json": "invalid JSON",
        "schema-1": "schema 1 are not supported",
        "both": "neither a manifest nor an index, or both",
        "two-types": "invalid manifest: it is",
        "helm": 'Encountered remote "application/vnd.cncf.helm.config.v1+json"(unknown) when fetching',
        "strange": "unsupported layer media type 'application/x-strange'",
        "negative": "a layer of -1 bytes",
        "windows": 'image operating system "windows" cannot be used on this platform',
        "malformed-digest": "malformed",
        "nested": "more than 3 of them, one inside the other",
        "no-platform": f"no matching manifest for linux/{ARCHITECTURE} in the manifest list entries: there are linux/s390x",
        "missing-layer": "blob unknown",
        "nothing": "manifest unknown: manifest unknown",
    }


def test_what_is_wrong_is_refused_and_leaves_nothing(engine: Engine, registry: HostileRegistry) -> None:
    for tag, text in bad_images(registry).items():
        assert text in refused(engine, registry, f"bad:{tag}"), tag


def test_what_a_registry_says_is_not_for_terminals(engine: Engine, registry: HostileRegistry) -> None:
    async def hook(request: web.Request) -> web.StreamResponse | None:
        return None if request.path == "/v2/" else failure(403, "DENIED", "\x1b[2Jno\n" + "x" * 5000)

    registry.hook = hook
    text = refused(engine, registry, "a:1")
    assert "\x1b" not in text and len(text) < 1500
    assert text.startswith(f"pull access denied for {registry.address}/a, repository does not exist or may require")


# -- which one of many -----------------------------------------------------------------------------------------------


def test_platforms(engine: Engine, registry: HostileRegistry) -> None:
    entries = []
    for architecture, variant in (("arm", "v5"), ("arm", "v6"), ("arm64", "v8"), ("amd64", ""), ("s390x", "")):
        layer = images.layer([("which", f"{architecture}{variant}".encode())])
        document = described(registry, [layer], architecture=architecture, variant=variant)
        platform = {"os": "linux", "architecture": architecture, "variant": variant}
        name = registry.manifest("multi", "x", document)
        entries.append({"digest": name, "size": 1, "mediaType": DOCKER, "platform": platform})
    unknown = {"os": "unknown", "architecture": "unknown"}
    entries.insert(0, {"digest": f"sha256:{'2' * 64}", "size": 1, "mediaType": DOCKER, "platform": unknown})
    top = registry.manifest("multi", "1", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, OCI_INDEX)
    name = f"{registry.address}/multi:1"
    expected = {
        "linux/arm/v7": ("arm", "v6"), "linux/arm64": ("arm64", "v8"), "arm64/v8": None, "s390x": ("s390x", ""),
        "linux/amd64/v3": ("amd64", ""), "": (ARCHITECTURE, ""),
    }  # fmt: skip
    with gone(engine, name):
        for platform, found in expected.items():
            if found is None:
                assert engine.docker("pull", "--platform", platform, name).code != 0
                continue
            engine.ok("pull", *(["--platform", platform] if platform else []), name)
            shown = json.loads(engine.ok("image", "inspect", name))[0]
            assert (shown["Architecture"], shown.get("Variant", "")) == found, platform
            # What was asked for is an index: its digest is the image's name.
            assert f"{registry.address}/multi@{top}" in shown["RepoDigests"]
    missing = engine.docker("pull", "--platform", "linux/riscv64", name)
    assert "no matching manifest for linux/riscv64 in the manifest list entries" in missing.err
    described_ = json.loads(engine.api("GET", f"/distribution/{name}/json").raw)
    assert described_["Descriptor"] == {
        "mediaType": OCI_INDEX,
        "digest": top,
        "size": len(registry.manifests["multi", "1"][1]),
    }
    assert {"architecture": "arm", "os": "linux", "variant": "v6"} in described_["Platforms"]
    assert len(described_["Platforms"]) == 5
    single = registry.image("single", "1", [SMALL], architecture="s390x")
    wrong = engine.docker("pull", "--platform", "linux/arm64", f"{registry.address}/single@{single}")
    assert "does not match the specified platform: wanted linux/arm64, actual: linux/s390x" in wrong.err


def test_mirrors(registry: HostileRegistry) -> None:
    with HostileRegistry() as mirror:
        layer = images.layer([("from", b"mirror")])
        mirror.image("there", "1", [layer])
        registry.image("there", "1", [SMALL])
        registry.image("here", "1", [SMALL])
        engine = Engine("--registry-mirror", f"{registry.address}=http://{mirror.address}")
        try:
            engine.start()
            pulled(engine, registry, "there:1", username="me", password="good")
            pulled(engine, registry, "here:1", username="me", password="good")
            assert registry.count("GET", "/v2/there/") == 0
            assert registry.count("GET", "/v2/here/blobs/") == 2
            assert mirror.seen and not any("Authorization" in headers for _, _, headers in mirror.seen)
            mirrors = engine.api("GET", "/info").json["RegistryConfig"]["IndexConfigs"][registry.address]["Mirrors"]
            assert mirrors == [f"http://{mirror.address}/"]
        finally:
            engine.close()


def test_search(engine: Engine, registry: HostileRegistry) -> None:
    found = [
        {"name": "busy/box", "description": "a box", "star_count": 7, "is_official": False},
        {"name": "box", "description": None, "star_count": 900, "is_official": True},
    ]

    async def hook(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/v1/search":
            return web.json_response({"results": found, "query": request.query["q"]})
        return None

    registry.hook = hook
    shown = engine.ok("search", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}", f"{registry.address}/box")
    assert shown.splitlines() == ["busy/box 7 ", "box 900 [OK]"]
    shown = engine.ok("search", "--format", "{{.Name}}", "--filter", "stars=8", f"{registry.address}/box")
    assert shown == "box"
    assert engine.docker("search", "--limit", "101", f"{registry.address}/box").code != 0


# -- pushes ----------------------------------------------------------------------------------------------------------


def test_an_upload_that_breaks_off_goes_on(engine: Engine, registry: HostileRegistry) -> None:
    content = random.Random(9).randbytes(40 << 20)
    name = f"{registry.address}/large:1"
    engine.api("POST", f"/images/create?fromSrc=-&repo={registry.address}/large&tag=1", images.layer([("f", content)]))
    broken_once = False

    async def hook(request: web.Request) -> web.StreamResponse | None:
        nonlocal broken_once
        if request.method != "PATCH" or broken_once:
            return None
        broken_once = True
        upload = registry.uploads[request.path.rpartition("/")[2]]
        while len(upload) < 5 << 20:
            upload += await request.content.read(1 << 20)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    registry.hook = hook
    with gone(engine, name):
        out = engine.ok("push", name)
        assert broken_once and "Pushed" in out
        assert (registry.count("POST", "/uploads/"), registry.count("PATCH", "/uploads/")) == (2, 2)
        ranges = [headers["Content-Range"] for method, _, headers in registry.seen if method == "PATCH"]
        taken = int(ranges[1].partition("-")[0])
        assert ranges[0] == f"0-{(32 << 20) - 1}" and 5 << 20 <= taken < 32 << 20
        registry.hook = None
        engine.ok("rmi", name)
        engine.ok("pull", name)


def test_an_upload_that_the_registry_loses_begins_anew(engine: Engine, registry: HostileRegistry) -> None:
    lost = False
    name = f"{registry.address}/lost:1"
    engine.ok("tag", "busybox", name)

    async def hook(request: web.Request) -> web.StreamResponse | None:
        nonlocal lost
        if request.method == "PUT" and "/uploads/" in request.path and not lost:
            lost = True
            registry.uploads.clear()
        return None

    registry.hook = hook
    with gone(engine, name):
        engine.ok("push", name)
        assert lost and digest(registry.manifests["lost", "1"][1]) in engine.ok("images", "--digests", name[:-2])
        document = json.loads(registry.manifests["lost", "1"][1])
        assert document["config"]["mediaType"] == DOCKER_CONFIG and document["layers"][0]["mediaType"] == DOCKER_LAYER


@pytest.mark.parametrize("moment", ["GET /v2/", "PUT /v2/going/blobs/uploads/", "PUT /v2/going/manifests/"])
def test_an_image_that_is_removed_while_it_is_pushed(engine: Engine, registry: HostileRegistry, moment: str) -> None:
    """The removal succeeds, the push as well, and what it has read goes after it."""
    before = residue(engine)
    name = f"{registry.address}/going:1"
    layer = images.layer([("f", random.Random(moment).randbytes(300_000))])
    engine.api("POST", f"/images/create?fromSrc=-&repo={registry.address}/going&tag=1", layer)
    removed: list[str] = []

    async def hook(request: web.Request) -> web.StreamResponse | None:
        if not removed and f"{request.method} {request.path}".startswith(moment):
            removed.append(await asyncio.to_thread(engine.ok, "rmi", name))
        return None

    registry.hook = hook
    assert "digest: sha256:" in engine.ok("push", name)
    registry.hook = None
    assert removed and f"Untagged: {name}" in removed[0] and "Deleted: sha256:" in removed[0]
    wait_for(lambda: residue(engine) == before, f"nothing is left: {residue(engine)} instead of {before}")
    with gone(engine, name):
        engine.ok("pull", name)


def test_refused_pushes(engine: Engine, registry: HostileRegistry) -> None:
    name = f"{registry.address}/denied:1"
    absent = engine.docker("push", name)
    assert absent.code == 1 and f"An image does not exist locally with the tag: {name[:-2]}" in absent.err
    engine.ok("tag", "busybox", name)

    async def hook(request: web.Request) -> web.StreamResponse | None:
        return (
            failure(403, "DENIED", "requested access to the resource is denied") if request.method == "POST" else None
        )

    registry.hook = hook
    with gone(engine, name):
        denied = engine.docker("push", name)
        assert denied.code == 1 and denied.err.strip() == "denied: requested access to the resource is denied"
        assert not os.listdir(engine.data_root / "tmp")
