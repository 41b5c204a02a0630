"""One life of a container at a time: the lock of its exit record."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boxwright.errdefs import StepError
from boxwright.execdriver import lives
from boxwright.launcher import exitrecord

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock until its input ends."""
    os.close(exitrecord.open_in(str(directory)))
    command = [sys.executable, "-c", HOLD, str(directory / exitrecord.NAME), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "LEAVE_SECONDS", 0.2)


def test_a_free_record_is_locked(tmp_path: Path) -> None:
    async def body() -> None:
        first = await lives.claim(str(tmp_path), "/run/none")
        later = asyncio.ensure_future(lives.claim(str(tmp_path), "/run/none"))
        await asyncio.sleep(0)
        assert not later.done()
        os.close(first)
        os.close(await later)

    asyncio.run(body())


def test_a_life_that_leaves_is_waited_for(tmp_path: Path) -> None:
    async def body(process: subprocess.Popen[bytes]) -> None:
        claimed = asyncio.ensure_future(lives.claim(str(tmp_path), "/run/none"))
        await asyncio.sleep(0)
        assert not claimed.done() and process.stdin
        process.stdin.close()
        os.close(await claimed)
        assert process.wait(10) == 0

    with holder(tmp_path) as process:
        asyncio.run(body(process))


@pytest.mark.usefixtures("short")
def test_a_shim_that_does_not_leave_is_ended(tmp_path: Path) -> None:
    with holder(tmp_path, "shim", "/run/ours", "3") as process:
        os.close(asyncio.run(lives.claim(str(tmp_path), "/run/ours")))
        assert process.wait(10) == -9


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("arguments", [("shim", "/run/others", "3"), ("worker", "/run/ours", "3"), ()])
def test_nobody_else_is_ended(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with holder(tmp_path, *arguments) as process:
        with pytest.raises(StepError, match="an earlier life of the container has not ended") as raised:
            asyncio.run(lives.claim(str(tmp_path), "/run/ours"))
        assert raised.value.path == str(tmp_path / exitrecord.NAME)
        assert process.poll() is None
