"""The exit record: what a shim leaves on disk for an engine that was not there.

One block of SIZE bytes in the container's directory, written with zeros before the start, so that the end of a
container can be recorded on a full disk (an overwrite allocates nothing).  It holds one JSON object and a newline:

    {"generation": 3, "pid": 4711, "start_time": 123456, "started_at": "…"}                  while it runs
    {… "exit_code": 0, "signal": 0, "oom_killed": false, "finished_at": "…", "lived_ns": 0, "error": ""}   after its end

Whoever reads it compares the generation.

The file is also what makes the lives of a container follow each other: the engine locks it (flock) for a start and
passes the descriptor on, and the shim closes it when it has taken away the last of what it made.  A lock that is held
means that an earlier life is still at work, even one whose request nobody has read yet (`execdriver/lives.py`).
"""

import os

from boxwright.libcontainer import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "exit.json"
SIZE = 4096  # bytes


def open_in(container_dir: str) -> int:
    """A new descriptor of the record of the container with this directory, to `allocate` and `write`."""
    return os.open(f"{container_dir}/{NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def allocate(fd: int) -> None:
    """Make sure of the block.  Raises OSError (ENOSPC when there is no room)."""
    if os.fstat(fd).st_size != SIZE:
        os.truncate(fd, 0)
        if os.pwrite(fd, bytes(SIZE), 0) != SIZE:
            raise OSError(28, "No space left on device", NAME)


def write(fd: int, record: "dict[str, Any]") -> None:
    """Overwrite the block in one call; a kill of this process cannot cut it in two.  Raises OSError."""
    data = jsontext.dumps(record).encode() + b"\n"
    if len(data) > SIZE:  # only an error text can be so long
        data = jsontext.dumps({**record, "error": str(record.get("error", ""))[:512]}).encode() + b"\n"
    os.pwrite(fd, data.ljust(SIZE, b"\0"), 0)


def read(container_dir: str) -> "dict[str, Any] | None":
    """The record, or None when there is none (or none that can be understood)."""
    try:
        with open(f"{container_dir}/{NAME}", "rb") as file:
            record = jsontext.loads(file.read(SIZE).rstrip(b"\0"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
