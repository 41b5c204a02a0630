"""bpf(2) for cgroup programs, and the few eBPF instructions that they need (include/uapi/linux/bpf.h)."""

import ctypes
import os
import struct

from boxwright.linux.libc import syscall

PROG_TYPE_CGROUP_DEVICE = 15
CGROUP_DEVICE = 6
"""The attach type that is asked for every open and mknod of a device node."""
F_ALLOW_MULTI = 2
F_REPLACE = 4

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_MAX_PROGRAMS = 64


def load(kind: int, attach_type: int, code: bytes, name: str) -> int:
    """A descriptor of a new program, close-on-exec.  `name` is at most 15 letters, digits and underscores.

    When the verifier refuses, the OSError's text carries the last lines of its log.
    """
    text = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    try:
        return _load(kind, attach_type, text, licence, name, None)
    except OSError as first:
        if first.errno not in (13, 22):  # EACCES, EINVAL: the verifier's
            raise
        log = ctypes.create_string_buffer(16384)
        try:
            return _load(kind, attach_type, text, licence, name, log)
        except OSError as error:
            said = " | ".join(log.value.decode(errors="replace").strip().splitlines()[-3:])
            raise OSError(error.errno, f"{error.strerror} ({said})", error.filename) from error


def _load(  # type: ignore[no-untyped-def]
    kind: int, attach_type: int, text, licence, name: str, log
) -> int:
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        kind,
        len(text) // 8,
        ctypes.addressof(text),
        ctypes.addressof(licence),
        1 if log is not None else 0,
        len(log) if log is not None else 0,
        ctypes.addressof(log) if log is not None else 0,
        0,
        0,
        name.encode()[:15],
        0,
        attach_type,
    )
    return _bpf(_PROG_LOAD, attributes, f"program {name}")


def attach(group: int, program: int, attach_type: int, flags: int, path: str, replaced: int = 0) -> None:
    """Attach to the cgroup of descriptor `group`; with F_REPLACE in place of the program of descriptor `replaced`."""
    _bpf(_PROG_ATTACH, struct.pack("=5I", group, program, attach_type, flags, replaced), path)


def detach(group: int, program: int, attach_type: int, path: str) -> None:
    """Take the program of descriptor `program` off the cgroup of descriptor `group`."""
    _bpf(_PROG_DETACH, struct.pack("=4I", group, program, attach_type, 0), path)


def query(group: int, attach_type: int, path: str) -> list[int]:
    """Ids of the programs attached to this cgroup itself, oldest first."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attributes = ctypes.create_string_buffer(
        struct.pack("=4IQI4x", group, attach_type, 0, 0, ctypes.addressof(ids), _MAX_PROGRAMS), 32
    )
    syscall("bpf", path, _PROG_QUERY, attributes, len(attributes))
    (count,) = struct.unpack_from("=I", attributes, 24)
    return list(ids[:count])


def by_id(program_id: int) -> int:
    """A descriptor of a loaded program."""
    return _bpf(_PROG_GET_FD_BY_ID, struct.pack("=3I", program_id, 0, 0), f"program id {program_id}")


def _bpf(command: int, attributes: bytes, path: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = syscall("bpf", path, command, buffer, len(attributes))
    if command in (_PROG_LOAD, _PROG_GET_FD_BY_ID):
        os.set_inheritable(result, False)
    return result


# Instructions: opcode, destination and source register, jump offset, immediate.


def _instruction(opcode: int, dst: int, src: int, offset: int, immediate: int) -> bytes:
    return struct.pack("=BBhi", opcode, dst | src << 4, offset, immediate)


def load32(dst: int, src: int, offset: int) -> bytes:
    """dst = *(u32 *)(src + offset)"""
    return _instruction(0x61, dst, src, offset, 0)


def mov(dst: int, src: int) -> bytes:
    """dst = src"""
    return _instruction(0xBF, dst, src, 0, 0)


def mov_imm(dst: int, value: int) -> bytes:
    """dst = value"""
    return _instruction(0xB7, dst, 0, 0, value)


def and_imm(dst: int, value: int) -> bytes:
    """dst &= value"""
    return _instruction(0x57, dst, 0, 0, value)


def rsh_imm(dst: int, value: int) -> bytes:
    """dst >>= value"""
    return _instruction(0x77, dst, 0, 0, value)


def jump_is_imm(dst: int, value: int, offset: int) -> bytes:
    """if dst == value, skip `offset` instructions"""
    return _instruction(0x15, dst, 0, offset, value)


def jump_not_imm(dst: int, value: int, offset: int) -> bytes:
    """if dst != value, skip `offset` instructions"""
    return _instruction(0x55, dst, 0, offset, value)


def jump_not(dst: int, src: int, offset: int) -> bytes:
    """if dst != src, skip `offset` instructions"""
    return _instruction(0x5D, dst, src, offset, 0)


def exit_() -> bytes:
    """return r0"""
    return _instruction(0x95, 0, 0, 0, 0)


def with_offset(jump: bytes, offset: int) -> bytes:
    """The same jump with its distance filled in."""
    return jump[:2] + struct.pack("=h", offset) + jump[4:]
