"""The pseudo-terminal of a container: made in its own devpts, its slave bound over /dev/console, its master sent up.

The slave comes from the master by TIOCGPTPEER, so no path inside the container is ever opened for it (CVE-2025-52565).
"""

import errno
import fcntl
import os
import stat
import struct
import termios

from boxwright.linux import inroot
from boxwright.linux.libc import fault

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_PTMX = os.makedev(5, 2)
_DEVPTS_MAGIC = 0x1CD1  # statfs(2)


def open_pair(devpts_fd: int) -> tuple[int, int]:
    """(master, slave) of a new terminal in the devpts whose root is `devpts_fd`; both close-on-exec.

    `ptmx` there must be devpts' own node: nothing mounted over it, a character device 5:2.
    """
    resolve = inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS | inroot.RESOLVE_NO_XDEV
    master = inroot.openat2(devpts_fd, "ptmx", os.O_RDWR | os.O_NOCTTY, resolve)
    try:
        info = os.fstat(master)
        if not stat.S_ISCHR(info.st_mode) or info.st_rdev != _PTMX:
            raise fault(errno.ENODEV, "open (not a pty multiplexer)", "/dev/pts/ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        return master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise


def is_devpts(fd: int) -> bool:
    """Whether `fd` lies on a devpts."""
    return inroot.filesystem_type(fd) == _DEVPTS_MAGIC


def attach(slave: int) -> None:
    """Make `slave` the standard streams, and close it."""
    for fd in range(3):
        os.dup2(slave, fd, inheritable=True)
    os.close(slave)


def control() -> None:
    """Make the terminal on descriptor 0 the controlling one of this session leader: the program itself, or a helper's
    end would hang it up."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def resize(fd: int, height: int, width: int) -> None:
    """Set the terminal's size in characters; the foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))
