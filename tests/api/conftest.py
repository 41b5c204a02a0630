"""The API server over the fake backend, in a thread of its own, on asyncio and on uvloop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from api.fake_backend import FakeBackend
from api.raw import Client

from boxwright.api import server
from boxwright.api.app import App
from boxwright.api.authorization import Authorization


class ServedFake:
    """A server in a thread; `run` executes a coroutine or a function on its loop."""

    def __init__(
        self,
        path: str,
        factory: Callable[[], asyncio.AbstractEventLoop],
        authorization: Authorization | None = None,
    ) -> None:
        self.path = path
        self.authorization = authorization
        self.tcp = 0
        self.loop = factory()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self._ready.wait(10)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.backend = FakeBackend()
        serving = await server.serve(
            App(self.backend, self.authorization), [f"unix://{self.path}", "tcp://127.0.0.1:0"]
        )
        self.tcp = int(serving.addresses[1].rpartition(":")[2])
        self._ready.set()
        await self._stop.wait()
        await serving.close(0.2)
        if self.authorization is not None:
            await self.authorization.aclose()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        self.loop.call_soon_threadsafe(function, *args)

    def until(self, event: asyncio.Event) -> None:
        """Wait for an event of the fake, at most five seconds."""
        self.run(asyncio.wait_for(event.wait(), 5))

    def client(self) -> Client:
        return Client(self.path)

    def close(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)


@pytest.fixture(params=["asyncio", "uvloop"])
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedFake]:
    factory = asyncio.new_event_loop if request.param == "asyncio" else server.loop_factory()
    served = ServedFake(str(tmp_path / "b.sock"), factory)
    yield served
    served.close()
