"""libseccomp through ctypes: from rules to a classic BPF program.

The library is loaded at the first use and only in a process that compiles: a container's init installs a program that
was compiled before.  Errors are OSError that name the function and its subject.
"""

import ctypes
import errno
import os

from boxwright.linux.libc import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KILL_PROCESS = 0x80000000
KILL_THREAD = 0
TRAP = 0x00030000
ERRNO = 0x00050000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

NE, LT, LE, EQ, GE, GT, MASKED_EQ = range(1, 8)

_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2
_UNKNOWN = -1


class Version(ctypes.Structure):
    """struct scmp_version"""

    _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]


class Argument(ctypes.Structure):
    """struct scmp_arg_cmp: argument `index` compared with `first`; MASKED_EQ masks with `first`, compares `second`."""

    _fields_ = [
        ("index", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


_library: "Any" = None


def _load() -> "Any":
    global _library
    if _library is not None:
        return _library
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise OSError(errno.ENOENT, f"seccomp needs the library libseccomp (Debian: libseccomp2): {error}") from error
    u32, text, handle, whole = ctypes.c_uint32, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("seccomp_version", ctypes.POINTER(Version), ()),
        ("seccomp_init", handle, (u32,)),
        ("seccomp_release", None, (handle,)),
        ("seccomp_arch_native", u32, ()),
        ("seccomp_arch_resolve_name", u32, (text,)),
        ("seccomp_arch_exist", whole, (handle, u32)),
        ("seccomp_arch_add", whole, (handle, u32)),
        ("seccomp_attr_set", whole, (handle, whole, u32)),
        ("seccomp_syscall_resolve_name", whole, (text,)),
        ("seccomp_syscall_resolve_name_arch", whole, (u32, text)),
        ("seccomp_rule_add_array", whole, (handle, u32, whole, ctypes.c_uint, ctypes.POINTER(Argument))),
        ("seccomp_export_bpf", whole, (handle, whole)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    _library = library
    return library


def version() -> str:
    """The library's version, "2.5.4"."""
    found = _load().seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def architecture(name: str) -> int:
    """The token of an architecture ("x86_64", "x32", ...); 0 when the library does not know it."""
    return int(_load().seccomp_arch_resolve_name(name.encode()))


def native() -> int:
    """The token of this machine's architecture."""
    return int(_load().seccomp_arch_native())


def number(name: str, token: int = 0) -> int | None:
    """The number of a system call on an architecture (0: this machine's).

    Below zero when only other architectures have it, which rules may still name; None when the library does not know
    it at all.
    """
    library = _load()
    encoded = name.encode()
    if token:
        found = library.seccomp_syscall_resolve_name_arch(token, encoded)
    else:
        found = library.seccomp_syscall_resolve_name(encoded)
    return None if found == _UNKNOWN else int(found)


class Filter:
    """A filter being built.  Use as a context manager: the library's memory is freed at the end."""

    __slots__ = ("_handle", "_library")

    def __init__(self, default: int) -> None:
        """default: the action for a call that no rule names.  Calls of an architecture not added kill the thread."""
        self._library = _load()
        self._handle = self._library.seccomp_init(default)
        if not self._handle:
            raise fault(errno.EINVAL, "seccomp_init", f"action {default:#x}")
        # Nine comparisons instead of hundreds for a call, and a quicker check by the kernel at installation.  A library
        # older than 2.5 refuses, and makes a list as it always did.
        self._library.seccomp_attr_set(self._handle, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)

    def __enter__(self) -> "Filter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._library.seccomp_release(self._handle)

    def add_architecture(self, token: int, name: str) -> None:
        """Make the rules that follow count for this architecture too."""
        if self._library.seccomp_arch_exist(self._handle, token) == 0:
            return
        self._check("seccomp_arch_add", name, self._library.seccomp_arch_add(self._handle, token))

    def add_rule(self, action: int, number: int, name: str, arguments: list[Argument]) -> None:
        """`action` for a system call when all of `arguments` hold.  A rule that is there already is fine."""
        array = (Argument * len(arguments))(*arguments)
        result = self._library.seccomp_rule_add_array(self._handle, action, number, len(arguments), array)
        if result != -errno.EEXIST:
            self._check("seccomp_rule_add", name, result)

    def export(self) -> bytes:
        """The classic BPF program, eight bytes an instruction."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check("seccomp_export_bpf", "program", self._library.seccomp_export_bpf(self._handle, fd))
            size = os.fstat(fd).st_size
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)

    def _check(self, function: str, subject: str, result: int) -> None:
        if result < 0:
            raise fault(-result, function, subject)
