"""Of starts that are asked for at once, so many together, in their order."""

import asyncio

import pytest

from boxwright.execdriver.turns import Turn, Turns

FOREVER = 3600.0


async def _ask(turns: Turns, order: list[int], count: int) -> list["asyncio.Task[Turn]"]:
    """Tasks that wait for a turn, one after the other; each writes down its number when it has it."""

    async def one(number: int) -> Turn:
        turn = await turns.turn()
        order.append(number)
        return turn

    tasks = []
    for number in range(count):
        tasks.append(asyncio.ensure_future(one(number)))
        await asyncio.sleep(0)
    return tasks


def test_no_more_than_allowed_and_in_their_order() -> None:
    async def run() -> None:
        order: list[int] = []
        tasks = await _ask(Turns(2, FOREVER), order, 6)
        for done in range(6):
            await asyncio.wait([tasks[min(done + 1, 5)]], timeout=10)
            assert order == list(range(min(done + 2, 6)))
            tasks[done].result().end()

    asyncio.run(run())


def test_a_turn_that_is_ended_twice_lets_one_in() -> None:
    async def run() -> None:
        order: list[int] = []
        tasks = await _ask(Turns(1, FOREVER), order, 3)
        first = tasks[0].result()
        first.end()
        first.end()
        await asyncio.wait([tasks[1]], timeout=10)
        await asyncio.sleep(0)
        assert order == [0, 1]
        tasks[1].result().end()
        (await tasks[2]).end()

    asyncio.run(run())


def test_one_that_takes_long_does_not_hold_up_the_others() -> None:
    async def run() -> None:
        order: list[int] = []
        tasks = await _ask(Turns(1, 0.01), order, 3)
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)
        assert order == [0, 1, 2]
        for task in tasks:
            task.result().end()

    asyncio.run(run())


@pytest.mark.parametrize("given", [False, True])
def test_who_gives_up_takes_no_turn_along(given: bool) -> None:
    async def run() -> None:
        order: list[int] = []
        tasks = await _ask(Turns(1, FOREVER), order, 3)
        if given:  # its place has been called, but it has not come to it
            tasks[0].result().end()
        tasks[1].cancel()
        await asyncio.wait([tasks[1]], timeout=10)
        assert tasks[1].cancelled()
        if not given:
            tasks[0].result().end()
        async with asyncio.timeout(10):
            await tasks[2]
        assert order == [0, 2]
        tasks[2].result().end()

    asyncio.run(run())


def test_all_can_be_had_again_afterwards() -> None:
    async def run() -> None:
        turns, order = Turns(2, FOREVER), list[int]()
        for _ in range(3):
            for task in await _ask(turns, order, 2):
                (await asyncio.wait_for(task, 10)).end()
        assert len(order) == 6

    asyncio.run(run())
