"""Signatures that a policy asks for: an image is pulled only if a known key has signed the digest of its name.

The form is cosign's with a key pair.  In the image's repository, the tag `sha256-<digest>.sig` is a manifest whose
layers are signed statements ("simple signing"), each with its signature beside it as an annotation:

    {"critical": {"type": "cosign container image signature",
                  "identity": {"docker-reference": "registry.example/app"},
                  "image": {"docker-manifest-digest": "sha256:…"}}, …}

The signature is checked before a byte of the statement is read, and no layer is fetched before both are good.
"""

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct, field

from boxwright.errdefs import Error, Forbidden, InvalidParameter, System
from boxwright.images import reference
from boxwright.images.reference import DEFAULT_DOMAIN, Reference
from boxwright.specs.image import Descriptor
from boxwright.storage.content import digest_of

from . import manifests
from .client import Registry
from .errors import Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

Policies = dict[str, list[str]]

ANNOTATION = "dev.cosignproject.cosign/signature"
STATEMENT = "application/vnd.dev.cosign.simplesigning.v1+json"
TYPE = "cosign container image signature"
EVERYTHING = "*"
LARGEST_KEY = 64 << 10  # bytes, as the next one
LARGEST_STATEMENT = 64 << 10
MOST_SIGNATURES = 100  # of one digest that are looked at
_CURVE = "secp256r1"


class Policy(NamedTuple):
    """What applies to a repository: the pattern that it matches best, and paths of the public keys."""

    pattern: str
    keys: list[str]


class _Identity(Struct):
    docker_reference: str = field(default="", name="docker-reference")


class _Image(Struct):
    digest: str = field(default="", name="docker-manifest-digest")


class _Critical(Struct):
    type: str = ""
    identity: _Identity = field(default_factory=_Identity)
    image: _Image = field(default_factory=_Image)


class _Statement(Struct):
    critical: _Critical = field(default_factory=_Critical)


def check(policies: Policies) -> None:
    """See that patterns and keys can be used.  Raises InvalidParameter, which names the pattern or the key's path."""
    for pattern, keys in policies.items():
        _check_pattern(pattern)
        if not keys:
            raise InvalidParameter(f"required-signatures: {pattern}: at least one public key is needed")
        for path in keys:
            load_key(path)


def _check_pattern(pattern: str) -> None:
    wrong = f"required-signatures: {pattern!r} is not a repository, REGISTRY/PATH/* or *"
    if pattern == EVERYTHING:
        return
    below = pattern.endswith("/*")
    text = f"{pattern[:-1]}x/x" if below else pattern
    try:
        found = reference.parse(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"{wrong}: {error}") from None
    if found.tag or found.digest:
        raise InvalidParameter(f"{wrong}: it has a tag or a digest")
    if found.name != text and below:
        raise InvalidParameter(f"{wrong}: begin it with the registry, as in {DEFAULT_DOMAIN}/library/*")


def policy(policies: Policies, name: str) -> Policy | None:
    """The policy for a repository (normalised name): its own, or else the one of the longest prefix."""
    name = name.lower()  # hosts are the same in capitals
    found = [pattern for pattern in policies if _matches(pattern, name)]
    if not found:
        return None
    best = max(found, key=lambda pattern: (not pattern.endswith(EVERYTHING), len(pattern)))
    return Policy(best, policies[best])


def _matches(pattern: str, name: str) -> bool:
    if pattern.endswith(EVERYTHING):
        return name.startswith(pattern[:-1].lower())
    return reference.parse(pattern).name.lower() == name


def load_key(path: str) -> "EllipticCurvePublicKey":
    """The ECDSA P-256 public key in a PEM file.  Raises InvalidParameter, which names the path."""
    # Imported late: most engines have no policy.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        with open(path, "rb") as file:
            key = load_pem_public_key(file.read(LARGEST_KEY))
    except OSError as error:
        raise InvalidParameter(f"required-signatures: the key {path} cannot be read: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidParameter(f"required-signatures: {path} is no public key in PEM: {error}") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != _CURVE:
        raise InvalidParameter(f"required-signatures: {path}: not an ECDSA key on the curve P-256")
    return key


async def require(policies: Policies, registry: Registry, name: Reference, digest: str) -> None:
    """See that `digest`, which `name` stands for in the registry, is signed as the policies want it.

    Raises Forbidden, which names the policy; System for a key that cannot be read; Refused, Unreachable.
    """
    found = policy(policies, name.name)
    if found is None:
        return
    try:
        keys = await asyncio.to_thread(lambda: [load_key(path) for path in found.keys])
    except InvalidParameter as error:
        raise System(str(error)) from None
    reason = await _reason(registry, name, digest, keys)
    if reason:
        raise Forbidden(
            f"pulling {name} is forbidden by the policy {found.pattern!r} of required-signatures: {digest} {reason}"
        )


async def _reason(registry: Registry, name: Reference, digest: str, keys: "list[EllipticCurvePublicKey]") -> str:
    """Why the digest does not count as signed; "" when it does."""
    tag = f"{digest.replace(':', '-')}.sig"
    try:
        document = await manifests.fetch(registry, name.path, tag)
    except Refused as error:
        if error.status != 404:
            raise
        return f"is not signed: there is no {tag}"
    except InvalidParameter as error:
        return f"is not signed: {tag}: {error}"
    reason = f"is not signed: {tag} holds no signature"
    for layer in document.manifest.layers[:MOST_SIGNATURES]:
        if layer.media_type != STATEMENT or ANNOTATION not in layer.annotations:
            continue
        reason = await _checked(registry, name, digest, layer, keys)
        if not reason:
            return ""
    return reason


async def _checked(
    registry: Registry, name: Reference, digest: str, layer: Descriptor, keys: "list[EllipticCurvePublicKey]"
) -> str:
    """Why this signature does not do; "" when it does."""
    if not 0 < layer.size <= LARGEST_STATEMENT:
        return f"has a signature of {layer.size} bytes"
    url = registry.url(f"{name.path}/blobs/{layer.digest}")
    try:
        answer = await registry.call("GET", url, manifests.pull_scope(name.path), what="the signature")
        signature = base64.b64decode(layer.annotations[ANNOTATION], validate=True)
    except Refused as error:
        return f"has a signature that cannot be fetched: {error}"
    except (binascii.Error, ValueError):
        return "has a signature that is not base64"
    except Error as error:
        return f"has a signature that cannot be read: {error}"
    if digest_of(answer.body) != layer.digest:
        return "has a signature whose digest is another one"
    if not any(verified(key, signature, answer.body) for key in keys):
        return "has no signature by a key of the policy"
    return statement_problem(answer.body, name.name, digest)


def verified(key: "EllipticCurvePublicKey", signature: bytes, data: bytes) -> bool:
    """Whether `signature` (ECDSA over SHA-256, in DER) of `data` is the key's."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(signature, data, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def statement_problem(data: bytes, repository: str, digest: str) -> str:
    """Why a signed statement is not about `digest` in `repository` (normalised name); "" when it is."""
    try:
        critical = msgspec.json.decode(data, type=_Statement).critical
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return f"has a signature of something else: {error}"
    if critical.type != TYPE:
        return f"has a signature of another type: {critical.type[:100]!r}"
    if critical.image.digest != digest:
        return f"has a signature of another digest: {critical.image.digest[:100]!r}"
    try:
        signed = reference.parse(critical.identity.docker_reference).name
    except InvalidParameter:
        signed = ""
    if signed != repository:
        return f"has a signature for another repository: {critical.identity.docker_reference[:200]!r}"
    return ""
