"""Short filters say what long ones say: libseccomp's program and ours beside each other, call by call."""

import os
import resource
import signal
import struct
from collections.abc import Iterator

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.classic_bpf import ALLOW, ERRNO, ArgumentsWanted, verdict

from boxwright.engine.seccomp import Host, builtin, resolve
from boxwright.libcontainer import seccomp_filter
from boxwright.libcontainer.seccomp_ranges import shorten

only_here = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32_BIT = 0x40000000
LOAD, AND, EQUAL, GREATER, AT_LEAST, ANY_BIT, JUMP, RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x45, 0x05, 0x06
NUMBER, ARCH = 0, 4
PROCESSOR_SECONDS = 2


def constants(program: bytes, *operations: int) -> set[int]:
    return {k for operation, _, _, k in struct.iter_unpack("=HBBI", program) if operation in operations}


def around(values: set[int]) -> set[int]:
    return {(value + step) & 0xFFFFFFFF for value in values for step in (-1, 0, 1)}


def numbers(program: bytes) -> set[int]:
    """All system calls there are, and both sides of whatever the program compares with."""
    calls = set(range(600)) | {n | X32_BIT for n in range(600)} | {0x7FFFFFFF, 0x80000000, 0xFFFFFFFF}
    return calls | around(constants(program, EQUAL, GREATER, AT_LEAST))


def interesting(program: bytes) -> list[tuple[int, ...]]:
    """Arguments on both sides of every comparison and mask, in the lower half and in the upper one."""
    words = around(constants(program, EQUAL, GREATER, AT_LEAST, ANY_BIT, AND)) | {0, 1, 0xFFFFFFFF}
    words |= {1 << bit for bit in range(32)} | {
        mask & ~(1 << bit) for mask in constants(program, AND) for bit in range(0, 32, 8)
    }
    values = sorted(words | {word << 32 for word in words} | {word << 32 | 40 for word in words})
    return [(value,) * 6 for value in values]


def same_verdicts(long: bytes, architectures: tuple[int, ...] = (X86_64, X86, AARCH64, 0, 0xFFFFFFFF)) -> bytes:
    """Asserts that the short form of `long` says the same everywhere; returns it."""
    short, many = shorten(long), interesting(long)
    for arch in architectures:
        for number in numbers(long):
            try:
                assert verdict(short, arch, number, None) == verdict(long, arch, number, None), (hex(arch), hex(number))
            except ArgumentsWanted:
                for arguments in many:
                    said, wanted = verdict(short, arch, number, arguments), verdict(long, arch, number, arguments)
                    assert said == wanted, (hex(arch), hex(number), hex(arguments[0]), hex(said), hex(wanted))
    return short


@only_here
@pytest.mark.parametrize("capabilities", [{"CAP_SYS_CHROOT"}, set(), {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"}])
def test_the_default_policy(capabilities: set[str]) -> None:
    config = resolve(builtin(), capabilities, Host("x86_64", (6, 18)))
    assert config is not None
    long = seccomp_filter.program(config)
    short = same_verdicts(long)
    assert len(short) < len(long) / 4


ARGUMENTS = st.fixed_dictionaries(
    {
        "index": st.integers(0, 5),
        "op": st.sampled_from(sorted(seccomp_filter.OPERATORS)),
        "value": st.sampled_from([0, 1, 2, 40, 1 << 31, 0xFFFFFFFF, 1 << 32, 1 << 32 | 5, (1 << 64) - 1]),
        "valueTwo": st.sampled_from([0, 1, 5, 1 << 32]),
    }
)
CALLS = st.fixed_dictionaries(
    {
        "names": st.lists(
            st.sampled_from(
                ["read", "write", "close", "clone", "clone3", "socket", "personality", "ioctl", "mount", "futex", "ipc"]
            ),
            min_size=1,
            max_size=5,
        ),
        "action": st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"]),
        "args": st.lists(ARGUMENTS, max_size=3, unique_by=lambda argument: argument["index"]),
    }
)
PROFILES = st.fixed_dictionaries(
    {
        "defaultAction": st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP"]),
        "architectures": st.sampled_from(
            [[], ["SCMP_ARCH_X86_64"], ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]]
        ),
        "syscalls": st.lists(CALLS, max_size=6),
    }
)


def finished(profile: dict) -> bytes | None:
    """libseccomp's program; None when it does not come to an end, as with some of these."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
            os.write(write, seccomp_filter.program(profile))  # a pipe takes the longest that the kernel does
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as pipe:
        program = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return None
    assert os.WEXITSTATUS(status) == 0
    return program


@only_here
@given(PROFILES)
@settings(max_examples=40)
def test_any_profile(profile: dict) -> None:
    long = finished(profile)
    assume(long is not None)
    assert long is not None
    short = shorten(long)
    tried = around(constants(long, EQUAL, GREATER, AT_LEAST)) | {0, 41, X32_BIT, X32_BIT | 41}
    arguments = [(value,) * 6 for value in (0, 1, 5, 40, 41, 1 << 31, 0xFFFFFFFF, 1 << 32, 1 << 32 | 5, (1 << 64) - 1)]
    for arch in (X86_64, X86, AARCH64):
        for number in tried:
            for values in [*arguments, (0, 1, 2, 40, 5, 1 << 32)]:
                assert verdict(short, arch, number, values) == verdict(long, arch, number, values)


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """Any program of the instructions that are understood: loads, jumps to and fro among them, an end."""
    length = draw(st.integers(1, 24))
    code = [(LOAD, 0, 0, draw(st.sampled_from([NUMBER, ARCH, 16, 20])))]
    for at in range(1, length):
        left = length - at  # the return is the last one
        jump = st.integers(0, left - 1)
        kind = draw(
            st.sampled_from([LOAD, LOAD, EQUAL, EQUAL, GREATER, AT_LEAST, ANY_BIT, AND, JUMP, RETURN, 0x02, 0x60])
        )
        if kind == LOAD:
            code.append((LOAD, 0, 0, draw(st.sampled_from([NUMBER, ARCH, 16, 20]))))
        elif kind == JUMP:
            code.append((JUMP, 0, 0, draw(jump)))
        elif kind == RETURN:
            code.append((RETURN, 0, 0, draw(st.sampled_from([ALLOW, ERRNO | 1, ERRNO | 38]))))
        elif kind in (0x02, 0x60):
            code.append((kind, 0, 0, draw(st.integers(0, 1))))
        else:
            k = draw(st.sampled_from([0, 1, 2, 3, X86_64, X86, 0xFFFFFFFF]))
            code.append((kind, draw(jump), draw(jump), k) if kind != AND else (AND, 0, 0, k))
    code.append((RETURN, 0, 0, draw(st.sampled_from([ALLOW, ERRNO | 1]))))
    return b"".join(struct.pack("=HBBI", *line) for line in code)


@given(programs())
@settings(max_examples=400)
def test_any_program(long: bytes) -> None:
    short = shorten(long)
    assert len(short) <= len(long)
    for arch in (X86_64, X86, 1):
        for number in (0, 1, 2, 3, 4, X86, X86_64, 0xFFFFFFFF):
            for value in (0, 1, 2, 3, X86_64, 1 << 32, 2 << 32 | 1, (1 << 64) - 1):
                assert verdict(short, arch, number, (value,)) == verdict(long, arch, number, (value,))


def lines(count: int) -> Iterator[bytes]:
    yield struct.pack("=HBBI", LOAD, 0, 0, NUMBER)
    for number in range(count):
        # Every second number, and each with an end of its own: nothing to join, and every jump is far.
        yield struct.pack("=HBBI", EQUAL, 0, 1, number * 2)
        yield struct.pack("=HBBI", RETURN, 0, 0, ERRNO | number % 4096)
    yield struct.pack("=HBBI", RETURN, 0, 0, ALLOW)


def test_ends_that_are_far_apart() -> None:
    long = b"".join(lines(1500))
    short = shorten(long)
    for number in range(3010):
        assert verdict(short, X86_64, number) == verdict(long, X86_64, number)
    assert all(then <= 255 and otherwise <= 255 for _, then, otherwise, _ in struct.iter_unpack("=HBBI", short))


def test_a_range_takes_one_comparison() -> None:
    listed = [struct.pack("=HBBI", LOAD, 0, 0, NUMBER)]
    listed += [struct.pack("=HBBI", EQUAL, 100 - number, 0, number) for number in range(100)]
    listed += [struct.pack("=HBBI", RETURN, 0, 0, ERRNO | 1), struct.pack("=HBBI", RETURN, 0, 0, ALLOW)]
    short = same_verdicts(b"".join(listed), (X86_64,))
    assert len(short) // 8 <= 6


@pytest.mark.parametrize("foreign", [(0x30, 0, 0, 0), (LOAD, 0, 0, 12), (0x15, 9, 9, 1)])
def test_what_is_not_understood_stays(foreign: tuple[int, int, int, int]) -> None:
    """Another instruction, and jumps that lead out of the program."""
    long = struct.pack("=HBBI", *foreign) + struct.pack("=HBBI", RETURN, 0, 0, ALLOW)
    assert shorten(long) in (long, struct.pack("=HBBI", RETURN, 0, 0, ALLOW))
