"""The versions of Docker's API that are served: /v1.24/… to /v1.51/…, and the newest without a prefix."""

import re

from boxwright.errdefs import InvalidParameter

Version = tuple[int, int]

MINIMUM: Version = (1, 24)
MAXIMUM: Version = (1, 51)
MINIMUM_TEXT = "1.24"
MAXIMUM_TEXT = "1.51"

_PREFIX = re.compile(r"/v([0-9.]+)(?=/)")


def split(path: str) -> tuple[Version, str]:
    """The version that a decoded path asks for, and the path without it; raises `InvalidParameter` for others."""
    if path[1:2] != "v" or not (prefix := _PREFIX.match(path)):
        return MAXIMUM, path
    return _served(prefix[1]), path[prefix.end() :]


def _served(text: str) -> Version:
    parts = [int(part) for part in text.split(".") if part and len(part) < 6]
    version = (parts[0], parts[1]) if len(parts) > 1 else (parts[0] if parts else 0, 0)
    if version < MINIMUM:
        raise InvalidParameter(
            f"client version {text} is too old. Minimum supported API version is {MINIMUM_TEXT}, "
            "please upgrade your client to a newer version"
        )
    if version > MAXIMUM:
        raise InvalidParameter(f"client version {text} is too new. Maximum supported API version is {MAXIMUM_TEXT}")
    return version
