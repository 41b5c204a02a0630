"""Installing a compiled seccomp filter.  `engine/seccomp.py` compiles; this is what init and exec run.

A compiled filter is a header (magic, flags of seccomp(2), number of instructions, each four bytes) and the
instructions of a classic BPF program, eight bytes each.
"""

import struct
from errno import EINVAL

from boxwright.errdefs import StepError
from boxwright.linux import seccomp

_HEADER = struct.Struct("=4sII")
_MAGIC = b"BWS1"


def pack(program: bytes, flags: int) -> bytes:
    """A compiled filter from its program and the flags of seccomp(2)."""
    return _HEADER.pack(_MAGIC, flags, len(program) // 8) + program


def unpack(bpf: bytes) -> tuple[bytes, int]:
    """(program, flags) of a compiled filter.  Raises StepError when it is cut or not one."""
    if len(bpf) >= _HEADER.size:
        magic, flags, count = _HEADER.unpack_from(bpf)
        program = bpf[_HEADER.size :]
        if magic == _MAGIC and len(program) == count * 8 and 0 < count <= seccomp.MAX_INSTRUCTIONS:
            return program, flags
    raise StepError("seccomp: the compiled filter is damaged", step="seccomp", operation="check", errno=EINVAL)


def install(bpf: bytes) -> None:
    """Put the filter over the calling thread and what it executes.  Raises StepError.

    Needs no_new_privs, or CAP_SYS_ADMIN still effective: so before the capabilities are dropped unless
    no_new_privs is set.
    """
    program, flags = unpack(bpf)
    try:
        seccomp.set_filter(program, flags)
    except OSError as error:
        raise StepError(
            f"seccomp: cannot install the filter of {len(program) // 8} instructions: {error.strerror}",
            step="seccomp",
            operation="seccomp",
            path="filter",
            errno=error.errno or 0,
        ) from error
