"""Jobs through a real worker launcher: results, errors, descriptors, cancellation."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from _socket import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from boxwright import errdefs
from boxwright.launcher import jobs as jobs_module
from boxwright.launcher import packets
from boxwright.launcher.client import Launcher
from boxwright.launcher.jobs import Jobs

pytestmark = pytest.mark.root
DEADLINE = 30.0


def with_jobs(body: Callable[[Jobs, Path], Awaitable[None]]) -> None:
    async def whole(root: Path) -> None:
        launcher = Launcher(str(root), "worker")
        try:
            await asyncio.wait_for(body(Jobs(launcher), root), DEADLINE)
        finally:
            await launcher.close()
        # With nobody connected and no child left, the launcher goes.
        async with asyncio.timeout(DEADLINE):
            while workers(root):
                await asyncio.sleep(0.05)

    with tempfile.TemporaryDirectory(prefix="boxwright-jobs-") as directory:
        asyncio.run(whole(Path(directory)))


def workers(root: Path) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.fsencode(root) in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_an_unknown_job_is_refused_and_the_next_one_runs() -> None:
    async def body(jobs: Jobs, root: Path) -> None:
        for _ in range(3):
            with pytest.raises(errdefs.Error):
                await jobs.run("no.such.job", {"big": "x" * 300_000})

    with_jobs(body)


def test_many_at_once_each_get_their_own_answer() -> None:
    async def body(jobs: Jobs, root: Path) -> None:
        answers = await asyncio.gather(*(jobs.run(f"unknown.{n}", {}) for n in range(20)), return_exceptions=True)
        for n, answer in enumerate(answers):
            assert isinstance(answer, errdefs.Error)
            assert f"unknown.{n}" in str(answer)

    with_jobs(body)


def test_a_cancelled_job_ends() -> None:
    async def body(jobs: Jobs, root: Path) -> None:
        reader, writer = os.pipe()  # a layer that never comes
        target = root / "layer"
        target.mkdir()
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        waiting = asyncio.ensure_future(jobs.run("archive.expand", {"compression": "gzip"}, [reader, directory]))
        async with asyncio.timeout(DEADLINE):
            while len(workers(root)) < 2 and not waiting.done():
                await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, errdefs.Error)):
            await waiting
        async with asyncio.timeout(DEADLINE):
            while len(workers(root)) > 1:
                await asyncio.sleep(0.01)
        for fd in (reader, writer, directory):
            os.close(fd)

    with_jobs(body)


def test_a_job_in_the_queue_of_a_launcher_that_is_killed_runs_in_the_next() -> None:
    async def body(jobs: Jobs, root: Path) -> None:
        with pytest.raises(errdefs.Error, match="no such job"):
            await jobs.run("unknown", {})
        (launcher,) = workers(root)
        os.kill(launcher, signal.SIGSTOP)
        waiting = asyncio.ensure_future(jobs.run("unknown", {}))
        for _ in range(100):  # the loop's turns: what it has to send is in the queue by then
            await asyncio.sleep(0)
        assert not waiting.done()
        os.kill(launcher, signal.SIGKILL)
        with pytest.raises(errdefs.Error, match="no such job: unknown"):
            await waiting
        assert launcher not in workers(root)

    with_jobs(body)


@pytest.mark.parametrize(("begins", "attempts"), [(False, jobs_module.ATTEMPTS), (True, 1)])
def test_a_job_that_dies_is_asked_for_again_unless_it_had_begun(begins: bool, attempts: int) -> None:
    class Deadly(Launcher):
        asked = 0

        async def spawn(self, control_fd: int, asked: bytes = packets.FORK) -> None:
            self.asked += 1
            if begins:
                packets.send(socket(fileno=os.dup(control_fd)), {"begun": True})

    async def whole(root: str) -> int:
        launcher = Deadly(root, "worker")
        with pytest.raises(errdefs.System, match=r"the job 'tree\.copy' died"):
            await Jobs(launcher).run("tree.copy", {})
        return launcher.asked

    with tempfile.TemporaryDirectory(prefix="boxwright-jobs-") as directory:
        assert asyncio.run(asyncio.wait_for(whole(directory), DEADLINE)) == attempts


def test_a_worker_that_nobody_needs_goes_and_the_next_job_has_another() -> None:
    async def whole(root: Path) -> None:
        launcher = Launcher(str(root), "worker", idle_seconds=0.05)
        jobs = Jobs(launcher)
        try:
            seen = set()
            for _ in range(2):
                with pytest.raises(errdefs.Error, match="no such job"):
                    await jobs.run("unknown", {})
                seen.update(workers(root))
                while workers(root):
                    await asyncio.sleep(0.02)
            assert len(seen) >= 2
        finally:
            await launcher.close()

    with tempfile.TemporaryDirectory(prefix="boxwright-jobs-") as directory:
        asyncio.run(asyncio.wait_for(whole(Path(directory)), DEADLINE))


# What a launcher does that has been idle, with somebody in its backlog or nobody, and who comes after.
CLOSING = """
import sys
from boxwright.launcher import launcher, packets
root, before = sys.argv[1], int(sys.argv[2])
own = launcher._Launcher(packets.bind(root, "l.sock"), "worker", lambda *_: None)
clients = [packets.connect(root, "l.sock") for _ in range(before)]
print(own._close_door(), len(own._connections))
for client in clients:
    client.send(b"x")
print([bool(own._request(connection)) for connection in own._connections.values()])
try:
    packets.connect(root, "l.sock")
except ConnectionRefusedError:
    print("refused")
"""


@pytest.mark.parametrize(("before", "said"), [(0, ["True 0", "[]"]), (2, ["False 2", "[True, True]"])])
def test_who_comes_while_an_idle_launcher_goes_is_served_or_refused(
    tmp_path: Path, before: int, said: list[str]
) -> None:
    command = [sys.executable, "-c", CLOSING, str(tmp_path), str(before)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.stdout.splitlines() == [*said, "refused"], done.stderr
