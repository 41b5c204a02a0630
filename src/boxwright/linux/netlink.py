"""Route netlink by hand-packed messages: the few that a container's network needs, several of them in one send.

A message is a value `(operation, path, type, flags, body)`; `Socket.transact` sends a list of them in one system call
and collects the replies.  The kernel works the messages off in order, goes on after one that fails, and answers each
failure; so only the last message asks for an acknowledgement (NLM_F_ACK), and one send and one receive do for all.
Sources: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,if_bridge,veth}.h.

Light imports only.
"""

import ctypes
import errno
import os
import socket
import struct

from boxwright.linux.libc import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Message = tuple[str, str, int, int, bytes]  # operation, path, nlmsg_type, extra nlmsg_flags, body

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst len, src len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_ERROR = struct.Struct("=i")  # nlmsgerr: negative errno, then the request's header
_U32 = struct.Struct("=I")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _EXCL, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_CAPPED, _ACK_TLVS = 0x100, 0x200  # flags of an error reply
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_NLA_NESTED, _NLA_TYPE = 0x8000, 0x3FFF

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 20, 22, 24, 26
_RTMGRP_LINK = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_NET_NS_FD, IFLA_IFALIAS, IFLA_AF_SPEC = 28, 20, 26
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_BRPORT_MODE = 4  # hairpin: frames may leave by the port that they came from
_INET_CONF, _IPV4_DEVCONF_ROUTE_LOCALNET = 1, 26
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
_TABLE_MAIN, _PROTOCOL_BOOT, _SCOPE_UNIVERSE, _TYPE_UNICAST = 254, 3, 0, 1
IFF_UP = 1


class Socket:
    """A netlink socket: opened in the calling thread's network namespace, or borrowed.

    fd: a netlink descriptor that stays the caller's (such as the one that a child opened in its namespace), or -1.
    protocol: NETLINK_ROUTE, or another family's number.
    Blocking: the kernel may hold a send while it waits for its RTNL lock, so not for an event loop's thread.
    """

    __slots__ = ("_borrowed", "_sequence", "_socket")

    def __init__(self, fd: int = -1, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._borrowed = fd >= 0
        self._sequence = 0
        if self._borrowed:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol, fileno=fd)
            self._socket.setblocking(True)
        else:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)

    def close(self) -> None:
        """Close it; a borrowed descriptor stays open."""
        if self._borrowed:
            self._socket.detach()
        else:
            self._socket.close()

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def transact(self, messages: "Sequence[Message]") -> "list[tuple[int, bytes]]":
        """Send `messages` in one call; returns (type, body) of every reply that is not an acknowledgement.

        All messages are carried out even when one fails; then the first failure is raised as OSError that names the
        message's operation and path and carries the kernel's own words, where it has any.
        """
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(messages)
        parts: list[bytes] = []
        for number, (_, _, kind, flags, body) in enumerate(messages, start=first):
            flags |= _REQUEST | (_ACK if number == last else 0)
            parts += (_HEADER.pack(16 + len(body), kind, flags, number, 0), body)
        self._socket.send(b"".join(parts))
        replies: list[tuple[int, bytes]] = []
        failure: OSError | None = None
        while True:
            for kind, sequence, flags, body in _messages(self._socket.recv(32768)):
                if sequence < first:
                    continue  # a late answer to an exchange that was given up
                if kind != _NLMSG_ERROR:
                    replies.append((kind, body))
                    continue
                (number,) = _ERROR.unpack_from(body)
                if number and failure is None:
                    failure = _failure(messages[sequence - first], -number, flags, body)
                if sequence == last:
                    if failure is not None:
                        raise failure
                    return replies

    def dump(self, message: "Message") -> "list[tuple[int, bytes]]":
        """Ask for all objects of a kind; returns (type, body) of each.  A dump that raced a change is taken again."""
        operation, path, kind, _, body = message
        for _ in range(10):
            self._sequence += 1
            header = _HEADER.pack(16 + len(body), kind, _REQUEST | _DUMP, self._sequence, 0)
            self._socket.send(header + body)
            replies, whole = self._collect(message)
            if whole:
                return replies
        raise fault(errno.EINTR, operation, path)

    def _collect(self, message: "Message") -> "tuple[list[tuple[int, bytes]], bool]":
        replies: list[tuple[int, bytes]] = []
        whole = True
        while True:
            for kind, sequence, flags, body in _messages(self._socket.recv(65536)):
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & 0x10  # NLM_F_DUMP_INTR: the table changed between two parts
                if kind == _NLMSG_DONE:
                    return replies, whole
                if kind == _NLMSG_ERROR:
                    raise _failure(message, -_ERROR.unpack_from(body)[0], flags, body)
                replies.append((kind, body))


class DeletionMonitor:
    """A non-blocking socket on which the kernel reports each interface that is gone from this network namespace.

    A socket filter drops everything else in the kernel: a veth's life makes some ten messages, one of which counts.
    """

    __slots__ = ("_socket",)

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            _attach_filter(self._socket, _DELLINK_ONLY)
            # A burst of deletions: one batch of dying namespaces can be hundreds of interfaces.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self._socket.bind((0, _RTMGRP_LINK))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> "list[str] | None":
        """Names of interfaces that are gone, [] when there is nothing; None when reports were lost (look yourself)."""
        names: list[str] = []
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return names
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise
            for kind, _, _, body in _messages(data):
                if kind == RTM_DELLINK and (name := attributes(body, _IFINFO.size).get(IFLA_IFNAME)):
                    names.append(_text(name))


class LinkInfo:
    """One interface.  master: index of the bridge that it is a port of, or 0.  alias: ifalias, or ""."""

    __slots__ = ("address", "alias", "index", "master", "name", "up")

    def __init__(self, body: bytes) -> None:
        _, _, self.index, flags, _ = _IFINFO.unpack_from(body)
        found = attributes(body, _IFINFO.size)
        self.up = bool(flags & IFF_UP)
        self.name = _text(found.get(IFLA_IFNAME, b""))
        self.alias = _text(found.get(IFLA_IFALIAS, b""))
        self.address = found.get(IFLA_ADDRESS, b"")
        self.master = _U32.unpack(found[IFLA_MASTER])[0] if IFLA_MASTER in found else 0


def new_veth(name: str, master: int, peer: str, netns_fd: int, peer_mac: bytes, mtu: int) -> "Message":
    """Make a veth pair: `name` here, a port of bridge `master`; `peer` in the namespace `netns_fd`; both down.

    The peer cannot be brought up in the same message (ENOTCONN: the pair is not joined yet).  mtu 0 is the default.
    """
    # One queue each: by default there is one for each CPU, with its directories in sysfs (0.1 ms on two CPUs); a veth
    # hands packets to the receiving CPU's backlog and uses its queues for XDP only.
    size = attribute(IFLA_NUM_TX_QUEUES, _U32.pack(1)) + attribute(IFLA_NUM_RX_QUEUES, _U32.pack(1))
    size += attribute(IFLA_MTU, _U32.pack(mtu)) if mtu else b""
    far = _IFINFO.pack(0, 0, 0, 0, 0) + _name(peer) + attribute(IFLA_ADDRESS, peer_mac) + size
    far += attribute(IFLA_NET_NS_FD, _U32.pack(netns_fd))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _name(name) + size + attribute(IFLA_MASTER, _U32.pack(master))
    body += nested(IFLA_LINKINFO, attribute(_INFO_KIND, b"veth"), nested(_INFO_DATA, attribute(_VETH_INFO_PEER, far)))
    return ("create veth", name, RTM_NEWLINK, _CREATE | _EXCL, body)


def set_hairpin(name: str) -> "Message":
    """Let frames leave the bridge by the port that they came from: a container that talks to its own published port."""
    data = nested(_INFO_SLAVE_DATA, attribute(_BRPORT_MODE, b"\x01"))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _name(name)
    body += nested(IFLA_LINKINFO, attribute(_INFO_SLAVE_KIND, b"bridge"), data)
    return ("set hairpin mode", name, RTM_NEWLINK, 0, body)


def new_bridge(name: str, mac: bytes, mtu: int, alias: str) -> "list[Message]":
    """Make a bridge that is up.  A fixed MAC, or it would change with its ports; `alias` marks whose it is."""
    size = attribute(IFLA_MTU, _U32.pack(mtu)) if mtu else b""
    body = _IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + _name(name) + attribute(IFLA_ADDRESS, mac) + size
    body += nested(IFLA_LINKINFO, attribute(_INFO_KIND, b"bridge"))
    mark = _IFINFO.pack(0, 0, 0, 0, 0) + _name(name) + attribute(IFLA_IFALIAS, alias.encode() + b"\0")
    return [
        ("create bridge", name, RTM_NEWLINK, _CREATE | _EXCL, body),
        ("set alias", name, RTM_SETLINK, 0, mark),
    ]


def route_localnet(name: str) -> "Message":
    """Let the interface route 127.0.0.0/8 (net.ipv4.conf.NAME.route_localnet=1)."""
    one = attribute(_IPV4_DEVCONF_ROUTE_LOCALNET, _U32.pack(1))
    family = nested(socket.AF_INET, nested(_INET_CONF, one))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _name(name) + nested(IFLA_AF_SPEC, family)
    return ("set route_localnet", name, RTM_SETLINK, 0, body)


def no_ipv6_address(name: str) -> "Message":
    """Give the interface no IPv6 link-local address when it comes up (and spare it duplicate address detection)."""
    mode = nested(socket.AF_INET6, attribute(_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE])))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _name(name) + nested(IFLA_AF_SPEC, mode)
    return ("set addr_gen_mode", name, RTM_SETLINK, 0, body)


def set_up(name: str) -> "Message":
    """Bring an interface up."""
    return ("set up", name, RTM_SETLINK, 0, _IFINFO.pack(0, 0, 0, IFF_UP, IFF_UP) + _name(name))


def delete_link(name: str) -> "Message":
    """Delete an interface (a veth takes 19 to 35 ms)."""
    return ("delete link", name, RTM_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _name(name))


def get_link(name: str) -> "Message":
    """Ask for one interface by name; the reply's body goes into `LinkInfo`."""
    return ("get link", name, RTM_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _name(name))


def new_address(index: int, address: bytes, prefix_length: int, broadcast: bytes, path: str) -> "Message":
    """Give interface `index` an IPv4 address; bytes in network order; `path` is for the error's text."""
    body = _IFADDR.pack(socket.AF_INET, prefix_length, 0, _SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address) + attribute(IFA_BROADCAST, broadcast)
    return ("add address", path, RTM_NEWADDR, _CREATE | _EXCL, body)


def default_route(gateway: bytes, path: str) -> "Message":
    """Route everything by `gateway` (4 bytes), which must be reachable already."""
    body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, _SCOPE_UNIVERSE, _TYPE_UNICAST, 0)
    return ("add default route", path, RTM_NEWROUTE, _CREATE | _EXCL, body + attribute(RTA_GATEWAY, gateway))


def links(sock: Socket) -> list[LinkInfo]:
    """Every interface of the socket's network namespace."""
    message = ("list links", "", RTM_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0))
    return [LinkInfo(body) for kind, body in sock.dump(message) if kind == RTM_NEWLINK]


def link(sock: Socket, name: str) -> "LinkInfo | None":
    """The interface `name`, or None."""
    try:
        return LinkInfo(sock.transact([get_link(name)])[0][1])
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def addresses(sock: Socket) -> list[tuple[int, bytes, int]]:
    """Every IPv4 address as (interface index, address, prefix length)."""
    message = ("list addresses", "", RTM_GETADDR, 0, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0))
    found = []
    for kind, body in sock.dump(message):
        family, length, _, _, index = _IFADDR.unpack_from(body)
        local = attributes(body, _IFADDR.size).get(IFA_LOCAL)
        if kind == RTM_NEWADDR and family == socket.AF_INET and local:
            found.append((index, local, length))
    return found


def routes(sock: Socket) -> list[tuple[bytes, int, int]]:
    """IPv4 routes of the main table that have a destination: (destination, prefix length, output interface or 0)."""
    message = ("list routes", "", RTM_GETROUTE, 0, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))
    found = []
    for kind, body in sock.dump(message):
        _, length, _, _, table, _, _, _, _ = _ROUTE.unpack_from(body)
        values = attributes(body, _ROUTE.size)
        table = _U32.unpack(values[RTA_TABLE])[0] if RTA_TABLE in values else table
        if kind == RTM_NEWROUTE and table == _TABLE_MAIN and RTA_DST in values:
            oif = _U32.unpack(values[RTA_OIF])[0] if RTA_OIF in values else 0
            found.append((values[RTA_DST], length, oif))
    return found


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = 4 + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size % 4)


def nested(kind: int, *children: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_NESTED, b"".join(children))


def attributes(body: bytes, offset: int) -> "dict[int, bytes]":
    """The attributes of `body` from `offset` on, by type; the last one wins.  A truncated tail ends the reading."""
    found: dict[int, bytes] = {}
    end = len(body)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < 4 or offset + size > end:
            break
        found[kind & _NLA_TYPE] = body[offset + 4 : offset + size]
        offset += size + (-size % 4)
    return found


def _messages(data: bytes) -> "Iterator[tuple[int, int, int, bytes]]":
    """(type, sequence, flags, body) of each message in one datagram."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < 16 or offset + size > end:
            break
        yield kind, sequence, flags, data[offset + 16 : offset + size]
        offset += size + (-size % 4)


def _failure(message: "Message", number: int, flags: int, body: bytes) -> OSError:
    """The OSError for a failed message; NLMSGERR_ATTR_MSG (1) is the kernel's explanation."""
    operation, path = message[0], message[1]
    if flags & _ACK_TLVS:
        # The request is echoed: its header only when capped, else whole.
        (echoed,) = _U32.unpack_from(body, 4)
        start = 4 + (16 if flags & _CAPPED else (echoed + 3) & ~3)
        if text := attributes(body, start).get(1):
            operation = f"{operation} ({_text(text)})"
    return fault(number, operation, path)


def _name(name: str) -> bytes:
    return attribute(IFLA_IFNAME, os.fsencode(name) + b"\0")


def _text(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))


# Classic BPF: pass RTM_DELLINK of family AF_UNSPEC (a bridge reports a lost port with AF_BRIDGE; the interface lives
# on).  Loads are big-endian, the header is in the machine's order.
_LDH, _LDB, _JEQ, _RET = 0x28, 0x30, 0x15, 0x06
_DELLINK_ONLY = (
    (_LDH, 0, 0, 4),
    (_JEQ, 0, 3, socket.htons(RTM_DELLINK)),
    (_LDB, 0, 0, 16),
    (_JEQ, 0, 1, socket.AF_UNSPEC),
    (_RET, 0, 0, 0xFFFFFFFF),
    (_RET, 0, 0, 0),
)


def _attach_filter(sock: socket.socket, program: "Sequence[tuple[int, int, int, int]]") -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", len(program), ctypes.addressof(code)))  # SO_ATTACH_FILTER
