"""Connection tracking over nfnetlink: forgetting what the kernel remembers of UDP ports.

NAT is decided by the first packet of a connection.  A UDP client that keeps sending from one port keeps its entry
alive, and with it the address of a container that is long gone, or none at all when the port was not published yet.
Sources: include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h.

Light imports only.
"""

import errno
import socket
import struct

from boxwright.linux.netlink import Socket, attribute, attributes, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

NETLINK_NETFILTER = 12
_CONNTRACK = 1 << 8  # NFNL_SUBSYS_CTNETLINK, in the upper byte of a message's type
_GET, _DELETE = 1, 2
_HEADER = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id
_TUPLE_ORIG, _ZONE, _FILTER = 1, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IPV4_DST = 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_PROTO_NUM, _BY_DST_PORT = 1 << 3, 1 << 5


def forget_udp(sock: Socket, ports: "Container[int]", single: int, addresses: "Container[bytes]") -> int:
    """Delete the entries of UDP connections to one of `ports` on one of this host's `addresses`; returns how many.

    sock: a socket of NETLINK_NETFILTER.  single: the only port, so that the kernel itself selects (from 5.8 on), or 0.
    addresses: in network order; entries to other hosts (a DNS query on its way out) are left alone.
    """
    header = _HEADER.pack(socket.AF_INET, 0, 0)
    body = header + (_selection(single) if single else b"")
    count = 0
    for _, found in sock.dump(("list connections", "", _CONNTRACK | _GET, 0, body)):
        entry = attributes(found, _HEADER.size)
        original = entry.get(_TUPLE_ORIG, b"")
        parts = attributes(original, 0)
        destination = attributes(parts.get(_TUPLE_IP, b""), 0).get(_IPV4_DST, b"")
        protocol = attributes(parts.get(_TUPLE_PROTO, b""), 0)
        if protocol.get(_PROTO_NUM) != bytes([socket.IPPROTO_UDP]) or destination not in addresses:
            continue
        if int.from_bytes(protocol.get(_PROTO_DST_PORT, b""), "big") in ports:
            count += _delete(sock, header, original, entry.get(_ZONE))
    return count


def _selection(port: int) -> bytes:
    proto = attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])) + attribute(_PROTO_DST_PORT, port.to_bytes(2, "big"))
    flags = struct.pack("=I", _BY_PROTO_NUM | _BY_DST_PORT)
    chosen = nested(_FILTER, attribute(_FILTER_ORIG_FLAGS, flags), attribute(_FILTER_REPLY_FLAGS, bytes(4)))
    return nested(_TUPLE_ORIG, nested(_TUPLE_PROTO, proto)) + chosen


def _delete(sock: Socket, header: bytes, original: bytes, zone: "bytes | None") -> int:
    body = header + nested(_TUPLE_ORIG, original)
    if zone is not None:
        body += attribute(_ZONE, zone)
    try:
        sock.transact([("forget connection", "", _CONNTRACK | _DELETE, 0, body)])
    except OSError as error:
        if error.errno == errno.ENOENT:  # it ended by itself
            return 0
        raise
    return 1
