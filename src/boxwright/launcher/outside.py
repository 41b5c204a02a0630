"""A shim seen from outside, by its socket: who it is to the kernel, and its end when it does nothing any more."""

import os
import signal
import struct
from _socket import MSG_DONTWAIT, MSG_PEEK, SO_PEERCRED, SOL_SOCKET, socket

from boxwright.launcher import packets

_CREDENTIALS = "3i"  # struct ucred: pid, uid, gid


def kill(directory: str, name: str) -> bool:
    """SIGKILL the process that listens at the socket; False when nobody does, or too many wait there to get in line."""
    try:
        sock = packets.connect(directory, name)
    except OSError:
        return False
    try:
        return kill_peer(sock)
    finally:
        sock.close()


def kill_peer(sock: socket) -> bool:
    """SIGKILL the process that listens at the socket to which `sock` is connected; False when it is gone."""
    try:
        pid = struct.unpack(_CREDENTIALS, sock.getsockopt(SOL_SOCKET, SO_PEERCRED, struct.calcsize(_CREDENTIALS)))[0]
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # While the connection stands its process does, and the pid is no other's.
        if not _stands(sock):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def _stands(sock: socket) -> bool:
    try:
        return bool(sock.recv(1, MSG_PEEK | MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False
