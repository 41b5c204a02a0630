"""What URLs of Git repositories say."""

import pytest

from boxwright.builder import repository
from boxwright.builder.repository import Repository, is_repository, parse
from boxwright.errdefs import InvalidParameter, NotImplemented_

HTTPS = "https://host/path.git"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (HTTPS, Repository(HTTPS)),
        (f"{HTTPS}#v1", Repository(HTTPS, "v1")),
        (f"{HTTPS}#v1:a/b", Repository(HTTPS, "v1", "a/b")),
        (f"{HTTPS}#:a:b", Repository(HTTPS, "", "a:b")),
        (f"{HTTPS}#", Repository(HTTPS)),
        ("git://host:9/x#feature/y", Repository("git://host:9/x", "feature/y")),
        ("github.com/a/b#c", Repository("https://github.com/a/b", "c")),
        ("http://u:p@host/x.git#r", Repository("http://u:p@host/x.git", "r")),
        (f"{HTTPS}?ref=v1&subdir=d", Repository(HTTPS, "v1", "d")),
        (f"{HTTPS}?branch=b", Repository(HTTPS, "refs/heads/b")),
        (f"{HTTPS}?tag=t&keep-git-dir=1&submodules=false", Repository(HTTPS, "refs/tags/t", "", True, False)),
        (f"{HTTPS}?commit={'a' * 40}", Repository(HTTPS, "a" * 40, checksum="a" * 40)),
        (f"{HTTPS}?checksum=abcdef0#v1", Repository(HTTPS, "v1", checksum="abcdef0")),
    ],
)
def test_urls(text: str, found: Repository) -> None:
    assert is_repository(text, context=True) and parse(text) == found


@pytest.mark.parametrize(
    "text",
    ["https://host/x.tar", "http://host/x.git/y", "https://host/x?y=.git", "x.git", "./github.com/x", "Dockerfile", ""],
)
def test_others(text: str) -> None:
    assert not is_repository(text, context=True)


def test_a_directory_of_that_name_can_be_copied() -> None:
    assert not is_repository("github.com/a/b") and is_repository("git@host:x") and is_repository("HTTP://h/x.GIT")


@pytest.mark.parametrize(
    "text",
    [
        f"{HTTPS}#-x", f"{HTTPS}#a*", f"{HTTPS}?ref=+a", f"{HTTPS}#a^", f"{HTTPS}?ref=a:b", f"{HTTPS}\n#a", f"{HTTPS}# a",
        "https://host:x/y.git", "https://-host/y.git", "https://[/y.git", "https:///y.git", f"{HTTPS}?x=1",
        f"{HTTPS}?ref=a&branch=b", f"{HTTPS}?subdir=a#b:c", f"{HTTPS}?keep-git-dir=perhaps", f"{HTTPS}?commit=zz",
        f"https://{'h' * 9000}/x.git",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse(text)


@pytest.mark.parametrize("text", ["git@host:x.git", "ssh://host/x.git"])
def test_ssh(text: str) -> None:
    with pytest.raises(NotImplemented_, match="by SSH is not implemented"):
        parse(text)


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As git's library knows them: of the one for http only the name in small letters."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert repository._proxies() == {"http_proxy": "http://p:1", "no_proxy": "localhost"}
