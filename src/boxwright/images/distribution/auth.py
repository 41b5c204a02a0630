"""Credentials of a client, and the challenges of registries (RFC 9110, section 11; Docker's token protocol)."""

import base64
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from boxwright.errdefs import InvalidParameter

LONGEST_HEADER = 64 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"\s*,*\s*({_TOKEN})(?:\s+|$)(?!=)")
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')


class Credentials(Struct, rename="lower"):
    """What a client knows of itself; all empty when it is nobody.

    identity_token: a refresh token, from an earlier login.  registry_token: sent to the registry as it is.
    """

    username: str = ""
    password: str = ""
    auth: str = ""  # base64 of "username:password", instead of the two
    server_address: str = msgspec.field(default="", name="serveraddress")
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header, "" without a user."""
        if not self.username:
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


NOBODY = Credentials()


def credentials(document: object) -> Credentials:
    """From decoded JSON.  Raises InvalidParameter."""
    if document is None:
        return NOBODY
    if isinstance(document, dict):
        document = {key.lower(): value for key, value in document.items() if value is not None}
    try:
        found = msgspec.convert(document, Credentials)
        if found.auth and not found.username:
            pair = base64.b64decode(found.auth, validate=True).decode()
            found.username, _, found.password = pair.partition(":")
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidParameter(f"invalid credentials: {error}") from None
    return found


def decode(header: str) -> Credentials:
    """From an X-Registry-Auth header: base64url of JSON, padded or not.  Raises InvalidParameter."""
    if not header:
        return NOBODY
    if len(header) > LONGEST_HEADER:
        raise InvalidParameter("invalid X-Registry-Auth header: it is too long")
    try:
        # Clients of all ages: the alphabet of URLs, or the other one; with padding, or without.
        text = header.replace("+", "-").replace("/", "_").rstrip("=")
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return credentials(msgspec.json.decode(data) if data.strip() else None)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid X-Registry-Auth header: {error}") from None
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid X-Registry-Auth header: {error}") from None


class Challenge(NamedTuple):
    """One way to say who one is: `scheme` in small letters, and its parameters by names in small letters."""

    scheme: str
    parameters: dict[str, str]


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read WWW-Authenticate headers; what cannot be read is left out."""
    found: list[Challenge] = []
    for header in headers:
        if len(header) > LONGEST_HEADER:
            continue
        position = 0
        while (scheme := _SCHEME.match(header, position)) is not None:
            position = scheme.end()
            parameters: dict[str, str] = {}
            while (parameter := _PARAMETER.match(header, position)) is not None:
                position = parameter.end()
                value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
                parameters.setdefault(parameter[1].lower(), value)
            found.append(Challenge(scheme[1].lower(), parameters))
    return found


class TokenAnswer(Struct):
    """What a token server says; bounded by whoever reads it."""

    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: int | float = 0
