"""`docker top`: the processes of a container as the host sees them.

The default columns (`ps -ef`) are read from /proc; other arguments are given to the host's own ps, and the lines of the
container's processes are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import time
from typing import TYPE_CHECKING, Any

from boxwright.engine import live
from boxwright.engine.state import Status
from boxwright.errdefs import Conflict, InvalidParameter, System

if TYPE_CHECKING:
    from boxwright.engine.engine import Engine

TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
_PS_SECONDS = 10.0
_PS_BYTES = 4 << 20
_CMDLINE_BYTES = 4096  # what a process says of itself is hostile: bounded
_TICKS = os.sysconf("SC_CLK_TCK")
# `-o pid=custom` and `-opid=x` rename the column by which the lines are filtered.
_RENAMED_PID = re.compile(r"\s*-?o\s*[\"']?pid=", re.IGNORECASE)


async def top(eng: Engine, name: str, ps_args: str) -> dict[str, Any]:
    """`{"Titles": […], "Processes": [[…], …]}` of container `name`.

    ps_args: arguments for the host's ps; "" means `-ef`.
    Raises NotFound, Conflict when it does not run, InvalidParameter for arguments that hide the PID column.
    """
    container = eng.store.get(name)
    life = live.running(container)
    if container.state.status is Status.RESTARTING:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    pids = await life.pids()
    eng.announce(container, "top")
    if ps_args in ("", "-ef"):
        return {"Titles": TITLES, "Processes": await asyncio.to_thread(processes, pids)}
    if _RENAMED_PID.match(ps_args) or re.search(r"\bpid=", ps_args):
        raise InvalidParameter(f'specifying "{ps_args}" is not allowed')
    return filtered(await _ps(ps_args.split(), pids), set(pids))


def processes(pids: list[int]) -> list[list[str]]:
    """The lines of `ps -ef` for `pids`, read from /proc; a process that has gone meanwhile is left out."""
    now = time.time()
    booted = now - time.clock_gettime(time.CLOCK_BOOTTIME)
    found = []
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            found.append(_process(pid, now, booted))
    return found


def _process(pid: int, now: float, booted: float) -> list[str]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read(4096)
    # The name is in parentheses and may itself hold spaces and parentheses: the last one closes it.
    head, _, tail = stat.rpartition(b")")
    comm, fields = head.partition(b"(")[2], tail.split()
    parent, terminal = int(fields[1]), int(fields[4])
    cpu_ticks, started = int(fields[11]) + int(fields[12]), booted + int(fields[19]) / _TICKS
    seconds = cpu_ticks // _TICKS
    lived = max(now - started, 1.0)
    return [
        _user(os.stat(f"/proc/{pid}").st_uid),
        str(pid),
        str(parent),
        str(min(int(100 * cpu_ticks / _TICKS / lived), 99)),
        _start_time(started, now),
        _terminal(terminal),
        f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        _command(pid, comm),
    ]


def _command(pid: int, comm: bytes) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        line = file.read(_CMDLINE_BYTES)
    text = line.rstrip(b"\0").replace(b"\0", b" ") or b"[" + comm + b"]"
    return text.decode("utf-8", "replace")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(number: int) -> str:
    # new_encode_dev of the kernel: major in bits 8–19, minor in 0–7 and 20–31.
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    if 136 <= major <= 143:
        return f"pts/{minor + (major - 136) * 256}"
    return f"tty{minor}" if major == 4 else "?"


def _start_time(started: float, now: float) -> str:
    then, today = time.localtime(started), time.localtime(now)
    if now - started < 86400 and then.tm_yday == today.tm_yday:
        return time.strftime("%H:%M", then)
    return time.strftime("%b%d" if then.tm_year == today.tm_year else "%Y", then)


async def _ps(args: list[str], pids: list[int]) -> str:
    """The output of the host's ps; with `-q` first, as Docker does, because it keeps threads with their processes."""
    listed = ["-q" + ",".join(map(str, pids))] if pids else []
    try:
        return await asyncio.to_thread(_spawn, ["ps", *listed, *args])
    except InvalidParameter:
        # Some arguments exclude -q.
        return await asyncio.to_thread(_spawn, ["ps", *args])


def _spawn(argv: list[str]) -> str:
    """Run the host's ps by posix_spawn (the engine never forks Python)."""
    output, writer = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
        try:
            pid = os.posix_spawnp(argv[0], argv, dict(os.environ, LC_ALL="C"), file_actions=actions)
        finally:
            os.close(writer)
        pidfd = os.pidfd_open(pid)
        try:
            text, complete = _drain(output)
            if not complete:
                os.kill(pid, 9)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.close(pidfd)
    except OSError as error:
        raise System(f"ps: {error.strerror}") from error
    finally:
        os.close(output)
    if status:
        reason = text.strip().partition("\n")[0][:1024] or f"exit status {status}"
        raise InvalidParameter(f"ps: {reason}")
    return text


def _drain(fd: int) -> tuple[str, bool]:
    """All that comes out of `fd`, within bounds of time and size; False when a bound was met."""
    import select

    parts: list[bytes] = []
    size, deadline = 0, time.monotonic() + _PS_SECONDS
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while size < _PS_BYTES and (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            part = os.read(fd, 65536)
            if not part:
                return b"".join(parts).decode("utf-8", "replace"), True
            parts.append(part)
            size += len(part)
    return b"".join(parts).decode("utf-8", "replace"), False


def filtered(output: str, pids: set[int]) -> dict[str, Any]:
    """Titles and rows of ps `output`, with only the rows whose PID is in `pids`.

    Raises InvalidParameter when there is no PID column.
    """
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidParameter("Couldn't find PID field in ps output")
    column, rows, kept = titles.index("PID"), [], False
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) <= column:
            continue
        # A thread's line has "-" for its PID and belongs to the process above it.
        kept = kept if fields[column] == "-" else fields[column].isdigit() and int(fields[column]) in pids
        if kept:
            rows.append(fields)
    return {"Titles": titles, "Processes": rows}
