"""Sets in this network namespace that an older libnftables dies of.

Since 1.1 nftables notes with each set of which expressions its key and its data are (attributes that only user space
reads), also where these are plain types.  A libnftables before 1.0.9 calls a function that is not there when it reads
such a note (SIGSEGV), and it reads all sets of all tables before nearly every command.  So they are looked at before
it is asked.
Sources: include/uapi/linux/netfilter/nf_tables.h; libnftnl include/udata.h; nftables include/expression.h.
"""

import struct
import sys
from collections.abc import Iterator

from boxwright.linux.conntrack import NETLINK_NETFILTER
from boxwright.linux.netlink import Socket, attributes

_GET_SETS = 10 << 8 | 10  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETSET
_HEADER = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id
_TABLE, _NAME, _USERDATA = 1, 2, 13
_TYPEOF = (3, 4)  # NFTNL_UDATA_SET_KEY_TYPEOF, NFTNL_UDATA_SET_DATA_TYPEOF
_EXPRESSION, _DATA = 0, 1
_CONCAT = 13
# What those versions read: verdict, payload, exthdr, meta, socket, osf, ct, numgen, hash, rt, fib, xfrm.
_KNOWN = frozenset({1, 7, 8, 9, 10, 11, 12, 23, 24, 25, 26, 27})


def deadly(sock: Socket) -> str:
    """The first one that must not be read, as "TABLE SET"; "" when there is none, or sets cannot be listed at all.

    sock: of NETLINK_NETFILTER.
    """
    try:
        listed = sock.dump(("list sets", "", _GET_SETS, 0, _HEADER.pack(0, 0, 0)))
    except OSError:
        return ""
    for _, body in listed:
        found = attributes(body, _HEADER.size)
        notes = dict(_parts(found.get(_USERDATA, b"")))
        if not all(_is_readable(notes[kind]) for kind in _TYPEOF if kind in notes):
            return f"{_text(found.get(_TABLE))} {_text(found.get(_NAME))}"
    return ""


def open_socket() -> Socket:
    """For `deadly`, in the calling thread's network namespace."""
    return Socket(protocol=NETLINK_NETFILTER)


def _is_readable(note: bytes) -> bool:
    parts = dict(_parts(note))
    kind, data = int.from_bytes(parts.get(_EXPRESSION, b""), sys.byteorder), parts.get(_DATA, b"")
    if kind == _CONCAT:  # of which those versions note nothing more where its parts are plain types
        return all(_is_readable(part) for _, part in _parts(data))
    return kind in _KNOWN


def _parts(notes: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value): libnftnl's format, a byte for each of type and length."""
    offset = 0
    while offset + 2 <= len(notes):
        kind, size = notes[offset], notes[offset + 1]
        yield kind, notes[offset + 2 : offset + 2 + size]
        offset += 2 + size


def _text(name: bytes | None) -> str:
    return (name or b"").rstrip(b"\0").decode(errors="replace")
