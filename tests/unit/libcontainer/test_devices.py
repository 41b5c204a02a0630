"""The device policy: v1's semantics, the eBPF program against them, and the steps from one policy to another."""

import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.errdefs import StepError
from boxwright.libcontainer import devices
from boxwright.libcontainer.cgroups.fs.manager import transition
from boxwright.libcontainer.cgroups.fs2.devices import program

_ACCESS = st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"])
_RULES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"allow": st.booleans()}),
        st.fixed_dictionaries(
            {
                "allow": st.booleans(),
                "type": st.sampled_from(["b", "c"]),
                "major": st.sampled_from([-1, 1, 2]),
                "minor": st.sampled_from([-1, 1, 2]),
                "access": _ACCESS,
            }
        ),
    ),
    max_size=8,
)
_REQUEST = st.tuples(st.sampled_from("bc"), st.integers(0, 3), st.integers(0, 3), _ACCESS)


def applied(rules: list[dict]) -> devices.Policy:
    policy = devices.Policy()
    for rule in rules:
        policy.apply(rule)
    return policy


def run(code: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """The verdict of an eBPF device program."""
    wanted = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = struct.pack("=III", wanted << 16 | {"b": 1, "c": 2}[kind], major, minor)
    registers = [0] * 11
    lines = list(struct.iter_unpack("=BBhi", code))
    at = 0
    while True:
        opcode, where, offset, value = lines[at]
        dst, src = where & 15, where >> 4
        at += 1
        match opcode:
            case 0x61:
                (registers[dst],) = struct.unpack_from("=I", context, offset)
            case 0xBF:
                registers[dst] = registers[src]
            case 0xB7:
                registers[dst] = value
            case 0x57:
                registers[dst] &= value
            case 0x77:
                registers[dst] >>= value
            case 0x15:
                at += offset if registers[dst] == value else 0
            case 0x55:
                at += offset if registers[dst] != value else 0
            case 0x5D:
                at += offset if registers[dst] != registers[src] else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(hex(opcode))


@given(_RULES, _REQUEST)
def test_the_program_says_what_the_policy_says(rules: list[dict], request: tuple[str, int, int, str]) -> None:
    policy = applied(rules)
    assert run(program(policy), *request) == policy.permits(*request)


@given(_RULES, _RULES)
def test_a_transition_arrives_and_never_takes_away_what_stays(before: list[dict], after: list[dict]) -> None:
    current, wanted = applied(before), applied(after)
    start = devices.Policy(current.allow, dict(current.exceptions))
    allow, deny = transition(current, wanted)
    writes = [(True, v) for v in allow if v == "a"] + [(False, v) for v in deny if v == "a"]
    rewritten = bool(writes)
    writes += [(True, v) for v in allow if v != "a"] + [(False, v) for v in deny if v != "a"]
    stays = [(k, a) for k, a in start.exceptions.items() if wanted.exceptions.get(k) == a]
    for verb, text in writes:
        if text == "a":
            start.apply({"allow": verb})
        else:
            kind, numbers, access = text.split(" ")
            major, minor = (-1 if n == "*" else int(n) for n in numbers.split(":"))
            start.apply({"allow": verb, "type": kind, "major": major, "minor": minor, "access": access})
        if not rewritten and not start.allow:
            assert all(start.exceptions.get(key) == access for key, access in stays)
    normal = {k: set(a) for k, a in start.exceptions.items()}
    assert (start.allow, normal) == (wanted.allow, {k: set(a) for k, a in wanted.exceptions.items()})


def test_the_default_policy() -> None:
    policy = devices.policy(None)
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, 7)):
        assert policy.permits("c", major, minor, "rwm")
    for kind, major, minor in (("c", 1, 1), ("c", 1, 11), ("c", 10, 229), ("b", 8, 0), ("c", 10, 200)):
        assert not policy.permits(kind, major, minor, "r")
        assert policy.permits(kind, major, minor, "m")


def test_privileged_is_all_without_exceptions() -> None:
    policy = devices.policy(devices.ALLOW_ALL)
    assert policy.allow and not policy.exceptions


def test_devices_list_is_read_back() -> None:
    policy = devices.parse_list("c 1:3 rwm\nb *:* m\nc 136:* rw\n")
    assert policy.exceptions == {("c", 1, 3): "rwm", ("b", -1, -1): "m", ("c", 136, -1): "rw"}
    assert not policy.allow
    assert devices.parse_list("a *:* rwm").allow
    assert [devices.spell(k, a) for k, a in policy.exceptions.items()] == ["c 1:3 rwm", "b *:* m", "c 136:* rw"]


@pytest.mark.parametrize(
    "rule",
    [
        {"allow": True, "type": "x"},
        {"allow": True, "access": "rx"},
        {"allow": 1},
        {"access": "r"},
        {"allow": True, "type": "a", "major": 1},
        {"allow": True, "type": "c", "major": "1"},
        {"allow": True, "type": "c", "access": 7},
    ],
)
def test_malformed_rules(rule: dict) -> None:
    with pytest.raises(StepError, match="device rule"):
        devices.checked(rule)


def test_a_device_of_the_host() -> None:
    nodes, rules = devices.from_host("/dev/null", "/dev/nothing", "rw")
    assert nodes == [
        {
            "path": "/dev/nothing",
            "type": "c",
            "major": 1,
            "minor": 3,
            "fileMode": stat.S_IMODE(os.stat("/dev/null").st_mode),
            "uid": 0,
            "gid": 0,
        }
    ]
    assert rules == [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}]


def test_a_link_and_a_directory_of_devices(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    nodes, _ = devices.from_host(str(link))
    assert (nodes[0]["path"], nodes[0]["minor"]) == (str(link), 5)


@pytest.mark.parametrize(("path", "text"), [("/no/such", "no such file or directory"), ("FILE", "not a device node")])
def test_what_is_no_device(tmp_path: Path, path: str, text: str) -> None:
    if path == "FILE":
        path = str(tmp_path / "file")
        Path(path).write_text("")
    with pytest.raises(StepError, match=f'custom device "{path}": {text}'):
        devices.from_host(path)


def test_all_devices_of_the_host_without_terminals_and_queues() -> None:
    paths = {node["path"] for node in devices.all_host()}
    assert {"/dev/null", "/dev/zero"} <= paths
    assert not [p for p in paths if p.startswith(("/dev/pts/", "/dev/shm/", "/dev/mqueue/")) or p == "/dev/console"]
