"""Debian's docker-registry, the docker CLI and skopeo: what one of them has pushed the others can use, digests agree."""

import gzip
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import images
from support.certificates import Authority
from support.engine import Engine
from support.registries import PASSWORD, USER, Registry, registry, skopeo

pytestmark = [pytest.mark.root, pytest.mark.network]

PLAIN = ("--tls-verify=false",)


@pytest.fixture(scope="module")
def plain() -> Iterator[Registry]:
    with registry() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Engine]:
    """An engine that has nothing yet."""
    made = Engine()
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(scope="module", params=["overlay2", "vfs"])
def empty(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One for each storage driver."""
    made = Engine("--storage-driver", request.param)
    try:
        yield made.start()
    finally:
        made.close()


def inspected(name: str) -> dict[str, Any]:
    """What skopeo says of an image in a registry."""
    found: dict[str, Any] = json.loads(skopeo("inspect", *PLAIN, f"docker://{name}"))
    return found


def raw(name: str, *options: str) -> bytes:
    return skopeo("inspect", *PLAIN, "--raw", *options, f"docker://{name}").encode()


def shown(engine: Engine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.ok("image", "inspect", name))[0]
    return found


def test_pushed_copied_by_skopeo_and_pulled(engine: Engine, plain: Registry, other: Engine) -> None:
    name, copy = plain.name("one/layers:1"), plain.name("two/copy:1")
    engine.ok("tag", "layers", name)
    said = engine.ok("push", name).splitlines()
    assert said[0] == f"The push refers to repository [{name[:-2]}]"
    digest = said[-1].split()[2]
    assert said[-1] == f"1: digest: {digest} size: {len(raw(name))}"
    assert digest == f"sha256:{hashlib.sha256(raw(name)).hexdigest()}" == inspected(name)["Digest"]
    assert f"{name[:-2]}@{digest}" in shown(engine, name)["RepoDigests"]
    skopeo("copy", *("--src-tls-verify=false", "--dest-tls-verify=false"), f"docker://{name}", f"docker://{copy}")
    assert inspected(copy)["Digest"] == digest
    said = other.ok("pull", copy).splitlines()
    assert said[0] == "1: Pulling from two/copy"
    assert said[-3:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {copy}", copy]
    for stage in ("Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"):
        assert sum(line.endswith(stage) for line in said) == 13, stage
    assert shown(other, copy)["Id"] == shown(engine, "layers")["Id"]  # the same configuration
    assert other.ok("pull", copy).splitlines()[1:] == [
        f"Digest: {digest}",
        f"Status: Image is up to date for {copy}",
        copy,
    ]
    assert (
        other.ok("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}") == f"{copy[:-2]} 1 {digest}"
    )
    # A run of what is not here pulls it, by digest as well; layers that are here are not fetched again.
    ran = other.docker("run", "--rm", f"{name[:-2]}@{digest}", "cat", "/layer7")
    assert (ran.code, ran.out) == (0, "7\n") and f"Unable to find image '{name[:-2]}@{digest}' locally" in ran.err
    assert "Pull complete" not in ran.err
    other.ok("rmi", f"{name[:-2]}@{digest}")
    assert other.ok("images", "-q", name[:-2]) == ""


def test_both_drivers(engine: Engine, empty: Engine, plain: Registry) -> None:
    name = plain.name("drivers:1")
    engine.ok("tag", "layers", name)
    engine.ok("push", name)
    empty.ok("pull", name)
    assert empty.ok("run", "--rm", name, "cat", "/layer0", "/layer11", "/data/seed").split("\n")[:2] == ["0", "11"]
    assert empty.ok("rmi", name).count("Deleted: ") == 14


def test_what_is_known_is_not_sent_again(engine: Engine, other: Engine, plain: Registry) -> None:
    first, second, third = (plain.name(f"known/{number}:1") for number in "123")
    for name in (first, second):
        engine.ok("tag", "layers", name)
    assert engine.ok("push", first).count(": Pushed") + engine.ok("push", first).count("exists") >= 13
    assert engine.ok("push", first).count(": Layer already exists") == 13
    assert engine.ok("push", second).count(": Mounted from ") == 13
    assert raw(first) == raw(second)
    # What was pulled goes back to the registry as the blobs that it came as: same manifest, nothing is packed.
    other.ok("pull", first)
    other.ok("tag", first, third)
    assert other.ok("push", third).count(": Mounted from known/1") == 13
    assert raw(third) == raw(first)


def test_events(engine: Engine, plain: Registry) -> None:
    name = plain.name("events:1")
    engine.ok("tag", "configured:1.0", name)
    since = engine.api("GET", "/info").json["SystemTime"]
    engine.ok("push", name)
    engine.ok("pull", name)
    until = engine.api("GET", "/info").json["SystemTime"]
    out = engine.ok("events", "--since", since, "--until", until, "--filter", "type=image", "--format", "{{json .}}")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(event["Action"], event["Actor"]["ID"]) for event in found] == [("push", name), ("pull", name)]
    assert found[0]["Actor"]["Attributes"] == {"kind": "test", "name": name[:-2]}


def test_all_tags(engine: Engine, other: Engine, plain: Registry) -> None:
    name = plain.name("many/tags")
    for tag, image in (("a", "busybox"), ("b", "layers"), ("c", "busybox")):
        engine.ok("tag", image, f"{name}:{tag}")
    assert engine.ok("push", "--all-tags", name).count(": digest: sha256:") == 3
    said = other.ok("pull", "--all-tags", name)
    assert said.count(": Pulling from many/tags") == 3
    assert said.splitlines()[-2] == f"Status: Downloaded newer image for {name}"
    assert sorted(other.ok("images", "--format", "{{.Tag}}", name).split()) == ["a", "b", "c"]


@pytest.mark.parametrize("form", ["gzip", "zstd", "plain"])
def test_what_skopeo_pushes(engine: Engine, other: Engine, plain: Registry, tmp_path: Path, form: str) -> None:
    """An OCI image with layers of each compression; pushed on, it keeps them."""
    layout, name, again = f"oci:{tmp_path}/layout", plain.name(f"oci/{form}:1"), plain.name(f"again/{form}:1")
    archive = tmp_path / "saved.tar"
    engine.ok("save", "-o", str(archive), "layers")
    skopeo("copy", f"docker-archive:{archive}", layout, *(["--dest-compress-format", form] if form != "plain" else []))
    if form == "plain":
        uncompressed(tmp_path / "layout")
    skopeo("copy", "--dest-tls-verify=false", "--preserve-digests", layout, f"docker://{name}")
    endings = {layer["mediaType"].rpartition(".")[2] for layer in json.loads(raw(name))["layers"]}
    assert endings == {"tar" if form == "plain" else f"tar+{form}"}
    other.ok("pull", name)
    # (skopeo has written a configuration of its own.)
    assert shown(other, name)["Id"] == json.loads(raw(name))["config"]["digest"]
    assert shown(other, name)["RootFS"] == shown(engine, "layers")["RootFS"]
    assert other.ok("run", "--rm", name, "cat", "/layer11") == "11"
    other.ok("tag", name, again)
    other.ok("push", again)
    assert raw(name) == raw(again)  # the manifest that it came with, and so its digest
    digest = f"sha256:{hashlib.sha256(raw(again)).hexdigest()}"
    assert f"{again[:-2]}@{digest}" in shown(other, again)["RepoDigests"]
    # In a registry that nobody here has heard of: by the same blobs if it has them, and as dockerd otherwise.
    with registry() as far:
        known, unknown = far.name("known:1"), far.name("unknown:1")
        options = ("--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
        skopeo("copy", *options, f"docker://{name}", f"docker://{known}")
        for target in (known, unknown):
            other.ok("tag", name, target)
        assert other.ok("push", known).splitlines()[-1].split()[2] == digest
        sent = other.ok("push", unknown).splitlines()[-1].split()[2]
        manifest = json.loads(raw(unknown))
        assert sent == f"sha256:{hashlib.sha256(raw(unknown)).hexdigest()}"
        assert manifest["config"]["digest"] == shown(other, name)["Id"]
        # And back home, although the image is known by another manifest now.
        assert other.ok("push", name).splitlines()[-1].split()[2] == digest


def test_push_of_a_platform(engine: Engine, plain: Registry) -> None:
    name = plain.name("platform:1")
    engine.ok("tag", "busybox", name)
    own = json.dumps({"os": "linux", "architecture": shown(engine, name)["Architecture"]})
    other = json.dumps({"os": "linux", "architecture": "riscv64"})
    headers = {"X-Registry-Auth": "e30="}
    refused = engine.api("POST", f"/images/{name[:-2]}/push?tag=1&platform={quote(other)}", headers=headers)
    assert b"does not match the specified platform: wanted linux/riscv64" in refused.raw.splitlines()[-1]
    pushed = engine.api("POST", f"/images/{name[:-2]}/push?tag=1&platform={quote(own)}", headers=headers)
    assert pushed.status == 200 and b'"aux"' in pushed.raw
    assert inspected(name)["Digest"] in pushed.raw.decode()


def uncompressed(layout: Path) -> None:
    """Rewrite an OCI layout so that its layers are not compressed."""
    blobs = layout / "blobs" / "sha256"

    def put(data: bytes) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    for layer in manifest["layers"]:
        data = gzip.decompress((blobs / layer["digest"][7:]).read_bytes())
        layer.update(put(data), mediaType="application/vnd.oci.image.layer.v1.tar")
    index["manifests"][0].update(put(json.dumps(manifest).encode()))
    (layout / "index.json").write_text(json.dumps(index))


def test_a_password(engine: Engine, other: Engine) -> None:
    with registry(password=True) as guarded:
        name = guarded.name("secret:1")
        engine.ok("tag", "busybox", name)
        refused = engine.docker("push", name)
        assert refused.code == 1 and "no basic auth credentials" in refused.err
        wrong = engine.docker("login", "-u", USER, "--password-stdin", guarded.address, stdin=b"wrong")
        assert wrong.code == 1
        assert f"login attempt to http://{guarded.address}/v2/ failed with status: 401 Unauthorized" in wrong.err
        said = engine.ok("login", "-u", USER, "--password-stdin", guarded.address, stdin=PASSWORD.encode())
        assert said.endswith("Login Succeeded")
        engine.ok("push", name)
        absent = other.docker("pull", name)
        assert absent.code == 1 and "no basic auth credentials" in absent.err
        other.ok("login", "-u", USER, "--password-stdin", guarded.address, stdin=PASSWORD.encode())
        other.ok("pull", name)
        credentials = f"--creds={USER}:{PASSWORD}"
        assert json.loads(skopeo("inspect", *PLAIN, credentials, f"docker://{name}"))["Digest"] in other.ok(
            "images", "--digests"
        )
        other.ok("logout", guarded.address)
        other.ok("rmi", name)
        assert other.docker("pull", name).code == 1


def test_tls(engine: Engine, tmp_path: Path) -> None:
    """On an address that is not loopback, where certificates count: the gateway of the engine's own bridge."""
    address = engine.api("GET", "/networks/bridge").json["IPAM"]["Config"][0]["Gateway"]
    authority = Authority(tmp_path / "authority")
    server, client = authority.issue("server", "serverAuth", address), authority.issue("client", "clientAuth")
    with registry(certificate=server, clients=authority.certificate, host=address) as guarded:
        name = guarded.name("tls:1")
        certificates = tmp_path / "certs.d" / guarded.address
        user = Engine("--registry-certs", str(tmp_path / "certs.d"))
        lax = Engine("--insecure-registry", f"{address}/32", "--registry-certs", str(tmp_path / "none"))
        try:
            user.start().load()
            unknown = user.docker("pull", name)
            text = f'Get "https://{guarded.address}/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority'
            assert text in unknown.err
            certificates.mkdir(parents=True)
            (certificates / "ca.crt").write_bytes(authority.certificate.read_bytes())
            nobody = user.docker("pull", name)
            assert (
                f'Get "https://{guarded.address}/v2/": ' in nobody.err
                and "tls" in nobody.err
                and "x509" not in nobody.err
            )
            (certificates / "me.cert").write_bytes((client / "cert.pem").read_bytes())
            assert "missing key me.key for client certificate me.cert" in user.docker("pull", name).err
            (certificates / "me.key").write_bytes((client / "key.pem").read_bytes())
            assert "manifest unknown" in user.docker("pull", name).err
            user.ok("tag", "busybox", name)
            user.ok("push", name)
            user.ok("rmi", name)
            user.ok("pull", name)
            lax.start()
            assert "x509" not in lax.docker("pull", name).err  # it is the client's certificate that is missing
        finally:
            user.close()
            lax.close()
    with registry(host=address) as bare:
        plain_http = engine.docker("pull", bare.name("tls:1"))
        assert "http: server gave HTTP response to HTTPS client" in plain_http.err


def test_texts(engine: Engine, plain: Registry) -> None:
    name = plain.name("absent:1")
    for arguments, text in (
        (("pull", name), f"manifest for {name} not found: manifest unknown: manifest unknown"),
        (("pull", f"{name[:-2]}@sha256:{'0' * 64}"), "not found: manifest unknown"),
        (("pull", "127.0.0.1:1/x:1"), 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'),
        (("pull", "no-such-host.invalid/x:1"), 'Get "https://no-such-host.invalid/v2/": dial tcp: lookup no-such-host.invalid: no such host'),
        (("pull", "--platform", "linux/%", name), '"linux/%" is an invalid platform'),
        (("push", name), f"An image does not exist locally with the tag: {name[:-2]}"),
        (("manifest", "inspect", "--insecure", name), "no such manifest"),
    ):  # fmt: skip
        ran = engine.docker(*arguments)
        assert ran.code == 1 and text in ran.err, (arguments, ran.err)


def test_manifest_inspect(engine: Engine, plain: Registry) -> None:
    name = plain.name("shown:1")
    engine.ok("tag", "busybox", name)
    engine.ok("push", name)
    assert json.loads(engine.ok("manifest", "inspect", "--insecure", name)) == json.loads(raw(name))
    found = engine.api("GET", f"/distribution/{name}/json").json
    assert found["Descriptor"]["digest"] == inspected(name)["Digest"]
    assert [one["os"] for one in found["Platforms"]] == ["linux"]


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_bytes_survive_every_way(engine: Engine, other: Engine, plain: Registry, seed: int) -> None:
    """Pushed → pulled elsewhere → saved → loaded → pushed: the configuration, the layers and the blobs are the same."""
    dice = random.Random(seed)
    names = [f"f{number}" for number in range(dice.randrange(1, 20))]
    layers = [
        images.layer([(name, dice.randbytes(dice.randrange(0, 200_000))) for name in dice.sample(names, len(names))])
        for _ in range(dice.randrange(1, 4))
    ]
    first, second = plain.name(f"way/{seed}:1"), plain.name(f"way/{seed}:2")
    archive = images.archive(engine.home / "way.tar", [(first, layers, {"Cmd": ["x"]})])
    engine.load(archive)
    engine.ok("push", first)
    other.ok("pull", first)
    saved = other.api("GET", f"/images/get?names={first}").raw
    image = shown(other, first)
    other.ok("rmi", first)
    engine.ok("rmi", first)
    engine.ok("load", stdin=saved)
    assert shown(engine, first)["Id"] == image["Id"]
    assert shown(engine, first)["RootFS"] == image["RootFS"]
    assert image["RootFS"]["Layers"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    engine.ok("tag", first, second)
    engine.ok("push", second)
    assert raw(first) == raw(second)
    assert hashlib.sha256(raw(second, "--config")).hexdigest() == image["Id"][7:]
    engine.ok("rmi", first, second)
    assert not [name for name in os.listdir(engine.data_root / "tmp") if not name.startswith("trash-")]
