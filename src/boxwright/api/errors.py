"""From an error to the answer that Docker's clients expect: one function, and no other place that knows statuses."""

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from boxwright import errdefs

_log = logging.getLogger(__name__)

_STATUS: dict[type[errdefs.Error], int] = {
    errdefs.InvalidParameter: 400,
    errdefs.NotModified: 304,
    errdefs.Unauthorized: 401,
    errdefs.Forbidden: 403,
    errdefs.NotFound: 404,
    errdefs.Conflict: 409,
    errdefs.TooLarge: 413,
    errdefs.System: 500,
    errdefs.NotImplemented_: 501,
    errdefs.Unavailable: 503,
}

# The program of the container could not be executed: Docker calls that the client's mistake.
_NOT_EXECUTABLE = (126, 127)


class RequestTimeout(Exception):
    """The client took too long to send its request (408)."""


class MethodNotAllowed(Exception):
    """The path exists, not for this method (405)."""


def answer(error: BaseException) -> tuple[int, str]:
    """Status and message for an error; what nobody foresaw is logged whole and is a 500."""
    match error:
        case errdefs.StepError():
            return 400 if error.exit_code in _NOT_EXECUTABLE else 500, error.message
        case errdefs.Error():
            return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500), str(error)
        case RequestTimeout():
            return 408, "the request was not complete in time"
        case MethodNotAllowed():
            return 405, str(error)
        case RequestPayloadError() | HttpProcessingError():
            return 400, f"malformed request body: {error}"
        case web.HTTPException() if error.status < 500:
            return error.status, error.text or error.reason
    if told := errdefs.host_failure(error):
        _log.warning("a request failed: %s", told)
        return 500, told
    _log.error("unexpected error while answering a request", exc_info=error)
    return 500, f"internal error: {type(error).__name__}: {error}"
