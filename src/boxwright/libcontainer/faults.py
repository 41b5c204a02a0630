"""From the kernel's errors to `errdefs.StepError`, and the words around them that Docker's clients match."""

import errno
import os

from boxwright.errdefs import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_NOT_INVOCABLE, _NOT_FOUND, _OTHER = 126, 127, 128
_TASK = "failed to create task for container: "
_CREATE = f"{_TASK}failed to create shim task: OCI runtime create failed: "
_EXEC = "OCI runtime exec failed: exec failed: "
WRONG_KIND = (
    "Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)
_START = "unable to start container process: "


def exit_code(number: int) -> int:
    """Docker's exit code of a start that failed with errno `number`; dockerd goes by the text, wherever it happened."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        return _NOT_FOUND
    if number in (errno.EACCES, errno.EISDIR, errno.ENOEXEC):
        return _NOT_INVOCABLE
    return _OTHER


def docker_text(error: StepError, *, exec_session: bool = False) -> str:
    """The error in the words in which dockerd and its runtime wrap it; docker CLI matches parts of them."""
    if error.step == "log":
        return _TASK + error.message
    text = f"{_EXEC if exec_session else _CREATE}{_START}{error.message}: unknown"
    return f"{text}: {error.hint}" if error.hint == WRONG_KIND else text


def strerror(error: OSError) -> str:
    """The kernel's reason alone, spelled as Go spells it: in lower case, without the operation."""
    return os.strerror(error.errno or 0).lower()


def operation(error: OSError) -> str:
    """The system call that an error of `boxwright.linux` names, or ""."""
    head, separator, _ = str(error.strerror or "").partition(": ")
    return head if separator else ""


def step_error(error: OSError, step: str, message: str = "", path: str = "", hint: str = "") -> StepError:
    """An OSError as the failure of `step`; without `message` it is told from the error's own parts."""
    name = operation(error)
    place = path or str(error.filename or "")
    if not message:
        message = " ".join(word for word in (name or step, place) if word)
    if name == "clone" and error.errno == errno.EAGAIN:
        message = f"{message}: a limit of processes is reached (--pids-limit, pids.max, ulimit -u)"
    return StepError(
        f"{message}: {strerror(error)}", step=step, operation=name, path=place, errno=error.errno or 0, hint=hint
    )


def not_running() -> StepError:
    """The failure of what met the end of the container that it was to enter; the engine answers 409."""
    return StepError("the container is not running", step="namespaces", operation="setns", errno=errno.ESRCH)


def oom_killed(path: str) -> StepError:
    """The failure of a first process that the kernel killed for lack of memory, in runc's words; path: its cgroup."""
    text, hint = "container init was OOM-killed (memory limit too low?)", "give the container more memory (--memory)"
    return StepError(text, step="memory", path=path, hint=hint)


def refuse(message: str, step: str, path: str = "", hint: str = "", number: int = 0) -> "NoReturn":
    """Raise the StepError of something that is refused by policy."""
    raise StepError(message, step=step, path=path, hint=hint, errno=number)
