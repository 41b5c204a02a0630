"""The event bus: Docker's event objects, a ring of the last ones, and bounded queues for those who listen."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any

from boxwright.events.filters import Filter

RING = 256
QUEUE = 4096

Event = dict[str, Any]


class Bus:
    """Publish and subscribe on the loop's thread; publishing never waits."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=RING)
        self._subscriptions: set[Subscription] = set()

    def publish(
        self, type: str, action: str, id: str, attributes: dict[str, str] | None = None, *, scope: str = "local"
    ) -> Event:
        """Tell the listeners, and remember for those who come later; returns the event as its JSON object.

        type: container, image, network, volume, daemon, ….  id and attributes are the actor's.
        """
        now = time.time_ns()
        known = {name: str(value) for name, value in (attributes or {}).items()}
        event: Event = {}
        if type in ("container", "image"):  # fields of API 1.21 and before, which clients still read
            event = {"status": action, "id": id}
            if type == "container" and (image := known.get("image")):
                event["from"] = image
        event |= {
            "Type": type,
            "Action": action,
            "Actor": {"ID": id, "Attributes": known},
            "scope": scope,
            "time": now // 1_000_000_000,
            "timeNano": now,
        }
        self._ring.append(event)
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)
        return event

    def subscribe(
        self,
        filters: dict[str, list[str]] | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> "Subscription":
        """Listen from now on; with `since_ns` (nanoseconds since the epoch), to the remembered events from then on too.

        With `until_ns` the subscription ends at that time; one in the past gives remembered events only.
        """
        subscription = Subscription(self, Filter(filters or {}), until_ns)
        if since_ns is not None or (until_ns is not None and until_ns <= time.time_ns()):
            subscription.replay(event for event in self._ring if event["timeNano"] >= (since_ns or 0))
        self._subscriptions.add(subscription)
        return subscription

    def recent(self) -> list[Event]:
        """The remembered events, oldest first."""
        return list(self._ring)

    @property
    def listeners(self) -> int:
        """How many subscriptions are open (`NEventsListener` of /info)."""
        return len(self._subscriptions)

    def drop(self, subscription: "Subscription") -> None:
        """Used by `Subscription.close`."""
        self._subscriptions.discard(subscription)


class Subscription:
    """An asynchronous iterator over events; ends at `until`, at `close`, or when the reader is QUEUE events behind.

    A reader that far behind would miss events without a sign; a stream that ends can be taken up again with `since`.
    """

    def __init__(self, bus: Bus, wanted: Filter, until_ns: int | None) -> None:
        self._bus, self._filter, self._until_ns = bus, wanted, until_ns
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def offer(self, event: Event) -> None:
        """Queue the event if it is wanted."""
        if not self._filter.matches(event):
            return
        if len(self._events) >= QUEUE:
            self.close()
            return
        self._events.append(event)
        self._wake.set()

    def replay(self, events: Iterable[Event]) -> None:
        """Queue what happened before, up to `until`."""
        for event in events:
            if self._until_ns is None or event["timeNano"] <= self._until_ns:
                self.offer(event)

    def close(self) -> None:
        """Hear no more; what is queued can still be read."""
        self._closed = True
        self._bus.drop(self)
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), self._left())
            except TimeoutError:
                self.close()
        return self._events.popleft()

    def _left(self) -> float | None:
        return None if self._until_ns is None else max(0.0, (self._until_ns - time.time_ns()) / 1e9)
