"""Find the program as a shell would, run it, and say what went wrong in the words that docker's clients match."""

import errno
import os
import stat

from boxwright.errdefs import StepError
from boxwright.libcontainer import faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


_REASONS = {
    errno.ENOENT: "is it in the image, or hidden by a volume that is mounted over its directory?",
    errno.EACCES: "it lacks the x bit for this user, or lies on a mount with noexec",
    errno.EISDIR: "name a program in it",
}


def find(name: str, environment: dict[str, str]) -> str:
    """The path that execve gets for argv[0] `name`; raises StepError with exit code 126 or 127.

    Checked with the effective ids, in the current directory and root: those of the program.
    """
    if "/" in name:
        reason, operation = _unusable(name)
        if reason:
            _fail(name, reason, operation + os.strerror(reason).lower(), _REASONS.get(reason, ""))
        return name
    for directory in environment.get("PATH", "").split(":"):
        candidate = f"{directory or '.'}/{name}"
        if name and not _unusable(candidate)[0]:
            return candidate
    searched = environment.get("PATH", "")
    return _fail(
        name, errno.ENOENT, "executable file not found in $PATH", f"looked for in {searched or 'an empty PATH'}"
    )


def execute(path: str, arguments: "list[str]", environment: dict[str, str]) -> "NoReturn":
    """execve; returns only by raising StepError."""
    try:
        os.execve(path, arguments, environment)
    except OSError as error:
        raise StepError(
            f"exec {path}: {faults.strerror(error)}",
            step="execve",
            operation="execve",
            path=path,
            errno=error.errno or 0,
            hint=_hint(error.errno or 0),
            exit_code=faults.exit_code(error.errno or 0),
        ) from error


def _unusable(path: str) -> "tuple[int, str]":
    """(0, ""), or the errno that says why `path` cannot be executed and the words before it."""
    try:
        info = os.stat(path)
    except OSError as error:
        return error.errno or errno.EIO, f"stat {path}: "
    if stat.S_ISDIR(info.st_mode):
        return errno.EISDIR, ""
    return (0, "") if os.access(path, os.X_OK, effective_ids=True) else (errno.EACCES, "")


def _fail(name: str, number: int, reason: str, hint: str) -> "NoReturn":
    raise StepError(
        f'exec: "{name}": {reason}',
        step="execve",
        operation="lookup",
        path=name,
        errno=number,
        hint=hint,
        exit_code=faults.exit_code(number),
    )


def _hint(number: int) -> str:
    if number == errno.ENOEXEC:
        return "built for another architecture, or a script without a #! line"
    if number == errno.ENOENT:
        return "the file is there: the interpreter or dynamic loader that it names is not in the image"
    return ""
