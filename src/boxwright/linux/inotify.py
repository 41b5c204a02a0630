"""inotify(7): notices of changes to files, as a descriptor that can be polled."""

import ctypes
import os
import struct

from boxwright.linux.libc import check, function

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000

_HEADER = struct.Struct("=iIII")
_BUFFER = 65536

_init1 = function("inotify_init1", ctypes.c_int)
_add_watch = function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_rm_watch = function("inotify_rm_watch", ctypes.c_int, ctypes.c_int)


class Event:
    """One notice: watch is what add_watch returned, mask the IN_* bits, name the entry in a watched directory or ""."""

    __slots__ = ("mask", "name", "watch")

    def __init__(self, watch: int, mask: int, name: str) -> None:
        self.watch, self.mask, self.name = watch, mask, name


def init() -> int:
    """A new non-blocking, close-on-exec inotify descriptor."""
    return check("inotify_init1", None, _init1, os.O_CLOEXEC | os.O_NONBLOCK)


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path` for the IN_* events of `mask`; returns the watch number."""
    return check("inotify_add_watch", path, _add_watch, fd, os.fsencode(path), mask)


def rm_watch(fd: int, watch: int) -> None:
    """End a watch; a last event with IN_IGNORED follows."""
    check("inotify_rm_watch", watch, _rm_watch, fd, watch)


def read(fd: int) -> list[Event]:
    """All events that are waiting (at most 64 KiB of them); [] when there is none."""
    try:
        return parse(os.read(fd, _BUFFER))
    except BlockingIOError:
        return []


def parse(data: bytes) -> list[Event]:
    """The events in the bytes of one read(2)."""
    events = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        watch, mask, _, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = data[offset : offset + length].split(b"\0", 1)[0]
        events.append(Event(watch, mask, os.fsdecode(name)))
        offset += length
    return events
