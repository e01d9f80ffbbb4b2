"""A clock that stands still while nobody may ask, and what is due on it: grades that come late.

Exams take as long as the machine likes; were delays to go on meanwhile, a grade would come fewer updates late than its
condition says. Leaves out what is done when it is due.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Final

TICK_S: Final = 0.05


class Later:
    """Calls by when they are due."""

    def __init__(self, running: Callable[[], bool]) -> None:
        self._running = running  # whether the clock goes
        self._now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, delay_s: float, call: Callable[[], object]) -> None:
        """Have something called so many seconds from now, on this clock."""
        heapq.heappush(self._due, (self._now_s + delay_s, next(self._numbers), call))

    def drop(self) -> int:
        """Forget what is not due yet; returns how much that was."""
        dropped, self._due = len(self._due), []
        return dropped

    async def run(self) -> None:
        """Let the clock go, until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._now_s += (now - before) if self._running() else 0.0
            before = now
            while self._due and self._due[0][0] <= self._now_s:
                heapq.heappop(self._due)[-1]()
