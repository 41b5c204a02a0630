"""Texts of a container's /etc/hosts, /etc/resolv.conf and /etc/hostname.  Of files, only the host's own are read."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from boxwright.errdefs import InvalidParameter

_LIMIT = 1 << 20  # bytes of a host file that are read
_PUBLIC_SERVERS = ("8.8.8.8", "8.8.4.4")  # what Docker falls back to
# What systemd-resolved itself uses; /etc/resolv.conf then names only its stub on a loopback address.
_RESOLVED_STUB, _RESOLVED = "127.0.0.53", "/run/systemd/resolve/resolv.conf"

_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


def hosts(
    hostname: str,
    domainname: str = "",
    addresses: Iterable[str] = (),
    extra: Iterable[tuple[str, str]] = (),
    host_copy: bytes | None = None,
) -> str:
    """/etc/hosts of a container.

    addresses: the container's own.  extra: (address, names) of --add-host and --link, written before its own name.
    host_copy: the host's file, which a container in host mode starts from.
    """
    if host_copy is not None:
        text = host_copy.decode(errors="surrogateescape")
        lines = [text if text.endswith("\n") or not text else f"{text}\n"]
    else:
        lines = [f"{address}\t{names}\n" for address, names in _HOSTS]
    lines += [f"{address}\t{names}\n" for address, names in extra]
    # A full name may be in either or in both; its first word is a name too, as with dockerd.
    full = f"{hostname}.{domainname}" if domainname else hostname
    short, dot, _ = full.partition(".")
    own = f"{full} {short}" if dot else full
    lines += [f"{address}\t{own}\n" for address in addresses]
    return "".join(lines)


def hostname(name: str) -> str:
    """/etc/hostname."""
    return f"{name}\n"


def extra_hosts(entries: Iterable[str], gateway: str) -> list[tuple[str, str]]:
    """--add-host entries, "name:address" or "name=address", as (address, name).

    gateway: what the address `host-gateway` stands for.  Raises InvalidParameter with Docker's texts.
    """
    result = []
    for entry in entries:
        separator = "=" if "=" in entry else ":"
        name, found, address = entry.partition(separator)
        if not found or not name or any(c.isspace() for c in name):
            raise InvalidParameter(f"bad format for add-host: {_quoted(entry)}")
        if address == "host-gateway":
            if not gateway:
                raise InvalidParameter(
                    "unable to derive the IP value for host-gateway: the default bridge network is disabled"
                )
            address = gateway
        bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
        try:
            result.append((str(ip_address(bare)), name))
        except ValueError:
            raise InvalidParameter(f"invalid IP address in add-host: {_quoted(address)}") from None
    return result


def resolv_conf(
    host_text: str, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """/etc/resolv.conf of a container on a bridge: the host's, with what the container's settings replace.

    Loopback servers of the host do not answer inside a container's namespace and are left out; when none is left the
    public ones that Docker uses take their place.  search ["."] means no search domains.
    """
    servers = list(dns) or [s for s in nameservers(host_text) if not _is_loopback(s)] or list(_PUBLIC_SERVERS)
    domains = list(search) or _words(host_text, ("search", "domain"))
    settings = list(options) or _words(host_text, ("options",))
    lines = [f"nameserver {server}" for server in servers]
    if domains and domains != ["."]:
        lines.append(f"search {' '.join(domains)}")
    if settings:
        lines.append(f"options {' '.join(settings)}")
    return "\n".join(lines) + "\n"


def host_mode_resolv_conf(
    host_text: str, dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """/etc/resolv.conf in the host's network: the host's own text (its loopback servers do answer), unless replaced."""
    if not (dns or search or options):
        return host_text
    return resolv_conf(host_text, dns or nameservers(host_text), search, options)


def host_resolv_conf(path: str = "/etc/resolv.conf") -> str:
    """The host's resolver configuration, "" without one; systemd-resolved's real one instead of its loopback stub."""
    text = _read(path)
    if nameservers(text) == (_RESOLVED_STUB,):
        return _read(_RESOLVED) or text
    return text


@lru_cache(maxsize=8)
def nameservers(text: str) -> tuple[str, ...]:
    """The valid addresses of `nameserver` lines; asked for at each start, of a text that seldom changes."""
    found = []
    for word in _lines(text, "nameserver"):
        server = word[0] if word else ""
        try:
            ip_address(server.partition("%")[0])
        except ValueError:
            continue
        found.append(server)
    return tuple(found)


def _words(text: str, keywords: tuple[str, ...]) -> list[str]:
    """The words of the last line that begins with one of `keywords`: the resolver's rule for search and domain."""
    found: list[str] = []
    for keyword in keywords:
        for words in _lines(text, keyword):
            found = words
    return found


def _lines(text: str, keyword: str) -> Iterable[list[str]]:
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == keyword:
            yield [word for word in words[1:] if not word.startswith(("#", ";"))]


def _is_loopback(server: str) -> bool:
    return ip_address(server.partition("%")[0]).is_loopback


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT).decode(errors="replace")
    except OSError:
        return ""


def _quoted(text: str) -> str:
    return f'"{text}"'
