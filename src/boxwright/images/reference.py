"""Image references: Docker's grammar and its normalisation.

    reference       := name [ ":" tag ] [ "@" digest ]
    name            := [ domain "/" ] path
    path            := component *( "/" component )
    component       := alnum *( separator alnum ),   alnum := [a-z0-9]+,   separator := "." | "_" | "__" | "-"+
    domain          := host [ ":" port ],            host := domain name | IPv4 | "[" IPv6 "]"
    tag             := [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
    digest          := algorithm ":" hex, 32 or more

`busybox`, the familiar form, stands for `docker.io/library/busybox`, the normalised one, which is what is stored.
"""

import re
from typing import NamedTuple

from boxwright.errdefs import InvalidParameter

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
DEFAULT_TAG = "latest"
LONGEST_NAME = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

# fullmatch, never match: "$" would accept a newline at the end.
_REFERENCE = re.compile(rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")
_TAG_ONLY = re.compile(_TAG)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")

_MALFORMED = "invalid reference format"


class Reference(NamedTuple):
    """A normalised reference: `domain` and `path` are never empty, `tag` and `digest` may be."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def of(cls, name: str, tag: str, digest: str) -> "Reference":
        """From a normalised repository name."""
        domain, _, path = name.partition("/")
        return cls(domain, path, tag, digest)

    @property
    def name(self) -> str:
        """The normalised repository, "docker.io/library/busybox"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it, "busybox"."""
        return familiar(self.name)

    def with_default_tag(self) -> "Reference":
        """With the tag "latest" if there is neither tag nor digest."""
        return self if self.tag or self.digest else self._replace(tag=DEFAULT_TAG)

    def __str__(self) -> str:
        """The familiar form, which `parse` reads back to the same reference."""
        return _join(self.familiar_name, self.tag, self.digest)


def familiar(name: str) -> str:
    """The short form of a normalised repository name, which reads back to the same."""
    if not name.startswith(f"{DEFAULT_DOMAIN}/"):
        return name
    path = name[len(DEFAULT_DOMAIN) + 1 :]
    first, slash, rest = path.partition("/")
    if first == "library" and slash and "/" not in rest:
        return rest
    return name if slash and _is_domain(first) else path


def parse(text: str) -> Reference:
    """Read a reference in familiar or normalised form.

    Raises InvalidParameter with the texts that clients know: "invalid reference format", "invalid reference format:
    repository name (library/Foo) must be lowercase".
    """
    if _IDENTIFIER.fullmatch(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    path = remainder.partition(":")[0]
    if path.lower() != path:
        raise InvalidParameter(f"{_MALFORMED}: repository name ({path}) must be lowercase")
    found = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if found is None:
        raise InvalidParameter(_MALFORMED)
    if len(found["path"]) > LONGEST_NAME:
        raise InvalidParameter(f"repository name must not be more than {LONGEST_NAME} characters")
    if found["digest"]:
        _check_digest(found["digest"])
    return Reference(found["domain"], found["path"], found["tag"] or "", found["digest"] or "")


def parse_any(text: str) -> Reference | str:
    """A reference, or the image id "sha256:…" when `text` is a whole id, with or without the algorithm.

    Raises InvalidParameter as `parse` does.
    """
    if _IDENTIFIER.fullmatch(text):
        return f"sha256:{text}"
    if text.startswith("sha256:") and _IDENTIFIER.fullmatch(text[7:]):
        return text
    return parse(text)


def parse_tag(tag: str) -> str:
    """`tag` if it is one.  Raises InvalidParameter("invalid tag format")."""
    if not _TAG_ONLY.fullmatch(tag):
        raise InvalidParameter("invalid tag format")
    return tag


def _is_domain(component: str) -> bool:
    """Whether the first component names a registry: it has a dot, a port or capitals, or is "localhost"."""
    return component == "localhost" or component.lower() != component or any(c in ".:" for c in component)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    domain, rest = (first, rest) if slash and _is_domain(first) else (DEFAULT_DOMAIN, text)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = f"library/{rest}"
    return domain, rest


def _check_digest(digest: str) -> None:
    algorithm, _, value = digest.partition(":")
    length = {"sha256": 64, "sha384": 96, "sha512": 128}.get(algorithm)
    if length is None:
        raise InvalidParameter("unsupported digest algorithm")
    if len(value) != length:
        raise InvalidParameter("invalid checksum digest length")
    if value.lower() != value:
        raise InvalidParameter("invalid checksum digest format")


def _join(name: str, tag: str, digest: str) -> str:
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
