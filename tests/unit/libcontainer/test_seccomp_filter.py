"""Compiled filters, asked call by call: default policy against a plain reading of its rules, and custom profiles."""

import errno
import os

import pytest
from support.classic_bpf import ALLOW, ERRNO, KILL_THREAD, verdict

from boxwright.engine.seccomp import Host, builtin, resolve
from boxwright.errdefs import InvalidParameter
from boxwright.libcontainer import seccomp, seccomp_filter
from boxwright.linux import libseccomp

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")

X86_64, X86, X32_BIT = 0xC000003E, 0x40000003, 0x40000000
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS

ARGUMENTS = [
    (),
    *((value, value) for value in (1, 2, 8, 10, 38, 39, 40, 41, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF, 1 << 32)),
    *((flag, flag) for flag in (0x10000000, 0x00020000, 0x02000000, 0x40000000, 0x3D0F00)),
]


def program(config: dict) -> bytes:
    return seccomp.unpack(seccomp_filter.compile(config))[0]


def expected(config: dict, token: int, number: int, arguments: tuple[int, ...], numbers: dict[str, int]) -> int:
    """What the rules say, read one after the other."""
    if number > max(n for n in numbers.values() if n >= 0):
        return ENOSYS
    values = [*arguments, 0, 0]
    for call in config["syscalls"]:
        if number not in [numbers.get(name) for name in call["names"]]:
            continue
        if all(holds(values[arg["index"]], arg) for arg in call["args"]):
            return seccomp_filter.action(call["action"], call.get("errnoRet"))
    return EPERM


def holds(value: int, arg: dict) -> bool:
    wanted = arg["value"]
    return {
        "SCMP_CMP_EQ": value == wanted,
        "SCMP_CMP_MASKED_EQ": value & wanted == arg.get("valueTwo", 0),
    }[arg["op"]]


@pytest.mark.parametrize("capabilities", [set(), {"CAP_SYS_CHROOT"}, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"}])
@pytest.mark.parametrize(("name", "arch", "bit"), [("x86_64", X86_64, 0), ("x32", X86_64, X32_BIT), ("x86", X86, 0)])
def test_the_default_policy_call_by_call(capabilities: set[str], name: str, arch: int, bit: int) -> None:
    config = resolve(builtin(), capabilities, Host("x86_64", (6, 18)))
    assert config is not None
    code = program(config)
    token = libseccomp.architecture(name)
    names = {n for call in config["syscalls"] for n in call["names"]}
    numbers = {n: found & ~bit for n in names if (found := libseccomp.number(n, token)) is not None and found >= 0}
    # socketcall and ipc carry other calls on 32-bit x86, which later got numbers of their own as well; libseccomp names
    # them all below zero and adds the rules for both ways.
    shared = {102, 117, 337, 345, *range(359, 374), *range(393, 403)} if name == "x86" else set()
    known = set(range(520)) - shared
    for number in sorted(known | {1000, 0x3FFFFFFF}):
        for arguments in ARGUMENTS:
            wide = arguments if name == "x86_64" else tuple(a & 0xFFFFFFFF for a in arguments)
            said = verdict(code, arch, number | bit, wide)
            assert said == expected(config, token, number, wide, numbers), (name, number, wide, hex(said))


def test_a_foreign_architecture_is_killed() -> None:
    config = resolve(builtin(), set(), Host("x86_64", (6, 18)))
    assert config is not None
    assert verdict(program(config), 0xC00000B7, 1) == KILL_THREAD


def test_32_bit_sockets_are_refused_by_family() -> None:
    config = resolve(builtin(), set(), Host("x86_64", (6, 18)))
    assert config is not None
    code = program(config)
    socket = 359
    assert verdict(code, X86, socket, (2,)) == ALLOW
    assert verdict(code, X86, socket, (38,)) == EPERM
    assert verdict(code, X86, socket, (40,)) == EPERM


def custom(**more: object) -> dict:
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], **more}


def test_a_permissive_profile_lets_unknown_calls_through() -> None:
    calls = [{"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]
    code = program(custom(syscalls=calls))
    assert verdict(code, X86_64, 83) == ERRNO | 13
    assert verdict(code, X86_64, 5000) == ALLOW


@pytest.mark.parametrize(("default", "unknown"), [(None, ENOSYS), (1, ENOSYS), (38, ENOSYS), (13, ENOSYS)])
def test_a_call_newer_than_the_profile_does_not_exist(default: int | None, unknown: int) -> None:
    config = custom(syscalls=[{"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}], defaultAction="SCMP_ACT_ERRNO")
    if default is not None:
        config["defaultErrnoRet"] = default
    code = program(config)
    assert verdict(code, X86_64, 39) == ALLOW
    assert verdict(code, X86_64, 40) == unknown
    assert verdict(code, X86_64, 2) == ERRNO | (default or 1)


def test_several_comparisons_of_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": value} for value in (3, 5)]
    config = custom(
        defaultAction="SCMP_ACT_ERRNO", syscalls=[{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": args}]
    )
    code = program(config)
    assert [verdict(code, X86_64, 62, (n,)) == ALLOW for n in (3, 4, 5)] == [True, False, True]


def test_comparisons_of_several_arguments_hold_together() -> None:
    args = [
        {"index": 0, "op": "SCMP_CMP_GE", "value": 3},
        {"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 0xFF00000000, "valueTwo": 0x1100000000},
    ]
    config = custom(
        defaultAction="SCMP_ACT_ERRNO", syscalls=[{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": args}]
    )
    code = program(config)
    for first, second, allowed in ((3, 0x1100000001, True), (2, 0x1100000001, False), (9, 0x1200000000, False)):
        assert (verdict(code, X86_64, 62, (first, second)) == ALLOW) == allowed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x80000000),
        ("SCMP_ACT_TRAP", 0x30000),
        ("SCMP_ACT_ERRNO", 0x50001),
        ("SCMP_ACT_TRACE", 0x7FF00001),
        ("SCMP_ACT_LOG", 0x7FFC0000),
    ],
)
def test_actions(name: str, value: int) -> None:
    assert verdict(program(custom(syscalls=[{"names": ["mkdir"], "action": name}])), X86_64, 83) == value


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (None, 4),
        ([], 0),
        (["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"], 6),
    ],
)
def test_flags(flags: list[str] | None, value: int) -> None:
    config = custom(syscalls=[])
    if flags is not None:
        config["flags"] = flags
    assert seccomp.unpack(seccomp_filter.compile(config))[1] == value


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "no such action"),
        ({"defaultAction": None}, "no such action"),
        ({"defaultAction": ["SCMP_ACT_ALLOW"]}, "no such action"),
        ({"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}, "NOTIFY is not supported"),
        ({"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": -1}]}, "no such errnoRet"),
        ({"syscalls": ["mkdir"]}, "array of objects"),
        ({"architectures": ["SCMP_ARCH_PDP11"]}, "does not know the architecture"),
        ({"architectures": ["x86_64"]}, "no such architecture"),
        ({"flags": ["SECCOMP_FILTER_FLAG_X"]}, "no such flag"),
        *(
            ({"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL", "args": [arg]}]}, text)
            for arg, text in (
                ({"index": 6, "op": "SCMP_CMP_EQ", "value": 1}, "no argument 6"),
                ({"index": 0, "op": "=", "value": 1}, "no such comparison"),
                ({"index": 0, "op": "SCMP_CMP_EQ", "value": -1}, "no such value"),
                ({"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64}, "no such value"),
            )
        ),
    ],
)
def test_malformed_configurations(change: dict, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        seccomp_filter.compile(custom(**change))


def test_a_cut_or_foreign_file_is_not_installed() -> None:
    whole = seccomp_filter.compile(custom(syscalls=[]))
    for damaged in (b"", whole[:-1], whole[:-8], whole + bytes(8), b"X" + whole[1:], whole[:12]):
        with pytest.raises(Exception, match="damaged"):
            seccomp.unpack(damaged)
