"""Signatures that a policy asks for: cosign's form, in Debian's docker-registry, made here with a key pair."""

import base64
import hashlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import images
from support.engine import Engine, wait_for
from support.registries import Registry, registry, skopeo

pytestmark = [pytest.mark.root, pytest.mark.network]

STATEMENT = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TYPE = "cosign container image signature"
GOOD, BAD = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def plain() -> Iterator[Registry]:
    with registry() as made:
        yield made


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The public half of the key that the policies know."""
    return public(tmp_path / "good.pub", GOOD)


def public(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture
def guarded(plain: Registry, keys: Path, tmp_path: Path) -> Iterator[Engine]:
    """An engine that pulls from the repositories below `signed` what is signed, and has nothing yet."""
    settings = tmp_path / "daemon.json"
    settings.write_text(json.dumps({"required-signatures": {f"{plain.address}/signed/*": [str(keys)]}}))
    made = Engine("--config-file", str(settings))
    try:
        yield made.start()
    finally:
        made.close()


def put(to: Registry, repository: str, data: bytes) -> str:
    """Upload a blob; returns its digest."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    connection = http.client.HTTPConnection(to.address, timeout=30)
    connection.request("POST", f"/v2/{repository}/blobs/uploads/")
    answer = connection.getresponse()
    answer.read()
    location = answer.headers["Location"].removeprefix(f"http://{to.address}")
    connection.request("PUT", f"{location}&digest={digest}", data, {"Content-Type": "application/octet-stream"})
    assert connection.getresponse().status == 201
    connection.close()
    return digest


def statement(name: str, digest: str, type: str = TYPE) -> bytes:
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": type,
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def signed(data: bytes, key: ec.EllipticCurvePrivateKey = GOOD) -> tuple[bytes, str]:
    return data, base64.b64encode(key.sign(data, ec.ECDSA(SHA256()))).decode()


def attach(to: Registry, repository: str, digest: str, *signatures: tuple[bytes, str]) -> None:
    """Make the tag that holds the signatures (statement, annotation) of a digest, instead of the one before."""
    config = b"{}"
    layers = [
        {
            "mediaType": STATEMENT,
            "digest": put(to, repository, data),
            "size": len(data),
            "annotations": {ANNOTATION: text},
        }
        for data, text in signatures
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": put(to, repository, config),
            "size": len(config),
        },
        "layers": layers,
    }
    connection = http.client.HTTPConnection(to.address, timeout=30)
    path = f"/v2/{repository}/manifests/{digest.replace(':', '-')}.sig"
    connection.request("PUT", path, json.dumps(document), {"Content-Type": MANIFEST})
    assert connection.getresponse().status == 201
    connection.close()


def pushed(engine: Engine, to: Registry, repository: str) -> tuple[str, str]:
    """A new image in the repository: its name, and its digest."""
    name = to.name(f"{repository}:1")
    layer = images.layer([("f", os.urandom(1000))])
    engine.api("POST", f"/images/create?fromSrc=-&repo={name[:-2]}&tag=1", layer)
    digest = engine.ok("push", name).splitlines()[-1].split()[2]
    engine.ok("rmi", name)
    return name, digest


def test_only_what_is_signed_is_pulled(engine: Engine, guarded: Engine, plain: Registry) -> None:
    name, digest = pushed(engine, plain, "signed/app")
    repository, bare = "signed/app", name[:-2]
    policy = f"pulling {name} is forbidden by the policy '{plain.address}/signed/*' of required-signatures: {digest} "
    good = statement(bare, digest)
    other = f"sha256:{'0' * 64}"

    def refused(reason: str) -> None:
        answer = guarded.api("POST", f"/images/create?fromImage={bare}&tag=1")
        assert (answer.status, answer.message) == (403, policy + reason)
        assert guarded.api("GET", "/images/json?all=1").json == []
        assert os.listdir(guarded.data_root / "content" / "blobs" / "sha256") == []

    tag = f"{digest.replace(':', '-')}.sig"
    refused(f"is not signed: there is no {tag}")
    for signature, reason in (
        (signed(good, BAD), "has no signature by a key of the policy"),
        ((good, signed(good + b" ")[1]), "has no signature by a key of the policy"),
        ((good, "AAAA"), "has no signature by a key of the policy"),
        ((good, "not base64"), "has a signature that is not base64"),
        (signed(statement(bare, other)), f"has a signature of another digest: '{other}'"),
        (signed(statement(bare + "x", digest)), f"has a signature for another repository: '{bare}x'"),
        (signed(statement("", digest)), "has a signature for another repository: ''"),
        (signed(statement(bare, digest, "x")), "has a signature of another type: 'x'"),
        (signed(good + b" " * (64 << 10)), f"has a signature of {len(good) + (64 << 10)} bytes"),
    ):
        attach(plain, repository, digest, signature)
        refused(reason)
    attach(plain, repository, digest, signed(b"[]"))
    answer = guarded.docker("pull", name)
    assert answer.code == 1 and policy + "has a signature of something else: " in answer.err
    for arguments in (("run", "--rm", name, "true"), ("pull", f"{bare}@{digest}")):
        assert "of required-signatures" in guarded.docker(*arguments).err
    built = guarded.docker("build", "-", stdin=f"FROM {name}\n".encode(), env={"DOCKER_BUILDKIT": "0"})
    assert built.code == 1 and policy in built.err

    attach(plain, repository, digest, signed(good, BAD), signed(good))
    assert f"Digest: {digest}" in guarded.ok("pull", name)
    guarded.ok("pull", f"{bare}@{digest}")
    # What no policy is about comes as always.
    free, _ = pushed(engine, plain, "free/app")
    guarded.ok("pull", free)


def test_the_signature_of_a_tag_is_that_of_its_index(
    engine: Engine, guarded: Engine, plain: Registry, tmp_path: Path
) -> None:
    name, digest = pushed(engine, plain, "signed/index")
    repository, index_type = "signed/index", "application/vnd.oci.image.index.v1+json"
    data = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{name}").encode()
    config = json.loads(skopeo("inspect", "--tls-verify=false", "--config", f"docker://{name}"))
    platform = {"os": "linux", "architecture": config["architecture"]}
    entry: dict[str, Any] = {"mediaType": json.loads(data)["mediaType"], "digest": digest, "size": len(data)}
    index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": [{**entry, "platform": platform}]})
    connection = http.client.HTTPConnection(plain.address, timeout=30)
    connection.request("PUT", f"/v2/{repository}/manifests/all", index, {"Content-Type": index_type})
    assert connection.getresponse().status == 201
    connection.close()
    whole, all_of_it = f"sha256:{hashlib.sha256(index.encode()).hexdigest()}", f"{name[:-2]}:all"
    attach(plain, repository, digest, signed(statement(name[:-2], digest)))
    assert f"{whole} is not signed" in guarded.docker("pull", all_of_it).err
    attach(plain, repository, whole, signed(statement(name[:-2], whole)))
    assert f"Digest: {whole}" in guarded.ok("pull", all_of_it)


def test_the_policy_is_reloaded(engine: Engine, guarded: Engine, plain: Registry, tmp_path: Path) -> None:
    name, digest = pushed(engine, plain, "signed/reload")
    attach(plain, "signed/reload", digest, signed(statement(name[:-2], digest), BAD))
    settings = tmp_path / "daemon.json"

    def reload(policies: dict[str, list[str]], said: str) -> None:
        settings.write_text(json.dumps({"required-signatures": policies}))
        before = guarded.log.read_text().count(said)
        assert guarded.process
        guarded.process.send_signal(signal.SIGHUP)
        wait_for(lambda: guarded.log.read_text().count(said) > before, said)

    (tmp_path / "bad.pub").write_text("no key\n")
    reload({"*": [str(tmp_path / "bad.pub")]}, "bad.pub is no public key in PEM")
    assert "forbidden by the policy" in guarded.docker("pull", name).err  # the former one, that is
    public(tmp_path / "bad.pub", BAD)
    reload({"*": [str(tmp_path / "good.pub"), str(tmp_path / "bad.pub")]}, "reloaded configuration")
    guarded.ok("pull", name)
    guarded.ok("rmi", name)
    (tmp_path / "bad.pub").unlink()
    assert "bad.pub cannot be read: No such file or directory" in guarded.docker("pull", name).err
    reload({}, "reloaded configuration")
    guarded.ok("pull", name)
