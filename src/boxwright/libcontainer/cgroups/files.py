"""Reading, writing and removing in a cgroup file system: errors name the file and the value."""

import os
from errno import EBUSY, ENODEV, ENOENT, ENOTEMPTY
from time import monotonic, sleep

from boxwright.errdefs import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LIMIT = 1 << 20
_ATTEMPTS = 8  # to make a group whose parent somebody else removes


def write(path: str, value: str) -> None:
    """Write `value` in one write(2), as the kernel demands.  Raises StepError that names file and value."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise failure("write", path, error, value) from error


def write_each(path: str, values: list[str]) -> None:
    """Write each value in a write(2) of its own through one descriptor (devices.allow takes one rule a write)."""
    value = ""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for value in values:
                os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise failure("write", path, error, value) from error


def read(path: str) -> str:
    """The whole file, stripped.  Raises StepError that names it; more than 1 MiB is not read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            size = 0
            while size < _LIMIT and (chunk := os.read(fd, 65536)):
                chunks.append(chunk)
                size += len(chunk)
        finally:
            os.close(fd)
    except OSError as error:
        raise failure("read", path, error) from error
    return b"".join(chunks).decode(errors="replace").strip()


def read_or(path: str, otherwise: str) -> str:
    """`read`, or `otherwise` when the file cannot be read (no such controller, kernel or group)."""
    try:
        return read(path)
    except StepError:
        return otherwise


def number(path: str, otherwise: int = 0) -> int:
    """A file that holds one number; "max" is -1; `otherwise` when it cannot be read."""
    record = _record(path)
    try:
        return int(record)
    except ValueError:
        return as_number(record.decode(errors="replace").strip(), otherwise)


def _record(path: str) -> bytes:
    """A file that the kernel makes as one record (seq_file(9), single_open), whole in one read(2); b"" on failure."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536)
        finally:
            os.close(fd)
    except OSError:
        return b""


def as_number(text: str, otherwise: int = 0) -> int:
    """One number as the kernel prints it; "max" is -1."""
    if text == "max":
        return -1
    try:
        return int(text)
    except ValueError:
        return otherwise


def table(path: str) -> dict[str, int]:
    """A flat-keyed file ("key number" a line); {} when it cannot be read."""
    text = _record(path).decode(errors="replace")
    words = text.split()
    try:
        if len(words) == 2 * text.count("\n"):  # nearly every one
            return dict(zip(words[::2], map(int, words[1::2]), strict=True))
    except ValueError:
        pass  # "max", or nothing that we know
    result = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        result[key] = as_number(value)
    return result


def pids(directory: str, recursive: bool) -> set[int]:
    """Process ids listed in cgroup.procs of `directory` and, when `recursive`, of every group below it.

    A process that our pid namespace does not see is listed as 0, which kill(2) takes for ourselves: left out.
    """
    found = {int(line) for line in read_or(f"{directory}/cgroup.procs", "").split()} - {0}
    if recursive:
        for child in children(directory):
            found |= pids(child, True)
    return found


def names(directory: str) -> set[str]:
    """The interface files (and groups) in `directory`; none when it is gone."""
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


def children(directory: str) -> list[str]:
    """Absolute directories of the groups right below `directory`; [] when it is gone."""
    try:
        # Two links and no more: on cgroup file systems the link count of a directory is 2 + its children.
        if os.stat(directory).st_nlink == 2:
            return []
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def make(directory: str) -> None:
    """mkdir of one group.  FileExistsError and FileNotFoundError pass through for the caller to decide on."""
    try:
        os.mkdir(directory, 0o755)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno == ENODEV:  # the group above is being removed
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), directory) from error
        raise failure("mkdir", directory, error) from error


def make_below(directory: str, make_parents: "Callable[[], None]") -> None:
    """`make`, and `make_parents` first where the groups above are missing.

    Again, a few times: an engine that ends removes its parent group when nothing is in it, and the next engine's first
    container may come just then.  Raises FileExistsError, StepError.
    """
    for attempt in range(_ATTEMPTS):
        try:
            make(directory)
            return
        except FileNotFoundError as error:
            if attempt == _ATTEMPTS - 1:
                raise failure("mkdir", directory, error) from error
        try:
            make_parents()
        except (FileNotFoundError, StepError) as error:
            if error.errno not in (ENOENT, ENODEV):
                raise


def remove_tree(directory: str, deadline: float) -> None:
    """rmdir of a group and those below it, children first; again on EBUSY until `deadline` (CLOCK_MONOTONIC seconds).

    The kernel may still be busy with the exit of the last process when cgroup.procs is empty already.
    """
    pause = 0.0005
    while True:
        try:
            os.rmdir(directory)
            return
        except OSError as error:
            if error.errno in (ENOENT, ENODEV):
                return
            if error.errno not in (EBUSY, ENOTEMPTY) or monotonic() > deadline:
                raise failure("rmdir", directory, error) from error
        below = children(directory)
        for child in below:
            remove_tree(child, deadline)
        if not below:
            sleep(pause)
            pause = min(pause * 2, 0.05)


def failure(operation: str, path: str, error: OSError, value: str = "") -> StepError:
    """The StepError for a failed system call on a cgroup file."""
    subject = f'cannot write "{value}" to {path}' if operation == "write" else f"cannot {operation} {path}"
    return StepError(
        f"cgroup: {subject}: {error.strerror}",
        step="cgroup",
        operation=operation,
        path=path,
        errno=error.errno or 0,
    )


def page_sizes() -> list[str]:
    """Huge page sizes of this machine as cgroup file names spell them ("2MB", "1GB"), ascending."""
    try:
        found = [int(name[len("hugepages-") : -len("kB")]) for name in os.listdir("/sys/kernel/mm/hugepages")]
    except OSError:
        return []
    return [
        f"{kib >> 20}GB" if kib >= 1 << 20 else f"{kib >> 10}MB" if kib >= 1024 else f"{kib}KB" for kib in sorted(found)
    ]
