"""The way of engine events onto the event loop: one wake-up for all that came since the last one.

The engine's thread appends and goes on; it never waits for a client, and nor does whoever takes: what a slow client has
not read waits behind it (`app.api.http.outbox`). Leaves out what the events become (`app.api.answering.answers`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """What has arrived for one HTTP request. Used on the event loop only."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._arrived = asyncio.Event()

    def put(self, items: Sequence[T]) -> None:
        """Add items and wake whoever waits."""
        self._items.extend(items)
        self._arrived.set()

    async def take(self) -> list[T]:
        """Wait until there is something, and take all of it."""
        await self._arrived.wait()
        self._arrived.clear()
        items, self._items = self._items, []
        return items


class Bell:
    """Hands items from any thread to mailboxes of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: deque[Callable[[], None]] = deque()
        self._rung = False

    def post(self, mailbox: Mailbox[T], items: Sequence[T]) -> None:
        """Deliver items soon; called on the engine's thread, never blocks."""
        self._pending.append(partial(mailbox.put, items))
        if not self._rung:
            self._rung = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._rung = False  # before the queue is emptied: whoever appends from here on rings again
        while self._pending:
            self._pending.popleft()()
