"""Where a registry is asked: its mirrors first, then itself; over which scheme, with which certificates.

certs.d is Docker's: <directory>/<host[:port]>/ with *.crt (authorities), and *.cert beside *.key (a client's own).
"""

import asyncio
import os
import socket
import ssl
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

from boxwright.config import Settings
from boxwright.errdefs import InvalidParameter, System
from boxwright.images.reference import DEFAULT_DOMAIN

HUB = "registry-1.docker.io"
HUB_INDEX = "https://index.docker.io/v1/"
# Never reached through a network that others share.
LOOPBACK = ("127.0.0.0/8", "::1/128")
_MOST_CERTIFICATES = 64

Network = IPv4Network | IPv6Network


class Endpoint(NamedTuple):
    """base: "https://host[:port][/path]", before "/v2/".  verify: whether its certificate has to be a good one."""

    base: str
    verify: bool
    mirror: bool

    @property
    def host(self) -> str:
        """Host and port as they are written."""
        return urlsplit(self.base).netloc


def parse_mirror(text: str) -> tuple[str, str]:
    """(registry, base URL) of "[REGISTRY=]http[s]://HOST[/PATH]"; a mirror that names none is Docker Hub's.

    Raises InvalidParameter.
    """
    domain, equals, url = text.partition("=")
    if not equals or "://" in domain:
        domain, url = DEFAULT_DOMAIN, text
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidParameter(f'invalid mirror: "{text}": expected [REGISTRY=]http[s]://HOST[/PATH]')
    if parts.username or parts.password:
        raise InvalidParameter(f'invalid mirror: username/password not allowed in URI "{parts.hostname}"')
    return domain.lower(), url.rstrip("/")


def check_insecure(text: str) -> str:
    """An entry of insecure-registries: a network, or a host with or without a port.  Raises InvalidParameter."""
    if "://" in text:
        raise InvalidParameter(f"insecure registry {text} should not contain '://'")
    if "/" in text and _network(text) is None:
        raise InvalidParameter(f'insecure registry {text} is not valid: invalid host "{text}"')
    if not text or text.startswith("-"):
        raise InvalidParameter(f"insecure registry {text} is not valid: Cannot begin or end with a hyphen")
    return text


async def endpoints(settings: Settings, domain: str, mirrors: bool) -> list[Endpoint]:
    """In the order in which they are to be tried."""
    found = []
    if mirrors:
        for registry, base in map(parse_mirror, settings.registry_mirrors):
            if registry == domain:
                verify = not await _insecure(settings, urlsplit(base).netloc)
                found.append(Endpoint(base, verify, True))
    host = HUB if domain == DEFAULT_DOMAIN else domain
    if not await _insecure(settings, domain):
        return [*found, Endpoint(f"https://{host}", True, False)]
    return [*found, Endpoint(f"https://{host}", False, False), Endpoint(f"http://{host}", False, False)]


async def _insecure(settings: Settings, domain: str) -> bool:
    if domain in settings.insecure_registries:
        return True
    networks = [network for text in (*LOOPBACK, *settings.insecure_registries) if (network := _network(text))]
    host = urlsplit(f"//{domain}").hostname or ""
    if host in settings.insecure_registries:
        return True
    addresses = [ip_address(address) for address in await _addresses(host)]
    return any(address in network for address in addresses for network in networks)


async def _addresses(host: str) -> list[str]:
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass
    if host == DEFAULT_DOMAIN:
        return []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []  # whoever connects will say it
    return [str(address[0]).partition("%")[0] for *_, address in found]


def _network(text: str) -> Network | None:
    try:
        return ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def tls_context(settings: Settings, endpoint: Endpoint) -> ssl.SSLContext:
    """What certs.d says of the endpoint's host, beside the system's authorities.

    Raises System for what is there and cannot be used.
    """
    context = ssl.create_default_context()
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for root in settings.registry_certs:
        directory = os.path.join(root, endpoint.host)
        try:
            names = sorted(os.listdir(directory))[:_MOST_CERTIFICATES]
        except OSError:
            continue
        for name in names:
            _load(context, directory, name, names)
    return context


def _load(context: ssl.SSLContext, directory: str, name: str, names: list[str]) -> None:
    path = f"{directory}/{name}"
    try:
        if name.endswith(".crt"):
            context.load_verify_locations(path)
        elif name.endswith(".cert"):
            key = f"{name[:-5]}.key"
            if key not in names:
                raise System(
                    f"missing key {key} for client certificate {name}. CA certificates must use the extension .crt"
                )
            context.load_cert_chain(path, f"{directory}/{key}")
        elif name.endswith(".key") and f"{name[:-4]}.cert" not in names:
            raise System(f"missing client certificate {name[:-4]}.cert for key {name}")
    except (OSError, ssl.SSLError) as error:
        raise System(f"failed to use certificate {path}: {error}") from error


def shown(settings: Settings) -> dict[str, object]:
    """The part of `docker info`'s RegistryConfig that is set."""
    mirrors: dict[str, list[str]] = {DEFAULT_DOMAIN: []}
    for domain, base in map(parse_mirror, settings.registry_mirrors):
        mirrors.setdefault(domain, []).append(f"{base}/")
    insecure = [text for text in settings.insecure_registries if _network(text) is None]
    for domain in insecure:
        mirrors.setdefault(domain, [])
    return {
        "InsecureRegistryCIDRs": [
            *reversed(LOOPBACK), *(text for text in settings.insecure_registries if text not in insecure)
        ],
        "IndexConfigs": {
            domain: {
                "Name": domain,
                "Mirrors": found,
                "Secure": domain not in insecure,
                "Official": domain == DEFAULT_DOMAIN,
            }
            for domain, found in mirrors.items()
        },
        "Mirrors": mirrors[DEFAULT_DOMAIN] or None,
    }  # fmt: skip
