"""The parts of a pull and a push that need no registry: headers, platforms, hosts, shared work, messages."""

import asyncio
import base64
import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from boxwright.config import Settings
from boxwright.errdefs import InvalidParameter, NotFound, System
from boxwright.images import reference
from boxwright.images.distribution import auth, errors, hosts, http, messages, platforms, push, search
from boxwright.images.distribution.distribution import target
from boxwright.images.distribution.shared import Shared, Slots, all_of
from boxwright.specs.image import Descriptor, Platform

# -- who one is ----------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(["username", "password", "identitytoken", "email"]), st.text()))
def test_credentials_are_read_in_every_alphabet(document: dict[str, str]) -> None:
    data = json.dumps(document).encode()
    found = [auth.decode(encode(data).decode()) for encode in (base64.urlsafe_b64encode, base64.b64encode)]
    found.append(auth.decode(base64.urlsafe_b64encode(data).decode().rstrip("=")))
    for one in found:
        assert one.username == document.get("username", "")
        assert one.identity_token == document.get("identitytoken", "")


@given(st.text(max_size=200))
def test_any_header_is_credentials_or_refused(header: str) -> None:
    try:
        assert isinstance(auth.decode(header), auth.Credentials)
    except InvalidParameter as error:
        assert str(error).startswith("invalid X-Registry-Auth header")


def test_credentials_of_a_pair_in_base64() -> None:
    found = auth.credentials({"Auth": base64.b64encode(b"me:a:b").decode(), "password": None})
    assert (found.username, found.password) == ("me", "a:b")
    assert auth.credentials(None) == auth.NOBODY
    with pytest.raises(InvalidParameter):
        auth.credentials({"auth": "***"})


_NAME = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
_VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@given(st.lists(st.tuples(_NAME, st.dictionaries(_NAME, _VALUE, min_size=1, max_size=4)), max_size=4))
def test_challenges_are_read_back(wanted: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    texts = [f"{scheme.title()} " + ", ".join(f"{k}={quoted(v)}" for k, v in given.items()) for scheme, given in wanted]
    expected = [auth.Challenge(scheme, parameters) for scheme, parameters in wanted]
    assert auth.challenges(texts) == expected
    assert auth.challenges([", ".join(texts)]) == expected


@given(st.lists(st.text(max_size=300), max_size=3))
def test_any_challenge_is_read_in_no_time(headers: list[str]) -> None:
    assert isinstance(auth.challenges(headers), list)


def test_a_challenge_that_would_take_long() -> None:
    for header in ("a" * 60_000, " ," * 30_000, 'Bearer realm="' + "\\" * 60_000, "a=" * 30_000):
        assert len(auth.challenges([header])) <= 1  # what is quadratic would take minutes, past the suite's deadline


# -- platforms -----------------------------------------------------------------------------------------------------


def test_platforms_are_read() -> None:
    for text, expected in {
        "linux/amd64": ("linux", "amd64", ""),
        "linux/arm64/v8": ("linux", "arm64", ""),
        "aarch64": ("linux", "arm64", ""),
        "linux/arm": ("linux", "arm", "v7"),
        "linux/arm/6": ("linux", "arm", "v6"),
        "armhf": ("linux", "arm", "v7"),
        "armel": ("linux", "arm", "v6"),
        "riscv64": ("linux", "riscv64", ""),
        "Linux/X86_64": ("linux", "amd64", ""),
        "windows/amd64": ("windows", "amd64", ""),
    }.items():
        found = platforms.parse(text)
        assert (found.os, found.architecture, found.variant) == expected, text
    assert platforms.parse("") == platforms.host()
    for text in ("linux/", "/", "a/b/c/d", "linux/am d64", "linux/\n", "TERM", "x"):
        with pytest.raises(InvalidParameter):
            platforms.parse(text)


def test_the_best_platform_is_chosen() -> None:
    offered = [
        Descriptor(digest=f"{architecture}/{variant}", platform=Platform(architecture, "linux", variant))
        for architecture, variant in (
            ("arm", "v5"), ("arm", "v7"), ("arm", "v6"), ("amd64", "v2"), ("amd64", ""), ("arm64", "v8"), ("arm64", "v9"),
        )
    ]  # fmt: skip
    offered.insert(0, Descriptor(digest="none"))
    for text, expected in {
        "linux/arm/v7": "arm/v7", "linux/arm/v6": "arm/v6", "linux/arm/v8": "arm/v7", "linux/amd64": "amd64/",
        "linux/amd64/v3": "amd64/v2", "linux/amd64/v2": "amd64/v2", "linux/arm64": "arm64/v8", "linux/386": None,
        "windows/amd64": None, "linux/arm64/v9": "arm64/v9",
    }.items():  # fmt: skip
        chosen = platforms.choose(offered, platforms.parse(text))
        assert (chosen.digest if chosen else None) == expected, text


# -- hosts ---------------------------------------------------------------------------------------------------------


def endpoints(domain: str, mirrors: bool = True, **settings: Any) -> list[tuple[str, bool, bool]]:
    return [tuple(one) for one in asyncio.run(hosts.endpoints(Settings(**settings), domain, mirrors))]


def test_where_a_registry_is_asked() -> None:
    assert endpoints("docker.io") == [("https://registry-1.docker.io", True, False)]
    mirrors = ["https://mirror.example/", "192.0.2.1:5000=http://127.0.0.1:9/path"]
    assert endpoints("docker.io", registry_mirrors=mirrors)[0] == ("https://mirror.example", True, True)
    assert endpoints("docker.io", mirrors=False, registry_mirrors=mirrors) == endpoints("docker.io")
    found = endpoints("192.0.2.1:5000", registry_mirrors=mirrors)
    assert found == [("http://127.0.0.1:9/path", False, True), ("https://192.0.2.1:5000", True, False)]
    both = [("https://192.0.2.1:5000", False, False), ("http://192.0.2.1:5000", False, False)]
    for text in ("192.0.2.0/24", "192.0.2.1", "192.0.2.1:5000"):
        assert endpoints("192.0.2.1:5000", insecure_registries=[text]) == both, text
    assert endpoints("192.0.2.1:5000", insecure_registries=["192.0.3.0/24", "192.0.2.1:5001"]) == [
        ("https://192.0.2.1:5000", True, False)
    ]
    assert endpoints("127.9.9.9:1")[1] == ("http://127.9.9.9:1", False, False)


def test_mirrors_and_insecure_registries_that_cannot_be() -> None:
    for text in ("mirror.example", "ftp://mirror.example", "https://u:p@mirror.example", "https://", "https://x/?a=b"):
        with pytest.raises(InvalidParameter, match="invalid mirror"):
            hosts.parse_mirror(text)
    for text in ("http://registry", "a/b", "-x", ""):
        with pytest.raises(InvalidParameter, match="insecure registry"):
            hosts.check_insecure(text)


def test_names() -> None:
    digest = f"sha256:{'a' * 64}"
    assert str(target("busybox", "")) == "busybox" and str(target("busybox:1", "2")) == "busybox:2"
    assert str(target("busybox:1", digest)) == f"busybox@{digest}"
    assert str(target(f"busybox@{digest}", "")) == f"busybox@{digest}"
    for image, tag in (("", ""), ("Upper", ""), ("x", "a b"), ("x", "sha256:1")):
        with pytest.raises(InvalidParameter):
            target(image, tag)


def test_search_terms() -> None:
    assert search.split("library/busybox") == ("docker.io", "busybox")
    assert search.split("127.0.0.1:5000/a/b") == ("127.0.0.1:5000", "a/b")
    for limit, filters in (
        (-1, {}),
        (101, {}),
        (0, {"colour": []}),
        (0, {"stars": ["x"]}),
        (0, {"is-official": ["x"]}),
    ):
        with pytest.raises(InvalidParameter):
            search.check(limit, filters)
    assert search.check(0, {"stars": ["3"]}) == 25


# -- what registries say -------------------------------------------------------------------------------------------


@given(st.integers(400, 599), st.binary(max_size=300))
def test_any_refusal_has_a_text(status: int, body: bytes) -> None:
    found = errors.refused(status, body)
    assert found.status == status and str(found).isprintable()


def test_refusals_in_dockerds_words() -> None:
    ref = reference.parse("busybox:1")

    def text(status: int, code: str, message: str) -> tuple[type[Exception], str]:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        with pytest.raises((NotFound, System)) as caught, errors.pulling(ref):
            raise errors.refused(status, body)
        return caught.type, str(caught.value)

    assert text(404, "MANIFEST_UNKNOWN", "manifest unknown") == (
        NotFound, "manifest for busybox:1 not found: manifest unknown: manifest unknown",
    )  # fmt: skip
    assert text(404, "NAME_UNKNOWN", "gone") == (NotFound, "repository busybox not found: name unknown: gone")
    assert text(403, "DENIED", "no")[1] == (
        "pull access denied for busybox, repository does not exist or may require 'docker login': denied: no"
    )
    assert text(401, "UNAUTHORIZED", "who?") == (System, "unauthorized: who?")


@example("²", 0)
@given(st.one_of(st.text(max_size=40), st.integers(-10, 10**12).map(str)), st.integers(0, 30))
def test_pauses_are_bounded(asked: str, attempt: int) -> None:
    assert 0 <= http.pause(attempt, {"Retry-After": asked}) <= http.LONGEST_PAUSE * 1.25
    assert http.pause(0, {"Retry-After": "7"}) == 7


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example,127.0.0.1")
    assert http.proxy("https://outside.example/v2/") == "http://proxy:3128"
    assert http.proxy("https://a.inside.example/v2/") is None and http.proxy("https://127.0.0.1:5000/") is None


# -- shared work ---------------------------------------------------------------------------------------------------


def test_work_is_done_once_and_told_to_all() -> None:
    async def main() -> None:
        shared, began, go = Shared(), 0, asyncio.Event()
        heard: list[list[Any]] = [[], [], []]

        async def work(report: Any) -> None:
            nonlocal began
            began += 1
            report({"n": 1})
            await go.wait()
            report({"n": 2})

        first = asyncio.ensure_future(shared.join("k", work, heard[0].append))
        second = asyncio.ensure_future(shared.join("k", work, heard[1].append))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        third = asyncio.ensure_future(shared.join("k", work, heard[2].append))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        go.set()
        await asyncio.gather(first, third, shared.follow("k"))
        assert began == 1 and heard == [[{"n": 1}, {"n": 2}], [{"n": 1}], [{"n": 1}, {"n": 2}]]
        await shared.join("k", work, heard[1].append)  # done and gone: it is done again
        assert began == 2

    asyncio.run(main())


def test_work_ends_with_the_last_who_wants_it() -> None:
    async def main() -> None:
        shared, ended = Shared(), asyncio.Event()

        async def work(report: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.set()

        joined = [asyncio.ensure_future(shared.join("k", work, lambda _: None)) for _ in range(2)]
        await asyncio.sleep(0)
        joined[0].cancel()
        await asyncio.gather(joined[0], return_exceptions=True)
        assert not ended.is_set()
        joined[1].cancel()
        await asyncio.gather(joined[1], return_exceptions=True)
        assert ended.is_set()  # and not a moment later

    asyncio.run(main())


def test_who_joined_a_failure_tries_it_himself() -> None:
    async def main() -> None:
        shared = Shared()

        async def bad(report: Any) -> None:
            await asyncio.sleep(0)
            raise ValueError("theirs")

        async def good(report: Any) -> None:
            report({})

        first = asyncio.ensure_future(shared.join("k", bad, lambda _: None))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(shared.join("k", good, lambda _: None))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert str(results[0]) == "theirs" and results[1] is None

    asyncio.run(main())


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=20))
def test_slots_are_never_more_and_never_lost(limit: int, cancelled: list[bool]) -> None:
    async def main() -> None:
        slots = Slots(lambda: limit)
        present = most = 0

        async def use() -> None:
            nonlocal present, most
            async with slots.one():
                present += 1
                most = max(most, present)
                try:
                    await asyncio.sleep(0)
                finally:
                    present -= 1

        tasks = [asyncio.ensure_future(use()) for _ in cancelled]
        await asyncio.sleep(0)
        for task, cancel in zip(tasks, cancelled, strict=True):
            if cancel:
                task.cancel()
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert most <= limit and not slots.full

    asyncio.run(main())


def test_the_first_failure_ends_the_rest() -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def long() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def bad() -> None:
            await asyncio.sleep(0)
            raise ValueError("first")

        with pytest.raises(ValueError, match="first"):
            await all_of(long(), bad())
        assert ended.is_set()

    asyncio.run(main())


# -- blobs and messages --------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=100), max_size=20), st.integers(1, 5000))
@example([b"\0" * 3000, b"ab" * 100, b"\0" * 9000], 512)
def test_the_same_layer_is_the_same_blob(pieces: list[bytes], cut: int) -> None:
    """What can be packed depends on what the packer sees at once, unless that is always the same."""
    whole = b"".join(piece * 50 for piece in pieces)

    async def stream(size: int) -> AsyncGenerator[bytes, None]:
        for position in range(0, len(whole), size):
            yield whole[position : position + size]

    found = []
    for size in (cut, 4096):
        with tempfile.TemporaryFile() as file:
            blob = asyncio.run(push.compressed(stream(size), file.fileno()))
            data = os.pread(file.fileno(), blob.size + 1, 0)
        assert gzip.decompress(data) == whole if data else not whole
        assert (blob.digest, blob.size) == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        found.append(blob.digest)
    assert found[0] == found[1]


def test_manifests_of_a_push() -> None:
    gzipped = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", f"sha256:{'1' * 64}", 1)
    zstd = Descriptor("application/vnd.oci.image.layer.v1.tar+zstd", f"sha256:{'2' * 64}", 2)
    kind, document = push.manifest(b"{}", [gzipped])
    assert kind == json.loads(document)["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert json.loads(document)["layers"][0]["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    kind, document = push.manifest(b"{}", [gzipped, zstd])
    assert kind == json.loads(document)["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert [one["mediaType"].rpartition("+")[2] for one in json.loads(document)["layers"]] == ["gzip", "zstd"]


def test_bars() -> None:
    assert messages.bar("x", "Downloading", 500, 1000)["progress"] == ("[" + "=" * 25 + ">" + " " * 24 + "]  500B/1kB")
    assert messages.bar("x", "Downloading", 0, 0)["progress"] == "[" + "=" * 50 + "]  0B/0B"
    assert (messages.human(1_993_000), messages.human(999), messages.human(5e20)) == ("1.993MB", "999B", "500EB")
