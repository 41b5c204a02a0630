"""Where a file system puts what is made: a hint for directories whose children have nothing to do with each other.

ext4 does not take an inode again for five seconds after its deletion, and looks for a free one close to the parent: in
a directory where things come and go, each new file searches past everything that went lately (measured: 10,000 files
unpacked after 10,000 were deleted took 8 s instead of 0.4 s; a container's directories 0.9 to 8 ms instead of 0.3 ms).
With the hint each child gets a neighbourhood of its own, which also keeps writers in different children apart.
"""

import fcntl
import os
import struct

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS of 64-bit machines
_TOP_DIRECTORY = 0x00020000  # FS_TOPDIR_FL: `chattr +T`


def spread(directory: str) -> None:
    """Have the children of `directory` placed apart, where the file system knows how to."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = bytearray(8)
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        (value,) = struct.unpack_from("=I", flags)
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("=II", value | _TOP_DIRECTORY, 0))
    except OSError:
        pass  # another file system, or not ours to set: things are as right, only not as fast
    finally:
        os.close(fd)
