"""`desire`: run an async test body with an engine of the desired side."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.desired import Desired
from support.life import DEADLINE


@pytest.fixture
def desire(tmp_path: Path) -> Callable[[Callable[[Desired], Awaitable[None]]], None]:
    def run(work: Callable[[Desired], Awaitable[None]]) -> None:
        async def whole() -> None:
            world = Desired(tmp_path)
            try:
                async with asyncio.timeout(3 * DEADLINE):
                    await work(world)
                    await world.eng.settle()
            finally:
                world.close()
                world.eng.db.close()

        asyncio.run(whole())

    return run
