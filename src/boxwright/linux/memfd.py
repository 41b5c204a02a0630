"""Our own interpreter, sealed: whatever enters a container must not lead back to a file of the host.

A process's /proc/PID/exe can be opened by root in the container it enters and, if that is a file of the host,
overwritten (CVE-2019-5736).  So what enters runs from a memfd that nothing can write to any more.
"""

import errno
import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_MFD_EXEC = 0x10  # Linux 6.3
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NAME = "boxwright"


def create(name: str) -> int:
    """An executable, sealable memfd.

    With vm.memfd_noexec=1 a memfd is executable only when MFD_EXEC asks for it; kernels before 6.3 do not know the
    flag.  With vm.memfd_noexec=2 this raises PermissionError.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)


def sealed_copy(path: str, name: str = _NAME) -> int:
    """A memfd with the contents of `path` that nobody can change any more."""
    fd = create(name)
    try:
        with open(path, "rb", buffering=0) as source:
            while os.sendfile(fd, source.fileno(), None, 1 << 30):
                pass
        os.fchmod(fd, 0o555)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_only_bind(path: str) -> int:
    """A detached read-only mount of the file `path`: what a process executed from it shows as /proc/PID/exe cannot be
    opened for writing, and no mount namespace holds it in which it could be remounted."""
    from boxwright.linux import mount  # with ctypes, which a sealed start does without

    fd = mount.open_tree(mount.AT_FDCWD, path)
    try:
        mount.set_attributes(fd, mount.ATTR_RDONLY, name=path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_sealed() -> bool:
    """Whether this very process runs from a sealed memfd or from a read-only mount."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            return True
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # EINVAL: no memfd
        return False
    finally:
        os.close(fd)


def execute_sealed(arguments: "Sequence[str]", environment: "dict[str, str]") -> "NoReturn":
    """execve this interpreter again from a sealed copy of its program.

    arguments: what follows the interpreter's name (`-m`, a module, …).

    The interpreter finds its home by its name (argv[0]), not by its program file, so that virtual environments work.
    One that finds its own shared library through $ORIGIN would look beside the memfd: the directory is named in
    LD_LIBRARY_PATH instead (and `forget_library_path` takes it out of the environment again).
    """
    program = os.path.realpath(sys.executable)
    try:
        fd = sealed_copy(program)
    except PermissionError:  # vm.memfd_noexec=2
        fd = read_only_bind(program)
    library = origin_library_directory(program)
    if library:
        environment = {**environment, "LD_LIBRARY_PATH": library, _MARK: environment.get("LD_LIBRARY_PATH", "")}
    os.execve(fd, [sys.executable, *arguments], environment)


_MARK = "BOXWRIGHT_LIBRARY_PATH"


def forget_library_path() -> None:
    """Undo what `execute_sealed` did to the environment."""
    before = os.environ.pop(_MARK, None)
    if before is None:
        return
    if before:
        os.environ["LD_LIBRARY_PATH"] = before
    else:
        os.environ.pop("LD_LIBRARY_PATH", None)


def origin_library_directory(program: str) -> str:
    """Where a program with $ORIGIN in its run path finds libpython, or ""."""
    with open(program, "rb") as file:
        head = file.read(64 << 20)
    if b"$ORIGIN" not in head:
        return ""
    directory = os.path.dirname(program)
    for candidate in (os.path.join(os.path.dirname(directory), "lib"), directory):
        if any(name.startswith("libpython") for name in os.listdir(candidate)):
            return candidate
    return ""
