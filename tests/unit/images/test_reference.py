"""Image references: Docker's grammar, its normalisation and its texts."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from boxwright.errdefs import InvalidParameter
from boxwright.images.reference import Reference, familiar, parse, parse_any, parse_tag

HEX = "0123456789abcdef" * 4

WELL_FORMED = [
    ("busybox", "docker.io/library/busybox", "", "", "busybox"),
    ("busybox:1.36", "docker.io/library/busybox", "1.36", "", "busybox:1.36"),
    ("library/busybox", "docker.io/library/busybox", "", "", "busybox"),
    ("docker.io/busybox", "docker.io/library/busybox", "", "", "busybox"),
    ("docker.io/library/busybox", "docker.io/library/busybox", "", "", "busybox"),
    ("index.docker.io/busybox", "docker.io/library/busybox", "", "", "busybox"),
    ("index.docker.io/me/app", "docker.io/me/app", "", "", "me/app"),
    ("me/app:v1", "docker.io/me/app", "v1", "", "me/app:v1"),
    ("localhost/app", "localhost/app", "", "", "localhost/app"),
    ("localhost:5000/app:x", "localhost:5000/app", "x", "", "localhost:5000/app:x"),
    ("ghcr.io/a/b/c", "ghcr.io/a/b/c", "", "", "ghcr.io/a/b/c"),
    ("REGISTRY/app", "REGISTRY/app", "", "", "REGISTRY/app"),
    ("[::1]:5000/app", "[::1]:5000/app", "", "", "[::1]:5000/app"),
    ("docker.io/a.b/c", "docker.io/a.b/c", "", "", "docker.io/a.b/c"),
    ("library/a/b", "docker.io/library/a/b", "", "", "library/a/b"),
    ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f", "", "", "a__b/c--d.e_f"),
    (f"app@sha256:{HEX}", "docker.io/library/app", "", f"sha256:{HEX}", f"app@sha256:{HEX}"),
    (f"app:1@sha256:{HEX}", "docker.io/library/app", "1", f"sha256:{HEX}", f"app:1@sha256:{HEX}"),
    (f"app@sha512:{HEX * 2}", "docker.io/library/app", "", f"sha512:{HEX * 2}", f"app@sha512:{HEX * 2}"),
]

MALFORMED = [
    ("", "invalid reference format"),
    ("a b", "invalid reference format"),
    ("a:", "invalid reference format"),
    ("a@", "invalid reference format"),
    ("a/", "invalid reference format"),
    ("/a", "invalid reference format"),
    ("a//b", "invalid reference format"),
    ("-a", "invalid reference format"),
    ("a-", "invalid reference format"),
    ("a..b", "invalid reference format"),
    ("a___b", "invalid reference format"),
    ("a:b:c", "invalid reference format"),
    ("a:-b", "invalid reference format"),
    ("a:" + "b" * 129, "invalid reference format"),
    ("a\n", "invalid reference format"),
    ("a:b\n", "invalid reference format"),
    ("busybox\0", "invalid reference format"),
    ("x@sha256:12", "invalid reference format"),
    ("http://a/b", "invalid reference format"),
    ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
    ("library/Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
    ("ghcr.io/A/b:c", "invalid reference format: repository name (A/b) must be lowercase"),
    ("a" * 256, "repository name must not be more than 255 characters"),
    (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
    (f"x@sha256:{'A' * 64}", "invalid checksum digest format"),
    (f"x@sha256:{'a' * 63}", "invalid checksum digest length"),
    (f"x@md5:{'a' * 32}", "unsupported digest algorithm"),
]


@pytest.mark.parametrize(("text", "name", "tag", "digest", "shown"), WELL_FORMED)
def test_well_formed(text: str, name: str, tag: str, digest: str, shown: str) -> None:
    found = parse(text)
    assert (found.name, found.tag, found.digest, str(found)) == (name, tag, digest, shown)
    assert parse(str(found)) == found


@pytest.mark.parametrize(("text", "message"), MALFORMED)
def test_malformed(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(text)
    assert str(caught.value) == message


def test_ids_are_no_names() -> None:
    assert parse_any(HEX) == f"sha256:{HEX}"
    assert parse_any(f"sha256:{HEX}") == f"sha256:{HEX}"
    assert parse_any("sha256:abc") == Reference("docker.io", "library/sha256", "abc")


def test_default_tag() -> None:
    assert parse("a").with_default_tag().tag == "latest"
    assert parse("a:b").with_default_tag().tag == "b"
    assert parse(f"a@sha256:{HEX}").with_default_tag().tag == ""


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a b", "a/b", "a:b", "a\n", "x" * 129])
def test_bad_tags(tag: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid tag format"):
        parse_tag(tag)


component = st.from_regex(r"[a-z0-9]{1,8}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
path = st.lists(component, min_size=1, max_size=4).map("/".join)
domain = st.sampled_from(["", "localhost/", "localhost:80/", "a.b/", "docker.io/", "index.docker.io/", "1.2.3.4:5/"])
tag = st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))


@given(domain, path, tag)
def test_what_is_shown_reads_back(domain: str, path: str, tag: str) -> None:
    first, slash, _ = path.partition("/")
    assume(domain or not (slash and "." in first and "_" in first))  # taken for a host, and hosts have no underscore
    text = domain + path + tag
    found = parse(text)
    assert parse(str(found)) == found
    assert parse(f"{found.name}{tag}") == found
    assert familiar(found.name) == found.familiar_name
    assert Reference.of(found.name, found.tag, found.digest) == found


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    try:
        found = parse(text)
    except InvalidParameter:
        return
    assert parse(str(found)) == found
    assert "\n" not in str(found)
