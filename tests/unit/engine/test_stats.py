"""`docker stats` against a fake driver: when there are figures, and in which shape."""

import asyncio
import os
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
from support.life import Life, lived

from boxwright.engine import hostinfo, start, stats
from boxwright.errdefs import InvalidParameter, NotFound
from boxwright.execdriver import usage

EMPTY_CPU = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "PERIOD", 0.01)


def test_a_stopped_container_has_dockerds_empty_figures(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        c = life.create()
        (figures,) = [f async for f in stats.stats(life.eng, "c", False, False)]
        assert (figures["name"], figures["id"]) == ("/c", c.id)
        assert figures["read"] == figures["preread"] == "0001-01-01T00:00:00Z"
        assert figures["cpu_stats"] == figures["precpu_stats"] == EMPTY_CPU
        assert figures["memory_stats"] == figures["pids_stats"] == {}
        assert "networks" not in figures

    lived(tmp_path, work)


def test_one_shot_has_no_reading_before_and_a_single_answer_has(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        await start.start(life.eng, "c")
        (shot,) = [f async for f in stats.stats(life.eng, "c", False, True)]
        assert shot["precpu_stats"] == EMPTY_CPU
        assert shot["cpu_stats"]["cpu_usage"]["total_usage"] == 7
        assert shot["memory_stats"]["limit"] > 1  # no limit: the host's memory
        (single,) = [f async for f in stats.stats(life.eng, "c", False, False)]
        assert single["precpu_stats"]["cpu_usage"]["total_usage"] == 7
        assert single["precpu_stats"]["system_cpu_usage"] <= single["cpu_stats"]["system_cpu_usage"]
        assert single["preread"] < single["read"]

    lived(tmp_path, work)


def test_a_stream_goes_on_from_before_the_start_to_the_removal(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        async with aclosing(stats.stats(life.eng, "c", True, False)) as figures:
            assert (await anext(figures))["cpu_stats"] == EMPTY_CPU
            await start.start(life.eng, "c")
            while (await anext(figures))["cpu_stats"] == EMPTY_CPU:
                pass
            life.driver.lives[0].end(0)
            while (await anext(figures))["cpu_stats"] != EMPTY_CPU:
                pass
            life.eng.store.delete(life.eng.store.get("c"))
            assert [f async for f in figures if f["cpu_stats"] != EMPTY_CPU] == []

    lived(tmp_path, work)


def test_the_collector_rests_without_listeners(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        life.create("d")
        async with aclosing(stats.stats(life.eng, "c", True, False)) as one:
            await anext(one)
            async with aclosing(stats.stats(life.eng, "d", True, False)) as two:
                assert (await anext(two))["name"] == "/d"
            assert (await anext(one))["name"] == "/c"
            assert life.eng.stats is not None
            assert life.eng.stats._task is not None
        assert life.eng.stats._task is None

    lived(tmp_path, work)


def test_single_answers_that_are_asked_for_at_once_share_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[int] = []
    read_each = stats._read_each

    def counted(lives: list) -> list:
        jobs.append(len(lives))
        return read_each(lives)

    monkeypatch.setattr(stats, "_read_each", counted)

    async def one(life: Life, name: str) -> dict:
        (shot,) = [f async for f in stats.stats(life.eng, name, False, True)]
        return shot

    async def work(life: Life) -> None:
        names = [f"c{number}" for number in range(20)]
        for name in names:
            life.create(name)
            await start.start(life.eng, name)
        first = asyncio.create_task(one(life, "c0"))
        while not jobs:
            await asyncio.sleep(0)
        tasks = [asyncio.create_task(one(life, name)) for name in [*names, "c3"]]
        await asyncio.sleep(0)
        tasks[5].cancel()  # who hangs up takes it from nobody else
        shots = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert isinstance(shots.pop(6), asyncio.CancelledError)
        assert [shot["name"] for shot in shots] == [f"/{n}" for n in ["c0", *names[:5], *names[6:], "c3"]]
        assert all(shot["cpu_stats"]["cpu_usage"]["total_usage"] == 7 for shot in shots)
        assert jobs == [1, *[1] * stats.FEW, 20 - stats.FEW]
        assert (await one(life, "c3"))["name"] == "/c3"
        assert jobs == [1, *[1] * stats.FEW, 20 - stats.FEW, 1]

    lived(tmp_path, work)


def test_a_reading_that_took_long_sends_the_next_to_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[bool] = []
    read_each, own = stats._read_each, threading.get_ident()

    def watched(lives: list) -> list:
        where.append(threading.get_ident() == own)
        return read_each(lives)

    monkeypatch.setattr(stats, "_read_each", watched)

    async def work(life: Life) -> None:
        life.create()
        await start.start(life.eng, "c")
        for slow in (False, True, True, True):
            monkeypatch.setattr(stats, "QUICK", 0.0 if slow else 60.0)
            (shot,) = [f async for f in stats.stats(life.eng, "c", False, True)]
            assert shot["cpu_stats"]["cpu_usage"]["total_usage"] == 7
            await asyncio.sleep(0)  # the next turn of the loop
        assert where == [True, True, False, True]  # once in a thread, and it is tried again

    lived(tmp_path, work)


def test_a_reading_that_fails_fails_for_those_who_asked_and_the_next_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(life: Life) -> None:
        life.create()
        with monkeypatch.context() as patch:
            patch.setattr(stats, "system_ns", lambda: (_ for _ in ()).throw(OSError(24, "Too many open files")))
            stats._system.cache_clear()
            with pytest.raises(OSError, match="Too many open files"):
                await anext(stats.stats(life.eng, "c", False, True))
        assert (await anext(stats.stats(life.eng, "c", False, True)))["name"] == "/c"

    lived(tmp_path, work)


def test_a_slow_reader_gets_the_newest(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        subscription = stats.Collector().subscribe(life.create())
        for number in range(5):
            subscription.put({"number": number})
        assert await anext(subscription) == {"number": 4}
        subscription.close()

    lived(tmp_path, work)


def test_bad_requests(tmp_path: Path) -> None:
    async def work(life: Life) -> None:
        life.create()
        with pytest.raises(NotFound):
            await anext(stats.stats(life.eng, "nobody", True, False))
        with pytest.raises(InvalidParameter, match="cannot have stream=true and one-shot=true"):
            await anext(stats.stats(life.eng, "c", True, True))

    lived(tmp_path, work)


def test_interfaces_from_procs_table() -> None:
    text = b"Inter-| Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n" + (
        b"  eth0:12345678 2 3 4 0 0 0 0 21 22 23 24 0 0 0 0\n"
    )
    assert usage.parse(text) == {
        "eth0": {
            "rx_bytes": 12345678,
            "rx_packets": 2,
            "rx_errors": 3,
            "rx_dropped": 4,
            "tx_bytes": 21,
            "tx_packets": 22,
            "tx_errors": 23,
            "tx_dropped": 24,
        }
    }


def test_the_hosts_own_interfaces_are_no_containers() -> None:
    assert usage.interfaces(os.getpid()) == {}
    assert usage.interfaces(2**22 + 1) == {}


def test_the_shape_on_cgroup_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostinfo, "host", lambda: hostinfo.HostInfo(cgroup_version="2"))
    entry = {"major": 8, "minor": 0, "op": "read", "value": 4096}
    raw = {
        "cpu": {"usage_ns": 7, "user_ns": 5, "system_ns": 2, "percpu_ns": [], "periods": 4, "throttled_periods": 1},
        "memory": {"usage": 9, "max_usage": 9, "limit": 4096, "failures": 5, "oom_kills": 1, "stat": {"file": 1}},
        "pids": {"current": 1, "limit": -1},
        "blkio": {"io_service_bytes_recursive": [entry]},
        "networks": {},
    }
    figures = stats._shape(raw, "now", {"cpu_usage": stats._cpu_usage(raw["cpu"])})
    assert figures["cpu_stats"]["cpu_usage"] == {"total_usage": 7, "usage_in_kernelmode": 2, "usage_in_usermode": 5}
    assert figures["cpu_stats"]["throttling_data"] == {"periods": 4, "throttled_periods": 1, "throttled_time": 0}
    assert figures["memory_stats"] == {"usage": 9, "stats": {"file": 1}, "failcnt": 1, "limit": 4096}
    assert figures["pids_stats"] == {"current": 1, "limit": 2**64 - 1}
    assert figures["blkio_stats"]["io_service_bytes_recursive"] == [entry]
    assert figures["blkio_stats"]["sectors_recursive"] is None
