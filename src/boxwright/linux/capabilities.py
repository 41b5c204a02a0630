"""Capabilities: names, numbers and the five sets (capabilities(7)).

Numbers are those of include/uapi/linux/capability.h; a name is OCI's ("CAP_CHOWN").
"""

import ctypes

from boxwright.linux import process
from boxwright.linux.libc import syscall

_ORDER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NUMBERS: dict[str, int] = {"CAP_" + name: number for number, name in enumerate(_ORDER.split())}
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def mask(names: "list[str]") -> int:
    """The bits of `names`; raises KeyError for a name that is none."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def permitted() -> int:
    """Our permitted set."""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    syscall("capget", "", ctypes.byref(header), ctypes.byref(data))
    return int(data[0].permitted) | int(data[1].permitted) << 32


def bounding() -> int:
    """Our bounding set."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapBnd:"):
                return int(line[7:], 16)
    return 0


def every() -> int:
    """All capabilities of this kernel: what a process has that enters a user namespace."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return (2 << int(file.read())) - 1


def limit_bounding(bits: int, present: int) -> None:
    """Drop from the bounding set what is in `present` (see `bounding`) and not in `bits`; needs CAP_SETPCAP."""
    dropped = present & ~bits
    number = 0
    while dropped:
        if dropped & 1:
            process.drop_bounding(number)
        dropped >>= 1
        number += 1


def apply(effective: int, permitted: int, inheritable: int, ambient: int) -> None:
    """Set the four sets of this thread.

    inheritable is 0 for every container (CVE-2022-29162) but for what `ambient` needs: the kernel takes into the
    ambient set only what is permitted and inheritable.
    """
    inheritable |= ambient
    data = (_Data * 2)()
    for index, shift in ((0, 0), (1, 32)):
        data[index].effective = effective >> shift & 0xFFFFFFFF
        data[index].permitted = permitted >> shift & 0xFFFFFFFF
        data[index].inheritable = inheritable >> shift & 0xFFFFFFFF
    header = _Header(_VERSION_3, 0)
    syscall("capset", f"permitted {permitted:x}", ctypes.byref(header), ctypes.byref(data))
    process.clear_ambient()
    number = 0
    while ambient:
        if ambient & 1:
            process.raise_ambient(number)
        ambient >>= 1
        number += 1
