"""What a registry refused, or why it could not be asked, in the words that Docker's clients know.

Inside this package failures are `Refused` and `Unreachable`; `pulling` and `pushing` make errors of them that may
cross.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import msgspec
from msgspec import Struct

from boxwright.errdefs import Error, Forbidden, InvalidParameter, NotFound, System, Unauthorized, Unavailable
from boxwright.images.reference import Reference

LONGEST_TEXT = 1000  # of a registry's own words, characters


class Unreachable(Exception):
    """There was no answer.  again: whether asking again may help."""

    def __init__(self, method: str, url: str, reason: str, again: bool) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')
        self.reason, self.again = reason, again

    @property
    def spoke_tls(self) -> bool:
        """Whether the other side speaks TLS, and that is where it failed."""
        return "tls: " in self.reason


class Refused(Exception):
    """The registry's answer is an error.

    code: "MANIFEST_UNKNOWN", …; made of the status when the registry named none.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code.lower().replace('_', ' ')}: {message}")
        self.status, self.code = status, code


class _Item(Struct):
    code: str = ""
    message: str = ""


class _Body(Struct):
    errors: list[_Item] = []
    details: str = ""


_BY_STATUS = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("NOT_FOUND", "page not found"),
    429: ("TOOMANYREQUESTS", "too many requests"),
}


def refused(status: int, body: bytes) -> Refused:
    """The error that an answer stands for; `body` is the registry's explanation, if it gave one."""
    try:
        found = msgspec.json.decode(body, type=_Body, strict=False)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        found = _Body()
    for item in found.errors[:1]:
        if item.code:
            return Refused(status, item.code[:100], _printable(item.message) or item.code.lower().replace("_", " "))
    if found.details:  # what token servers say
        return Refused(status, _BY_STATUS.get(status, ("UNKNOWN", ""))[0], _printable(found.details))
    code, message = _BY_STATUS.get(status, ("UNKNOWN", f"unexpected status {status} from the registry"))
    return Refused(status, code, message)


def _printable(text: str) -> str:
    """A stranger's words for a terminal: no control characters, not too many."""
    return "".join(c if c.isprintable() else " " for c in text[:LONGEST_TEXT]).strip()


def unreachable(method: str, url: str, error: Exception) -> Unreachable:
    """What aiohttp raised, as Go's client would have put it."""
    reason, again = _reason(error)
    return Unreachable(method, url, reason, again)


def _reason(error: Exception) -> tuple[str, bool]:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"tls: failed to verify certificate: {_certificate(error.certificate_error)}", False
        case aiohttp.ClientConnectorSSLError():
            reason = getattr(error.os_error, "reason", "") or str(error.os_error)
            if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
                return "http: server gave HTTP response to HTTPS client", False
            return f"remote error: tls: {str(reason).lower().replace('_', ' ')}", False
        case aiohttp.ClientConnectorError():
            cause = error.os_error
            if isinstance(cause, socket.gaierror):
                return f"dial tcp: lookup {error.host}: no such host", False
            text = (cause.strerror or str(cause)).lower()
            if isinstance(cause, ConnectionRefusedError):
                text = "connection refused"
            return f"dial tcp {error.host}:{error.port}: connect: {text}", False
        case aiohttp.ClientOSError() if isinstance(error.__cause__, ssl.SSLError):
            return _reason(error.__cause__)
        case TimeoutError():
            return "net/http: request canceled (Client.Timeout exceeded while awaiting headers)", True
        case ssl.SSLError():
            return f"remote error: tls: {(error.reason or str(error)).lower().replace('_', ' ')}", False
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | ConnectionError():
            return "unexpected EOF", True
        case aiohttp.InvalidURL() | ValueError():
            return "invalid URL", False
        case _:
            return _printable(str(error) or type(error).__name__), True


def _certificate(error: Exception) -> str:
    text = getattr(error, "verify_message", "") or str(error)
    if "expired" in text or "not yet valid" in text:
        return "x509: certificate has expired or is not yet valid"
    if "issuer" in text or "self-signed" in text or "self signed" in text:
        return "x509: certificate signed by unknown authority"
    return f"x509: {text}"


@contextmanager
def pulling(ref: Reference) -> Iterator[None]:
    """Failures of the body as errors of a pull of `ref`, in dockerd's words."""
    try:
        yield
    except Refused as error:
        raise _pull_error(error, ref) from error
    except Unreachable as error:
        raise System(str(error)) from error


def _pull_error(error: Refused, ref: Reference) -> Error:
    match error.code:
        case "DENIED":
            return NotFound(
                f"pull access denied for {ref.familiar_name}, repository does not exist or may require 'docker login':"
                f" {error}"
            )
        case "MANIFEST_UNKNOWN":
            return NotFound(f"manifest for {ref} not found: {error}")
        case "NAME_UNKNOWN":
            return NotFound(f"repository {ref.familiar_name} not found: {error}")
    # Not 401, as with dockerd: the CLI would ask for a name and a password, of a terminal or not.
    return System(str(error)) if error.status == 401 else general(error)


@contextmanager
def pushing() -> Iterator[None]:
    """Failures of the body as errors of whatever else is asked of a registry."""
    try:
        yield
    except Refused as error:
        raise general(error) from error
    except Unreachable as error:
        raise System(str(error)) from error


def general(error: Refused) -> Error:
    """By the status of the registry's answer."""
    kinds: dict[int, type[Error]] = {
        400: InvalidParameter, 401: Unauthorized, 403: Forbidden, 404: NotFound, 429: Unavailable, 503: Unavailable,
    }  # fmt: skip
    return kinds.get(error.status, System)(str(error))
