"""Classic BPF as the kernel runs it for seccomp: enough of an interpreter to ask a filter for its verdict."""

import struct
from functools import lru_cache

ALLOW, KILL_THREAD, ERRNO = 0x7FFF0000, 0, 0x00050000


class ArgumentsWanted(Exception):
    """The verdict depends on the arguments, which were not given."""


def verdict(program: bytes, arch: int, number: int, arguments: tuple[int, ...] | None = ()) -> int:
    """The SECCOMP_RET_* value of `program` for one system call.

    arguments: those left out are 0; None raises ArgumentsWanted when the program looks at one, and so proves, when it
    does not, that the verdict is the same for all.
    """
    values = [] if arguments is None else [a & 0xFFFFFFFFFFFFFFFF for a in (*arguments, *([0] * (6 - len(arguments))))]
    data = struct.pack(f"<IIQ{len(values)}Q", number & 0xFFFFFFFF, arch, 0, *values)
    code = _instructions(program)
    accumulator, memory, at = 0, [0] * 16, 0
    while True:
        operation, then, otherwise, k = code[at]
        at += 1
        match operation:
            case 0x20 if k >= len(data):
                raise ArgumentsWanted
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x02:
                memory[k] = accumulator
            case 0x60:
                accumulator = memory[k]
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += then if accumulator == k else otherwise
            case 0x25:
                at += then if accumulator > k else otherwise
            case 0x35:
                at += then if accumulator >= k else otherwise
            case 0x45:
                at += then if accumulator & k else otherwise
            case 0x06:
                return k
            case _:
                raise AssertionError(f"instruction {operation:#x} at {at - 1}")


@lru_cache(maxsize=16)
def _instructions(program: bytes) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("<HBBI", program))
