"""Start, exit, restart policies, stop, kill, pause, wait and restore against a fake driver: states and event orders."""

import asyncio
import shutil
from pathlib import Path

import pytest
from support.life import Life, lived

from boxwright.engine import exits, monitor, pause, remove, restore, start, stop, wait
from boxwright.engine.state import Operation, Status
from boxwright.engine.store import Container
from boxwright.errdefs import Conflict, InvalidParameter, NotModified, StepError, System
from boxwright.execdriver import ExitStatus


def test_start_and_exit_in_dockerds_order(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        await start.start(life.eng, "c")
        assert (c.state.status, c.state.pid, c.state.generation) == (Status.RUNNING, 4242, 1)
        assert c.state.operation is Operation.NONE
        assert {"lookup", "address", "execve"} <= {step[0] for step in life.eng.store.timeline(c)}
        waiter = wait.wait(life.eng, "c", "not-running")
        life.driver.lives[0].end(3)
        assert await waiter.result() == {"StatusCode": 3, "Error": None}
        assert (c.state.status, c.state.exit_code, c.state.pid) == (Status.EXITED, 3, 0)
        await life.until(lambda: life.driver.lives[0].released)
        assert life.network.held == {}
        assert life.events == ["connect", "start", "disconnect", "die"]

    lived(tmp_path, work)


def test_start_of_what_runs_is_not_modified(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        await start.start(life.eng, "c")
        with pytest.raises(NotModified):
            await start.start(life.eng, "c")
        await pause.pause(life.eng, "c")
        with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
            await start.start(life.eng, "c")
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


def test_two_starts_at_once_start_once(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        results = await asyncio.gather(*(start.start(life.eng, "c") for _ in range(5)), return_exceptions=True)
        assert [type(r) for r in results].count(NotModified) == 4
        assert len(life.driver.lives) == 1
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


@pytest.mark.parametrize(
    ("code", "error"), [(127, InvalidParameter), (126, InvalidParameter), (128, System)], ids=["127", "126", "128"]
)
def test_failed_start_leaves_nothing_but_its_reason(tmp_path: Path, code: int, error: type[Exception]) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        life.driver.error = StepError('exec: "x": trouble', step="execve", exit_code=code)
        with pytest.raises(error, match=r'failed to create task for container: .*exec: "x": trouble: unknown'):
            await start.start(life.eng, "c")
        state = c.state
        assert (state.status, state.exit_code, state.operation) == (Status.CREATED, code, Operation.NONE)
        assert state.error.endswith('exec: "x": trouble: unknown')
        assert state.start_error is not None and state.start_error["step"] == "execve"
        assert life.network.held == {}
        assert life.events == ["connect", "disconnect", "die"]

    lived(tmp_path, work)


def test_a_client_that_hangs_up_does_not_end_the_start(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        entered, go = asyncio.Event(), asyncio.Event()

        async def gate() -> None:
            entered.set()
            await go.wait()

        life.driver.gate = gate
        client = asyncio.ensure_future(start.start(life.eng, "c"))
        await entered.wait()
        client.cancel()
        go.set()
        await life.until(lambda: c.state.status is Status.RUNNING)
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


def test_on_failure_restarts_with_back_off_and_gives_up(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="on-failure", retries=2)
        await start.start(life.eng, "c")
        delays = []
        for n in range(3):
            life.driver.lives[n].end(1)
            await life.until(lambda n=n: c.state.status is (Status.RESTARTING if n < 2 else Status.EXITED))
            if n < 2:
                delays.append(c.live.delay)
                await life.until(lambda n=n: len(life.driver.lives) == n + 2 and c.state.status is Status.RUNNING)
        assert delays == [0.1, 0.2]
        assert (c.state.restart_count, c.state.generation) == (2, 3)
        await life.eng.settle()
        assert life.events.count("die") == 3

    lived(tmp_path, work)


def test_a_stop_ends_the_back_off(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="always")
        await start.start(life.eng, "c")
        c.live.delay = 30.0
        life.driver.lives[0].end(1)
        await life.until(lambda: c.state.status is Status.RESTARTING)
        waiter = wait.wait(life.eng, "c", "not-running")
        await stop.stop(life.eng, "c", None, None)
        assert (await waiter.result())["StatusCode"] == 1
        assert c.state.status is Status.EXITED and c.live.timer is None
        assert life.events[-1] == "stop"

    lived(tmp_path, work)


def test_a_stopped_container_is_not_restarted_by_its_policy(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="always")
        await start.start(life.eng, "c")
        await stop.stop(life.eng, "c", None, 5)
        assert (c.state.status, c.state.exit_code, c.state.manually_stopped) == (Status.EXITED, 143, True)
        assert life.events == ["connect", "start", "kill", "disconnect", "die", "stop"]
        with pytest.raises(NotModified):
            await stop.stop(life.eng, "c", None, None)

    lived(tmp_path, work)


def test_stop_kills_what_ignores_the_stop_signal(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        await start.start(life.eng, "c")
        life.driver.lives[0].dies_of = {9}
        await stop.stop(life.eng, "c", "HUP", 0)
        assert life.driver.lives[0].signals == [1, 9]
        assert c.state.exit_code == 137
        kills = [e["Actor"]["Attributes"]["signal"] for e in life.eng.bus.recent() if e["Action"] == "kill"]
        assert kills == ["1", "9"]

    lived(tmp_path, work)


def test_what_does_not_end_by_sigkill_is_ended_past_its_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "KILL_TIMEOUT", 0.05)

    async def work(life: Life) -> None:
        c = life.create()
        await start.start(life.eng, "c")
        first = life.driver.lives[0]
        first.dies_of, first.indestructible = set(), True
        text = "tried to kill the container, but it did not receive an exit event: processes 4242 survive SIGKILL"
        with pytest.raises(System, match=text):
            await remove.remove(life.eng, "c", force=True)
        assert (c.state.status, c.state.operation) == (Status.RUNNING, Operation.NONE)
        first.indestructible = False
        await stop.kill(life.eng, "c", None)
        assert (c.state.status, c.state.exit_code) == (Status.EXITED, 137)

    lived(tmp_path, work)


def test_a_signal_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "DELIVERY_TIMEOUT", 0.05)
    monkeypatch.setattr(stop, "KILL_TIMEOUT", 0.05)

    async def work(life: Life) -> None:
        c = life.create()
        await start.start(life.eng, "c")

        async def signal(sig: int, all: bool = False) -> None:
            await asyncio.Event().wait()

        life.driver.lives[0].signal = signal  # type: ignore[method-assign]
        await stop.stop(life.eng, "c", None, 0)
        assert c.state.exit_code == 137

    lived(tmp_path, work)


def test_kill_of_what_does_not_run(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        text = f"cannot kill container: c: container {c.id} is not running"
        with pytest.raises(Conflict, match=text):
            await stop.kill(life.eng, "c", None)
        with pytest.raises(InvalidParameter, match="invalid signal: FOO"):
            await stop.kill(life.eng, "c", "FOO")

    lived(tmp_path, work)


def test_kill_reaches_a_container_whose_stop_is_under_way(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        await start.start(life.eng, "c")
        life.driver.lives[0].dies_of = {9}
        stopping = asyncio.ensure_future(stop.stop(life.eng, "c", None, -1))
        await life.until(lambda: life.driver.lives[0].signals == [15])
        await stop.kill(life.eng, "c", None)
        await stopping
        assert c.state.exit_code == 137

    lived(tmp_path, work)


def test_restart_starts_anew(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="always")
        await start.start(life.eng, "c")
        await stop.restart(life.eng, "c", None, None)
        assert (c.state.status, c.state.generation, c.state.manually_stopped) == (Status.RUNNING, 2, False)
        assert life.events[2:] == ["kill", "disconnect", "die", "stop", "connect", "start", "restart"]
        life.driver.lives[1].end(0)
        await life.until(lambda: len(life.driver.lives) == 3)
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


def test_pause_and_stop_of_the_paused(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        with pytest.raises(Conflict, match="is not running"):
            await pause.pause(life.eng, "c")
        await start.start(life.eng, "c")
        with pytest.raises(Conflict, match="is not paused"):
            await pause.unpause(life.eng, "c")
        await pause.pause(life.eng, "c")
        assert c.state.status is Status.PAUSED
        with pytest.raises(Conflict, match="is already paused"):
            await pause.pause(life.eng, "c")
        await stop.stop(life.eng, "c", None, None)
        assert c.state.status is Status.EXITED

    lived(tmp_path, work)


def test_wait_conditions(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        with pytest.raises(InvalidParameter, match='invalid condition: "soon"'):
            wait.wait(life.eng, "c", "soon")
        assert await wait.wait(life.eng, "c", "").result() == {"StatusCode": 0, "Error": None}
        following, removal = (wait.wait(life.eng, "c", condition) for condition in ("next-exit", "removed"))
        await start.start(life.eng, "c")
        left = wait.wait(life.eng, "c", "not-running")
        left.close()
        life.driver.lives[0].end(5)
        assert (await following.result())["StatusCode"] == 5
        assert c.live.stop_waiters == []
        c.live.removed(wait.outcome(c))
        assert (await removal.result())["StatusCode"] == 5

    lived(tmp_path, work)


def restored(life: Life) -> None:
    """What a new engine knows: the rows."""
    from boxwright.engine.graphdb import Graph
    from boxwright.engine.store import Store

    life.eng.store = Store(life.eng.db, Graph(life.eng.db))
    life.eng.store.load()


def test_a_new_engine_adopts_what_runs(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        await start.start(life.eng, "c")
        running = life.driver.lives[0]
        life.driver.found[running.id] = running
        restored(life)
        await restore.restore(life.eng)
        c = life.eng.store.get("c")
        assert c.running is running and c.state.status is Status.RUNNING
        running.end(7)
        await life.until(lambda: c.state.status is Status.EXITED)
        assert c.state.exit_code == 7 and life.network.held == {}

    lived(tmp_path, work)


def test_an_exit_that_no_engine_saw_is_read_from_its_record(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="on-failure", retries=5)
        await start.start(life.eng, "c")
        life.driver.records[c.id, 1] = ExitStatus(9, 0, False, "2026-01-01T00:00:00Z")
        restored(life)
        await restore.restore(life.eng)
        c = life.eng.store.get("c")
        assert c.state.status is Status.RESTARTING and c.state.exit_code == 9
        await life.until(lambda: c.state.status is Status.RUNNING)
        assert c.state.generation == 2
        await stop.kill(life.eng, "c", None)

    lived(tmp_path, work)


def test_a_start_that_was_cut_off_is_undone(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        with life.eng.db.transaction():
            life.eng.store.change(c, operation=Operation.STARTING, generation=1)
            from boxwright.network.endpoint import EndpointRequest

            life.network.plan(EndpointRequest(c.id, 1))
        restored(life)
        await restore.restore(life.eng)
        c = life.eng.store.get("c")
        assert (c.state.status, c.state.operation) == (Status.CREATED, Operation.NONE)
        assert life.driver.cleaned == [c.id] and life.network.held == {}
        assert (c.state.exit_code, c.state.error) == (128, restore.UNDONE)
        assert wait.outcome(c) == {"StatusCode": 128, "Error": {"Message": restore.UNDONE}}
        await start.start(life.eng, "c")
        assert (c.state.exit_code, c.state.error) == (0, "")
        await stop.kill(life.eng, "c", None)


def test_the_back_off_knows_a_short_life_when_the_clock_has_jumped(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="always")
        await start.start(life.eng, "c")
        for expected in (0.1, 0.2, 0.4):
            await life.until(lambda: c.state.status is Status.RUNNING)
            life.driver.lives[-1].exit.set_result(ExitStatus(1, 0, False, "2999-01-01T00:00:00Z", lived=0.5))
            await life.until(lambda: c.state.status is Status.RESTARTING)
            assert c.live.delay == pytest.approx(expected)
        died = [event for event in life.eng.bus.recent() if event["Action"] == "die"]
        assert {event["Actor"]["Attributes"]["execDuration"] for event in died} == {"0"}
        await stop.stop(life.eng, "c", None, 0)

    lived(tmp_path, work)


def test_an_undone_start_of_an_auto_remove_container_removes_it(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(auto_remove=True)
        life.eng.store.change(c, operation=Operation.STARTING, generation=1)
        restored(life)
        removed: list[str] = []

        async def finish(_: object, container: Container) -> None:
            removed.append(container.id)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(exits, "finish", finish)
            await restore.restore(life.eng)
            await life.until(lambda: removed == [c.id])

    lived(tmp_path, work)


@pytest.mark.parametrize(
    ("policy", "manually", "booted", "again"),
    [
        ("no", False, True, False),
        ("always", True, True, True),
        ("always", True, False, False),
        ("always", False, False, True),
        ("unless-stopped", True, True, False),
        ("unless-stopped", False, True, True),
        ("on-failure", False, True, False),
    ],
)
def test_policies_resume_with_the_engine(
    tmp_path: Path, policy: str, manually: bool, booted: bool, again: bool
) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart=policy)
        await start.start(life.eng, "c")
        await stop.stop(life.eng, "c", None, None)
        life.eng.store.change(c, manually_stopped=manually)
        if not booted:
            shutil.copy("/proc/sys/kernel/random/boot_id", tmp_path / "boot")
        restored(life)
        await restore.restore(life.eng)
        c = life.eng.store.get("c")
        if again:
            await life.until(lambda: c.state.status is Status.RUNNING)
            await stop.kill(life.eng, "c", None)
        else:
            assert c.state.status is Status.EXITED

    lived(tmp_path, work)


def test_a_restart_that_fails_ends_the_policy(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="always")
        await start.start(life.eng, "c")
        life.driver.error = StepError("no", exit_code=128)
        life.driver.lives[0].end(1)
        await life.until(lambda: c.state.status is Status.RESTARTING)
        await life.until(lambda: c.state.status is Status.EXITED)
        assert c.state.exit_code == 128
        monitor.cancel(c)

    lived(tmp_path, work)


def test_a_restart_that_is_refused_ends_the_policy(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create(restart="always")
        await start.start(life.eng, "c")
        life.driver.lives[0].end(1)
        await life.until(lambda: c.state.status is Status.RESTARTING)
        life.eng.drivers = {}  # its runtime is gone: nothing can be verified
        await life.until(lambda: c.state.status is Status.EXITED)
        assert len(life.driver.lives) == 1

    lived(tmp_path, work)
