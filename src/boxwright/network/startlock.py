"""One engine at a time looks for a free subnet: two that start together would both find the same one free.

The lock is an abstract Unix socket, so its scope is the network namespace, and it ends with its holder.
"""

import errno
import os
import socket
import struct
import time

_NAME = "\0boxwright-subnets"
_SECONDS = 10.0


def acquire() -> socket.socket:
    """Wait for the lock; closing the socket gives it back.  Blocking, on the thread whose namespace counts.

    Goes on without it when its holder is neither root nor of our user, or keeps it for ten seconds: anybody on the
    host could hold the name.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    deadline = time.monotonic() + _SECONDS
    try:
        while True:
            try:
                held.bind(_NAME)
                held.listen(128)
                return held
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            left = deadline - time.monotonic()
            if left <= 0 or not _wait(left):
                return held
    except BaseException:
        held.close()
        raise


def _wait(seconds: float) -> bool:
    """Wait until the holder has closed its socket; False when it is nobody to wait for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as waiting:
        waiting.settimeout(seconds)
        try:
            waiting.connect(_NAME)
            credentials = waiting.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
            if struct.unpack("=iII", credentials)[1] not in (0, os.geteuid()):
                return False
            waiting.recv(1)  # nothing is ever sent: this returns when the holder is gone
        except TimeoutError:
            return False
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:  # it has closed since our bind, or does not listen (yet)
                time.sleep(0.01)
                return True
            return error.errno == errno.ECONNRESET
        return True
