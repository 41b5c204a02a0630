"""Which policy applies to a repository, and what signed statements are about."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from boxwright.errdefs import InvalidParameter
from boxwright.images.distribution import signatures

POLICIES = {
    "busybox": ["1"],
    "docker.io/*": ["2"],
    "docker.io/library/*": ["3"],
    "registry.example:5000/team/*": ["4"],
    "registry.example/app": ["5"],
    "registry.example/*": ["6"],
}
DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("docker.io/library/busybox", "1"),
        ("docker.io/library/busybox2", "3"),
        ("docker.io/me/app", "2"),
        ("registry.example:5000/team/a/b", "4"),
        ("registry.example:5000/teams/a", None),
        ("registry.example:5000/team", None),
        ("registry.example/app", "5"),
        ("registry.example/app/x", "6"),
        ("REGISTRY.example/app", "5"),  # the same host
        ("registry.example.org/app", None),
    ],
)
def test_the_best_policy(name: str, key: str | None) -> None:
    found = signatures.policy(POLICIES, name)
    assert (found.keys[0] if found else None) == key
    everything = signatures.policy({**POLICIES, "*": ["7"]}, name)
    assert everything and everything.keys == [key or "7"]


def test_keys_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    for key in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(InvalidParameter, match=r"key\.pub: not an ECDSA key on the curve P-256"):
            signatures.check({"*": [str(path)]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_no_statement(data: bytes) -> None:
    assert signatures.statement_problem(data, "docker.io/library/a", DIGEST)


@given(st.sampled_from(["type", "identity", "image"]), json_values)
def test_a_part_that_is_another_one(part: str, value: Any) -> None:
    critical: dict[str, Any] = {
        "type": signatures.TYPE,
        "identity": {"docker-reference": "index.docker.io/library/a"},
        "image": {"docker-manifest-digest": DIGEST},
    }
    good = json.dumps({"critical": critical, "optional": {"creator": "x"}}).encode()
    assert signatures.statement_problem(good, "docker.io/library/a", DIGEST) == ""
    bad = json.dumps({"critical": {**critical, part: value}}).encode()
    assert signatures.statement_problem(bad, "docker.io/library/a", DIGEST)
