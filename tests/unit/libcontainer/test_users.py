"""Docker's user strings → ids, on a root that is a plain directory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.errdefs import StepError
from boxwright.libcontainer import users

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
alice:x:1000:1001:Alice:/home/alice:/bin/sh
1000:x:7:8:a name that is a number:/seven:/bin/sh
broken
short:x:5
nouid:x:abc:1::/:/bin/sh
nohome:x:2000:2000:::
huge:x:4294967296:0::/:/bin/sh
negative:x:-1:0::/:/bin/sh
alice:x:9:9:second entry:/nine:/bin/sh
"""
GROUP = """\
root:x:0:
wheel:x:10:root,alice
alice:x:1001:
audio:x:29:alice,bob
1001:x:55:
broken
big:x:4294967296:alice
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Makes a root and opens it; without a text the file is missing."""
    opened: list[int] = []

    def make(passwd: str | None = PASSWD, group: str | None = GROUP) -> int:
        (tmp_path / "etc").mkdir(exist_ok=True)
        for name, text in (("passwd", passwd), ("group", group)):
            if text is not None:
                (tmp_path / "etc" / name).write_text(text, errors="surrogateescape")
        opened.append(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))
        return opened[-1]

    yield make
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize(
    ("text", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, [0, 10], "/root"),
        ("root", 0, 0, [0, 10], "/root"),
        ("0", 0, 0, [0, 10], "/root"),
        ("alice", 1000, 1001, [1001, 10, 29], "/home/alice"),
        ("1000", 1000, 1001, [1001, 10, 29], "/home/alice"),  # a number is an id, whoever is called so
        ("7", 7, 8, [8], "/seven"),
        ("1", 1, 0, [0], "/"),
        ("2147483647", 2147483647, 0, [0], "/"),
        ("0001", 1, 0, [0], "/"),
        ("nohome", 2000, 2000, [2000], "/"),
        ("alice:wheel", 1000, 10, [10], "/home/alice"),
        ("alice:10", 1000, 10, [10], "/home/alice"),
        ("alice:1001", 1000, 1001, [1001], "/home/alice"),
        ("1:1", 1, 1, [1], "/"),
        ("0:0", 0, 0, [0], "/root"),
        (":wheel", 0, 10, [10], "/root"),
        (":10", 0, 10, [10], "/root"),
        ("12345:54321", 12345, 54321, [54321], "/"),
        ("alice:", 1000, 1001, [1001, 10, 29], "/home/alice"),
    ],
)
def test_table(root: Callable[..., int], text: str, uid: int, gid: int, groups: list[int], home: str) -> None:
    found = users.resolve(root(), {"username": text})
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bob", "unable to find user bob: no matching entries in passwd file"),
        ("alice:nope", "unable to find group nope: no matching entries in group file"),
        ("short", "unable to find user short: no matching entries in passwd file"),
        ("nouid", "unable to find user nouid: no matching entries in passwd file"),
        ("negative", "unable to find user negative: no matching entries in passwd file"),
        ("-1", "unable to find user -1: no matching entries in passwd file"),
        ("+1", "unable to find user +1: no matching entries in passwd file"),
        ("1 ", "unable to find user 1 : no matching entries in passwd file"),
        ("0x0", "unable to find user 0x0: no matching entries in passwd file"),
        ("1_0", "unable to find user 1_0: no matching entries in passwd file"),
        ("\u0661", "unable to find user \u0661: no matching entries in passwd file"),
        ("huge", "uids and gids must be in range 0-2147483647"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("4294967295", "uids and gids must be in range 0-2147483647"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
        ("18446744073709551616", "uids and gids must be in range 0-2147483647"),
        ("0:4294967296", "uids and gids must be in range 0-2147483647"),
        ("alice:2147483648", "uids and gids must be in range 0-2147483647"),
        ("9" * 33, f"unable to find user {'9' * 33}: no matching entries in passwd file"),
    ],
)
def test_refused(root: Callable[..., int], text: str, message: str) -> None:
    with pytest.raises(StepError) as caught:
        users.resolve(root(), {"username": text})
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "0", "1000:1000", "5"])
def test_images_without_the_files(root: Callable[..., int], text: str) -> None:
    found = users.resolve(root(None, None), {"username": text})
    assert found.home == "/"


def test_names_need_the_files(root: Callable[..., int]) -> None:
    with pytest.raises(StepError):
        users.resolve(root(None, None), {"username": "root"})


def test_additional_groups(root: Callable[..., int]) -> None:
    user = {"username": "alice", "additionalGids": [500, 10], "additionalGroups": ["audio", "600"]}
    assert users.resolve(root(), user).groups == [1001, 10, 29, 500, 600]
    with pytest.raises(StepError, match="unable to find group nope"):
        users.resolve(root(), {"username": "", "additionalGroups": ["nope"]})
    with pytest.raises(StepError, match="range"):
        users.resolve(root(), {"username": "", "additionalGids": [2**31]})


def test_plain_oci_users(root: Callable[..., int]) -> None:
    """`uid` and `gid` as numbers: nothing is added but what the spec says; HOME is looked up."""
    found = users.resolve(root(), {"uid": 1000, "gid": 5, "additionalGids": [6]})
    assert (found.uid, found.gid, found.groups, found.home) == (1000, 5, [6], "/home/alice")
    for wrong in ({"uid": -1}, {"uid": 2**32}, {"gid": 2**31}, {"uid": "0"}):
        with pytest.raises(StepError):
            users.resolve(root(), wrong)


def test_lines_that_are_not_utf8(root: Callable[..., int]) -> None:
    text = "b\udcffd:x:3:4::/home/b\udcff:\n" + PASSWD
    assert users.resolve(root(text), {"username": "b\udcffd"}).home == "/home/b\udcff"


@settings(max_examples=300)
@given(text=st.text(max_size=40), passwd=st.text(max_size=200), group=st.text(max_size=200))
def test_whatever_the_image_holds_ids_stay_in_range(
    tmp_path_factory: pytest.TempPathFactory, text: str, passwd: str, group: str
) -> None:
    directory = tmp_path_factory.mktemp("root")
    (directory / "etc").mkdir()
    (directory / "etc/passwd").write_bytes(passwd.encode("utf-8", "surrogatepass"))
    (directory / "etc/group").write_bytes(group.encode("utf-8", "surrogatepass"))
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        found = users.resolve(fd, {"username": text})
    except StepError:
        return
    finally:
        os.close(fd)
    assert all(0 <= number <= users.MAX_ID for number in (found.uid, found.gid, *found.groups))
    assert text.partition(":")[0] in ("", "0") or found.uid != 0 or any(
        line.startswith(text.partition(":")[0] + ":") for line in passwd.split("\n")
    ) or set(text.partition(":")[0]) == {"0"}  # fmt: skip
