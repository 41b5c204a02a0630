"""Failures from outside: system calls of a running process that fail (strace), limits that close in (prlimit), and a
disk that is full (a small tmpfs).  Nothing in the product knows of them."""

import collections
import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from support.engine import Engine, wait_for

_CALL = re.compile(r"^(\d+) +(\w+)\(")
LEAVE_SECONDS = 20.0


@contextlib.contextmanager
def traced(pids: Iterable[int], calls: str, output: Path, *more: str) -> Iterator[None]:
    """While this lasts, `calls` ("a,b") of these processes, their threads and children are written to `output`."""
    options = [part for pid in pids for part in ("-p", str(pid))]
    command = ["strace", "-f", "-e", f"trace={calls}", "-e", "signal=none", *more, "-o", str(output), *options]
    wanted = len(options) // 2
    said = output.with_suffix(".said")
    with said.open("wb") as errors:
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, stdout=subprocess.DEVNULL)
        try:
            wait_for(
                lambda: said.read_text().count(" attached") >= wanted or tracer.poll() is not None, "strace is attached"
            )
            assert tracer.poll() is None, said.read_text()
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            try:
                tracer.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                tracer.kill()
                tracer.wait()


@contextlib.contextmanager
def failing(pids: Iterable[int], call: str, error: str, nth: int, output: Path) -> Iterator[None]:
    """The `nth` such call of each thread, counted from now on, fails with `error`; children are not spared either."""
    with traced(pids, call, output, "-e", f"inject={call}:error={error}:when={nth}"):
        yield


def count(output: Path) -> dict[str, int]:
    """The most calls of each kind that one thread made."""
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in output.read_text(errors="replace").splitlines():
        if ((found := _CALL.match(line)) and "<unfinished" not in line) or found:
            seen[found[1], found[2]] += 1
    most: dict[str, int] = {}
    for (_, call), number in seen.items():
        most[call] = max(most.get(call, 0), number)
    return most


def was_injected(output: Path) -> bool:
    return "(INJECTED)" in output.read_text(errors="replace")


def descriptors(pid: int) -> int:
    """One more than the highest descriptor that the process has."""
    return max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1


@contextlib.contextmanager
def few_descriptors(pid: int, limit: int) -> Iterator[None]:
    """RLIMIT_NOFILE of a running process."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A tmpfs of its own at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=710", "boxwright-test", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def full_disk(path: Path, pages: int, size: str) -> Iterator[None]:
    """Room for so many pages of 4 KiB in the `small_disk` at `path`, and no more; then `size` again."""
    found = os.statvfs(path)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    _resize(path, str(used + pages * 4096))
    try:
        yield
    finally:
        _resize(path, size)


def _resize(path: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


@contextlib.contextmanager
def engine_on_small_disk(size: str) -> Iterator[Engine]:
    """A running engine whose data root is a small disk, with busybox and a container beside what is tried."""
    made = Engine()
    try:
        with small_disk(made.data_root, size):
            try:
                made.start().load()
                made.ok("run", "-d", "--name", "witness", "busybox", "sleep", "100000")
                yield made
            finally:
                made.close()
    finally:
        shutil.rmtree(made.home, ignore_errors=True)  # which could not go while the disk was mounted in it
