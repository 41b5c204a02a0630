"""The thread for what may block: order, errors, abandoned jobs."""

import asyncio
import threading

import pytest

from boxwright.network.netlink_thread import Worker


def test_jobs_run_in_order_on_one_other_thread() -> None:
    async def body() -> None:
        worker, seen = Worker("test"), []

        def job(number: int) -> tuple[int, str]:
            seen.append(number)
            return number, threading.current_thread().name

        results = await asyncio.gather(*(worker.submit(job, n) for n in range(50)))
        assert results == [(n, "test") for n in range(50)]
        assert seen == list(range(50))
        await worker.close()

    asyncio.run(body())


def test_an_error_goes_to_whoever_awaits_it() -> None:
    async def body() -> None:
        worker = Worker("test")
        with pytest.raises(ZeroDivisionError):
            await worker.submit(lambda: 1 // 0)
        assert await worker.submit(lambda: 7) == 7
        await worker.close()

    asyncio.run(body())


def test_a_job_that_nobody_awaits_any_more_runs_to_its_end() -> None:
    async def body() -> None:
        worker, gate, done = Worker("test"), threading.Event(), threading.Event()

        def job() -> None:
            gate.wait(10)
            done.set()

        future = worker.submit(job)
        future.cancel()
        gate.set()
        await worker.close()
        assert done.is_set()

    asyncio.run(body())
