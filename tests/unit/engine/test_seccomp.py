"""Profiles as they come with requests, and the cache of what they were compiled to."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compiling import Compiler

from boxwright.engine.seccomp import KEEP, Host, builtin, check, kernel_version, load, resolve
from boxwright.errdefs import InvalidParameter
from boxwright.libcontainer import seccomp

HOST = Host("x86_64", (6, 18))
SMALL = json.dumps(
    {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"name": "mkdir", "action": "SCMP_ACT_ERRNO", "args": None}],
    }
)


# --- the cache ---------------------------------------------------------------------------------------------------------


def test_a_filter_is_compiled_once_and_found_again_by_another_engine(tmp_path: Path) -> None:
    first = Compiler(str(tmp_path)).compile(SMALL, ["CAP_KILL"])
    assert first is not None
    made = os.stat(first)
    assert seccomp.unpack(Path(first).read_bytes())
    again = Compiler(str(tmp_path)).compile(SMALL, ["CAP_KILL"])
    assert again == first
    assert os.stat(again).st_ino == made.st_ino
    assert made.st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(first)).st_mode & 0o777 == 0o700


def test_capabilities_that_change_the_rules_change_the_filter(tmp_path: Path) -> None:
    compiler = Compiler(str(tmp_path))
    plain, admin = compiler.compile("", []), compiler.compile("", ["CAP_SYS_ADMIN"])
    assert plain != admin
    # The order does not, nor do capabilities that the policy does not ask about.
    assert (
        compiler.compile("builtin", ["CAP_KILL", "CAP_CHOWN"])
        == compiler.compile("", ["CAP_CHOWN", "CAP_KILL"])
        == plain
    )


def test_unconfined_is_no_filter(tmp_path: Path) -> None:
    assert Compiler(str(tmp_path)).compile("unconfined", []) is None
    by_default = Compiler(str(tmp_path), default="unconfined")
    assert by_default.compile("", []) is None
    assert by_default.compile("builtin", []) is not None
    assert by_default.compile("{}", []) is None


def test_damaged_and_half_written_files_are_made_anew(tmp_path: Path) -> None:
    path = Compiler(str(tmp_path)).compile(SMALL, [])
    assert path is not None
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-3])
    Path(path + ".1.2").write_bytes(whole[:10])
    compiler = Compiler(str(tmp_path))
    assert not os.path.exists(path + ".1.2")
    assert compiler.compile(SMALL, []) == path
    assert Path(path).read_bytes() == whole
    os.unlink(path)
    assert compiler.compile(SMALL, []) == path
    assert Path(path).read_bytes() == whole


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "seccomp").mkdir()
    for n in range(KEEP + 10):
        old = tmp_path / "seccomp" / f"{n}.bpf"
        old.write_bytes(b"")
        os.utime(old, (n, n))
    Compiler(str(tmp_path))
    left = {int(p.stem) for p in (tmp_path / "seccomp").iterdir()}
    assert left == set(range(10, KEEP + 10))


def test_those_at_once_share_it(tmp_path: Path) -> None:
    compiler = Compiler(str(tmp_path))
    found = []
    threads = [threading.Thread(target=lambda: found.append(compiler.compile("", []))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and found[0]
    assert len(os.listdir(tmp_path / "seccomp")) == 1


# --- profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ("{", "Decoding seccomp profile failed"),
        ("[" * 100_000, "Decoding seccomp profile failed"),
        ("[]", "the profile must be an object"),
        ('{"syscalls": {}}', None),
        ('{"syscalls": {"a": 1}}', "syscalls must be an array"),
        ('{"syscalls": [1]}', "syscalls must be an object"),
        ('{"syscalls": [{"action": "SCMP_ACT_ALLOW"}]}', "name must be a string"),
        ('{"syscalls": [{"names": [1]}]}', "names must be a string"),
        ('{"syscalls": [{"names": ["a"], "name": "b"}]}', "both 'name' and 'names' are specified"),
        ('{"syscalls": [{"name": "a", "includes": []}]}', None),
        ('{"syscalls": [{"name": "a", "includes": {"caps": "CAP_X"}}]}', "caps must be an array"),
        ('{"architectures": ["a"], "archMap": [{}]}', "both 'architectures' and 'archMap' are specified"),
        ('{"archMap": [{"subArchitectures": "x"}]}', "subArchitectures must be an array"),
    ],
)
def test_malformed_profiles(profile: str, text: str | None) -> None:
    if text is None:
        load(profile)
        return
    with pytest.raises(InvalidParameter, match=text):
        load(profile)


_WORDS = st.sampled_from(
    ["names", "name", "action", "args", "index", "op", "value", "includes", "excludes", "caps", "arches", "minKernel"]
)
_TEXTS = st.sampled_from(
    ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_CMP_EQ", "read", "CAP_KILL", "amd64", "4.8", "", "x"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=12,
)
_PROFILES = st.fixed_dictionaries(
    {},
    optional={
        "defaultAction": _VALUES,
        "defaultErrnoRet": _VALUES,
        "architectures": _VALUES,
        "archMap": _VALUES,
        "flags": _VALUES,
        "syscalls": _VALUES | st.lists(st.dictionaries(_WORDS, _VALUES, max_size=5), max_size=3),
    },
)


@given(_PROFILES)
@settings(max_examples=300)
def test_any_profile_is_compiled_or_refused(tmp_path_factory: pytest.TempPathFactory, profile: dict) -> None:
    compiler = Compiler(str(tmp_path_factory.getbasetemp() / "any"), host=HOST)
    try:
        path = compiler.compile(json.dumps(profile), ["CAP_KILL"])
    except InvalidParameter as error:
        assert str(error)
    else:
        assert path is None or os.path.exists(path)


def test_conditions() -> None:
    def counts(conditions: dict, capabilities: set[str], host: Host = HOST) -> bool:
        call = {"names": ["read"], "action": "SCMP_ACT_ALLOW", **conditions}
        profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [call]}
        check(profile)
        config = resolve(profile, capabilities, host)
        assert config is not None
        return bool(config["syscalls"])

    assert counts({}, set())
    assert counts({"includes": None, "excludes": {}}, set())
    assert not counts({"includes": {"caps": ["CAP_A", "CAP_B"]}}, {"CAP_A"})
    assert counts({"includes": {"caps": ["CAP_A", "CAP_B"]}}, {"CAP_A", "CAP_B"})
    assert not counts({"excludes": {"caps": ["CAP_A", "CAP_B"]}}, {"CAP_A"})
    assert counts({"includes": {"arches": ["arm", "amd64"]}}, set())
    assert not counts({"includes": {"arches": ["arm"]}}, set())
    assert not counts({"excludes": {"arches": ["amd64"]}}, set())
    assert counts({"includes": {"minKernel": "6.18"}}, set())
    assert not counts({"includes": {"minKernel": "6.19"}}, set())
    assert not counts({"excludes": {"minKernel": "6.2"}}, set())
    assert counts({"excludes": {"minKernel": "10.2"}}, set())


def test_sub_architectures_come_with_the_machine() -> None:
    assert (resolve(builtin(), set(), HOST) or {})["architectures"] == [
        f"SCMP_ARCH_{a}" for a in ("X86_64", "X86", "X32")
    ]
    arm = resolve(builtin(), set(), Host("aarch64", (6, 1))) or {}
    assert arm["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert (resolve(builtin(), set(), Host("ppc64le", (6, 1))) or {})["architectures"] == []


@pytest.mark.parametrize(
    ("text", "version"), [("6.1.0-13-amd64", (6, 1)), ("4.8", (4, 8)), ("6.18.44-fc", (6, 18)), ("5.10+", (5, 10))]
)
def test_kernel_versions(text: str, version: tuple[int, int]) -> None:
    assert kernel_version(text) == version


@pytest.mark.parametrize("text", ["", "6", "x.y", ".1", "6."])
def test_bad_kernel_versions(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid kernel version"):
        kernel_version(text)
