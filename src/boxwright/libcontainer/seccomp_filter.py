"""OCI `linux.seccomp` → compiled filter, through libseccomp.  For the engine and the runtime command, not for init."""

import struct

from boxwright.errdefs import InvalidParameter, System
from boxwright.libcontainer import seccomp, seccomp_ranges
from boxwright.linux import libseccomp
from boxwright.linux.seccomp import (
    FILTER_FLAG_LOG,
    FILTER_FLAG_SPEC_ALLOW,
    FILTER_FLAG_TSYNC,
    FILTER_FLAG_WAIT_KILLABLE_RECV,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]

_EPERM, _ENOSYS = 1, 38

ACTIONS = {
    "SCMP_ACT_KILL": libseccomp.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": libseccomp.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": libseccomp.KILL_PROCESS,
    "SCMP_ACT_TRAP": libseccomp.TRAP,
    "SCMP_ACT_ERRNO": libseccomp.ERRNO,
    "SCMP_ACT_TRACE": libseccomp.TRACE,
    "SCMP_ACT_LOG": libseccomp.LOG,
    "SCMP_ACT_ALLOW": libseccomp.ALLOW,
}
_WITH_NUMBER = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
# Default actions under which a call that the profile's author did not know goes through anyway.
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

OPERATORS = {
    "SCMP_CMP_NE": libseccomp.NE,
    "SCMP_CMP_LT": libseccomp.LT,
    "SCMP_CMP_LE": libseccomp.LE,
    "SCMP_CMP_EQ": libseccomp.EQ,
    "SCMP_CMP_GE": libseccomp.GE,
    "SCMP_CMP_GT": libseccomp.GT,
    "SCMP_CMP_MASKED_EQ": libseccomp.MASKED_EQ,
}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": FILTER_FLAG_WAIT_KILLABLE_RECV,
}
_PREFIX = "SCMP_ARCH_"
_X32_BIT = 0x40000000


def compile(config: "Config") -> bytes:
    """The compiled filter (see `libcontainer.seccomp`) of an OCI `linux.seccomp` object.

    As with runc, system calls that libseccomp does not know count for nothing, and a call with a number above all that
    the profile knows fails with ENOSYS and not with the default, so that C libraries fall back to what they used
    before.  Raises InvalidParameter for a malformed profile, System when the library fails.
    """
    try:
        return seccomp.pack(seccomp_ranges.shorten(program(config)), _flags(config))
    except OSError as error:
        raise System(f"seccomp: {error.strerror}: {error.filename or ''}".rstrip(": ")) from error


def action(name: object, number: object) -> int:
    """The SECCOMP_RET_* value of an action and its errnoRet (EPERM when absent)."""
    if name == "SCMP_ACT_NOTIFY":
        raise InvalidParameter("seccomp: SCMP_ACT_NOTIFY is not supported: there is no listener to ask")
    if not isinstance(name, str) or name not in ACTIONS:
        raise InvalidParameter(f"seccomp: no such action: {name}")
    if name not in _WITH_NUMBER:
        return ACTIONS[name]
    if number is None:
        number = _EPERM
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 0xFFFF:
        raise InvalidParameter(f"seccomp: no such errnoRet: {number}")
    return ACTIONS[name] | number


def program(config: "Config") -> bytes:
    """The program as libseccomp writes it, with what is unknown to it before; `compile` makes it shorter."""
    default = action(config.get("defaultAction"), config.get("defaultErrnoRet"))
    architectures = _architectures(config.get("architectures") or [])
    calls = config.get("syscalls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise InvalidParameter("seccomp: syscalls must be an array of objects")
    with libseccomp.Filter(default) as built:
        for name, token in architectures.items():
            built.add_architecture(token, name)
        for call in calls:
            wanted = action(call.get("action"), call.get("errnoRet"))
            if wanted != default:
                for name in call.get("names") or []:
                    _add(built, wanted, name, call.get("args") or [])
        written = built.export()
    if config["defaultAction"] in _PERMISSIVE or config.get("defaultErrnoRet") == _ENOSYS:
        return written
    names = {name for call in calls for name in call.get("names") or []}
    return unknown_is_enosys(_highest(architectures or {"": libseccomp.native()}, names)) + written


def _architectures(names: list[object]) -> dict[str, int]:
    tokens = {}
    for name in names:
        if not isinstance(name, str) or not name.startswith(_PREFIX):
            raise InvalidParameter(f"seccomp: no such architecture: {name}")
        token = libseccomp.architecture(name[len(_PREFIX) :].lower())
        if not token:
            raise InvalidParameter(f"seccomp: this libseccomp does not know the architecture {name}")
        tokens[name] = token
    return tokens


def _add(built: libseccomp.Filter, wanted: int, name: str, arguments: "list[Config]") -> None:
    number = libseccomp.number(name)
    if number is None:
        return
    compared = [_argument(item, name) for item in arguments]
    if len({c.index for c in compared}) == len(compared):
        built.add_rule(wanted, number, name, compared)
        return
    # The library takes one comparison an argument in a rule.  Docker and runc read several as alternatives.
    for one in compared:
        built.add_rule(wanted, number, name, [one])


def _argument(item: "Config", name: str) -> libseccomp.Argument:
    index, operator = item.get("index", 0), item.get("op")
    first, second = item.get("value", 0), item.get("valueTwo", 0)
    if type(index) is not int or not 0 <= index <= 5:
        raise InvalidParameter(f"seccomp: {name} has no argument {index}")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise InvalidParameter(f"seccomp: no such comparison for {name}: {operator}")
    for value in (first, second):
        if type(value) is not int or not 0 <= value < 1 << 64:
            raise InvalidParameter(f"seccomp: no such value for {name}: {value}")
    return libseccomp.Argument(index, OPERATORS[operator], first, second)


def _flags(config: "Config") -> int:
    names = config.get("flags")
    if names is None:
        # Without it every process under a filter would pay for the speculative store bypass mitigation before 5.16.
        return FILTER_FLAG_SPEC_ALLOW
    result = 0
    for name in names:
        if name not in FLAGS:
            raise InvalidParameter(f"seccomp: no such flag: {name}")
        # One thread installs it, before it makes others.
        result |= FLAGS[name] & ~FILTER_FLAG_TSYNC
    return result


def _highest(architectures: dict[str, int], names: set[str]) -> dict[int, int]:
    """Architecture token → the highest number among the named system calls."""
    highest = {}
    for token in architectures.values():
        numbers = [n for name in names if (n := libseccomp.number(name, token)) is not None and n >= 0]
        if numbers:
            highest[token] = max(numbers)
    return highest


# Classic BPF (include/uapi/linux/bpf_common.h); offsets in struct seccomp_data.
_LOAD, _JUMP, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4
_X86_64, _X32 = 0xC000003E, 0x4000003E


def _line(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def unknown_is_enosys(highest: dict[int, int]) -> bytes:
    """Instructions to put before a program: a call above the highest known number of its architecture is ENOSYS.

    x32 shares the architecture of x86_64 and marks its calls with a bit.  libseccomp's program begins with a load of
    its own, so falling through to it with anything in the accumulator is fine.
    """
    blocks: list[list[bytes]] = []
    enosys = _line(_RETURN, libseccomp.ERRNO | _ENOSYS)
    for token, top in highest.items():
        if token == _X32:
            continue
        body = [_line(_LOAD, _NUMBER_OFFSET)]
        if token == _X86_64:
            # Without x32 in the profile its calls fall through to the program, which knows what to do with them.
            x32 = highest.get(_X32)
            if x32 is None:
                body.append(_line(_IF_AT_LEAST, _X32_BIT, 2, 0))
            else:
                body += [_line(_IF_AT_LEAST, _X32_BIT, 0, 1), _line(_IF_GREATER, x32 | _X32_BIT, 1, 2)]
        body += [_line(_IF_GREATER, top, 0, 1), enosys]
        blocks.append(body)
    return _chain(blocks, [token for token in highest if token != _X32])


def _chain(blocks: list[list[bytes]], tokens: list[int]) -> bytes:
    """Each block under its architecture; after a block, jump over the others to the program."""
    if not blocks:
        return b""
    code = [_line(_LOAD, _ARCH_OFFSET)]
    left = sum(len(block) + 2 for block in blocks)
    for token, block in zip(tokens, blocks, strict=True):
        left -= len(block) + 2
        code += [_line(_IF_EQUAL, token, 0, len(block) + 1), *block, _line(_JUMP, left)]
    return b"".join(code)
