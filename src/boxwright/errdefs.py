"""The errors that cross layers, and no others.

Each class is one category; `api/errors.py` maps a category to an HTTP status in one function.  Nobody reads an error's
text to decide something, but the text is API for old clients and is spelled as they expect.
Light imports only: the launcher's children raise these too.
"""

import errno
import os


class Error(Exception):
    """Base of every error that crosses a layer."""


class InvalidParameter(Error):
    """The request is malformed or names a value that cannot be (400)."""


class NotModified(Error):
    """The object is already in the state that was asked for (304)."""


class Unauthorized(Error):
    """Credentials are missing or wrong (401)."""


class Forbidden(Error):
    """The request is understood and refused by policy (403)."""


class NotFound(Error):
    """No such object (404)."""


class Conflict(Error):
    """The object's present state forbids it (409)."""


class TooLarge(Error):
    """A body, header or stream is past its limit (413)."""


class System(Error):
    """The host or the engine failed (500)."""


class NotImplemented_(Error):
    """A Docker feature that this engine does not have; the text names it (501)."""


class Unavailable(Error):
    """Cannot be answered now, or not by this kind of engine (503)."""


def host_failure(error: BaseException) -> str:
    """What people read of a failure that is the host's and not ours: a disk, a limit; "" for any other error.

    A file system that is full or read-only, too many open files or processes, no memory.
    """
    if isinstance(error, MemoryError):
        return "cannot allocate memory"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "no further thread can be started: a limit of processes (pids.max, ulimit -u) or memory is reached"
    if not isinstance(error, OSError) or error.errno not in _HOST_ERRNOS:
        return ""
    reason = (error.strerror or str(error)).lower()
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, (str, bytes)) else reason


_HOST_ERRNOS = frozenset(
    (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN,
     errno.ENOBUFS)
)  # fmt: skip


class StepError(Error):
    """One step of a start, an exec or a confined job failed.

    Crosses the socket pair from init to shim and from shim to engine whole, as `to_dict()`.

    step: the timeline's name of the step ("mounts", "execve", ...).
    operation: the system call or action ("move_mount", "open", ...), or "".
    path: the path or setting it was about, or "".
    errno: the error number, 0 when there is none.
    message: what people read, complete in itself.
    hint: what to do about it, or "".
    exit_code: 127 not found, 126 not executable or a directory, 128 otherwise (Docker's convention).
    """

    def __init__(
        self,
        message: str,
        *,
        step: str = "",
        operation: str = "",
        path: str = "",
        errno: int = 0,
        hint: str = "",
        exit_code: int = 128,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.operation = operation
        self.path = path
        self.errno = errno
        self.hint = hint
        self.exit_code = exit_code

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form; `from_dict` is its inverse."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> "StepError":
        """Rebuild an error that another process sent; unknown keys are ignored, wrong types become text."""
        known = {k: str(data.get(k) or "") for k in ("step", "operation", "path", "hint")}
        numbers = {k: v for k in ("errno", "exit_code") if isinstance(v := data.get(k), int)}
        return cls(str(data.get("message") or "unknown error"), **known, **numbers)  # type: ignore[arg-type]
