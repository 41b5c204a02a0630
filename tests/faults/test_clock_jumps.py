"""The wall clock jumps under a running engine: no timer follows it.

A container's clock cannot be changed apart from the machine's, so the engine alone gets one that is set from here.
"""

import mmap
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.engine import Engine, wait_for

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.timeout(180)]

# Imported by every interpreter that looks for it: the engine's does, those of launcher and shims are isolated (-I).
CLOCK = """
import mmap, os, struct, time
view = mmap.mmap(os.open(os.environ["BOXWRIGHT_TEST_CLOCK"], os.O_RDWR), 8)
real = time.time_ns
time.time_ns = lambda: real() + struct.unpack("q", view[:8])[0]
time.time = lambda: time.time_ns() / 1e9
"""
HOUR = 3600 * 10**9  # nanoseconds
JUMPS = [pytest.param(24 * HOUR, id="forward"), pytest.param(-24 * HOUR, id="back")]
Set = Callable[[int], None]


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Set]:
    """Sets the clocks of the engines that are started from now on to so many nanoseconds past the real one."""
    file = tmp_path / "clock"
    file.write_bytes(bytes(8))
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    monkeypatch.setenv("BOXWRIGHT_TEST_CLOCK", str(file))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as view:

        def set_to(nanoseconds: int) -> None:
            view[:8] = struct.pack("q", nanoseconds)

        yield set_to


@pytest.fixture
def shifted(clock: Set, nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine()
    try:
        yield made.start().load()
    finally:
        made.close()


def now_of(engine: Engine) -> str:
    """The engine's own time."""
    return str(engine.api("GET", "/info").json["SystemTime"])


@pytest.mark.parametrize("jump", JUMPS)
def test_a_stop_takes_its_time_and_no_more(shifted: Engine, clock: Set, jump: int) -> None:
    before = now_of(shifted)
    shifted.ok("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    stopping = shifted.spawn("stop", "-t", "1", "deaf")
    wait_for(lambda: shifted.inspect("deaf")["Boxwright"]["Operation"] == "stopping", "it is being stopped")
    began = time.monotonic()
    clock(jump)
    assert stopping.wait(30) == 0
    stopping.communicate()
    assert time.monotonic() - began < 20
    assert (now_of(shifted) > before) == (jump > 0)  # it is the engine's clock that has jumped
    assert shifted.inspect("deaf")["State"]["ExitCode"] == 137
    shifted.ok("rm", "deaf")


@pytest.mark.parametrize("jump", JUMPS)
def test_a_restart_policy_goes_on(shifted: Engine, clock: Set, jump: int) -> None:
    shifted.ok("run", "-d", "--name", "again", "--restart", "always", "busybox", "false")
    wait_for(lambda: shifted.inspect("again")["RestartCount"] >= 1, "it comes back")
    clock(jump)
    count = shifted.inspect("again")["RestartCount"]
    wait_for(lambda: shifted.inspect("again")["RestartCount"] >= count + 2, "it comes back twice more")
    shifted.restart()
    wait_for(lambda: shifted.inspect("again")["RestartCount"] >= count + 3, "it comes back after the engine")
    shifted.ok("rm", "-f", "again")


@pytest.mark.parametrize("jump", JUMPS)
def test_a_time_limit_holds(shifted: Engine, clock: Set, jump: int) -> None:
    program = "trap 'exit 9' TERM; while :; do sleep 0.05; done"
    shifted.ok("run", "-d", "--name", "short", "--label", "boxwright.timeout=2", "busybox", "sh", "-c", program)
    clock(jump)
    assert shifted.ok("wait", "short") == "9"
    assert shifted.inspect("short")["Boxwright"]["TimedOut"]
    shifted.ok("rm", "short")


def health(engine: Engine) -> dict[str, object]:
    found: dict[str, object] = engine.inspect("ill")["State"]["Health"]
    return found


def test_a_start_period_is_not_over_because_the_clock_says_so(shifted: Engine, clock: Set) -> None:
    probes = ["--health-cmd", "false", "--health-interval", "100ms", "--health-start-interval", "100ms"]
    shifted.ok("run", "-d", "--name", "ill", *probes, "--health-start-period", "1h", "busybox", "sleep", "1000")
    wait_for(lambda: health(shifted)["Log"], "it is probed")
    clock(24 * HOUR)
    jumped = now_of(shifted)[:10]
    wait_for(lambda: jumped in str(health(shifted)["Log"][-1]), "it is probed again")  # type: ignore[index]
    first = str(health(shifted)["Log"][-1])  # type: ignore[index]
    wait_for(lambda: str(health(shifted)["Log"][0]) == first, "and five times more")  # type: ignore[index]
    assert (health(shifted)["Status"], health(shifted)["FailingStreak"]) == ("starting", 0)
    shifted.ok("rm", "-f", "ill")


def test_probes_count_after_the_clock_was_set_back(shifted: Engine, clock: Set) -> None:
    shifted.ok(
        "create", "--name", "ill", "--health-cmd", "false", "--health-interval", "100ms", "busybox", "sleep", "1000"
    )
    shifted.ok("start", "ill")
    clock(-24 * HOUR)
    wait_for(lambda: health(shifted)["Status"] == "unhealthy", "it is unhealthy")
    shifted.ok("rm", "-f", "ill")


@pytest.mark.parametrize("jump", JUMPS)
def test_the_log_keeps_its_order_and_is_followed(shifted: Engine, clock: Set, jump: int) -> None:
    shifted.ok(
        "run", "-d", "--name", "talks", "busybox", "sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done"
    )
    following = shifted.spawn("logs", "-f", "talks")
    wait_for(lambda: "2" in shifted.ok("logs", "talks").split(), "it talks")
    clock(jump)
    out, _ = following.communicate(timeout=30)
    assert out.split() == b"1 2 3 4 5 6".split()
    shifted.ok("rm", "-f", "talks")


@pytest.mark.parametrize("jump", JUMPS)
def test_an_end_of_events_comes_when_it_was_asked_for(shifted: Engine, clock: Set, jump: int) -> None:
    listening = shifted.spawn("events", "--until", f"{time.time() + 1.5:.3f}")
    wait_for(lambda: shifted.api("GET", "/info").json["NEventsListener"] == 1, "it listens")
    clock(jump)
    assert listening.wait(30) == 0
    listening.communicate()
