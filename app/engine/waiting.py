"""The requests that wait: first come first served within a priority, those nobody waits for last."""

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Literal

from app.engine.ticket import Ticket

_SMOOTHING = 0.1  # weight of the newest interval between two finished choices


class Waiting:
    """A queue of tickets; the engine's lock guards it."""

    def __init__(self) -> None:
        self.choices = 0  # that wait
        self.pressing_choices = 0  # of these, those somebody waits for
        self._heap: list[tuple[bool, int, int, Ticket]] = []
        self._serial = itertools.count()
        self._interval_s = 0.0  # mean seconds between two finished choices of late
        self._last_finish: float | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for _, _, _, ticket in self._heap)

    def push(self, ticket: Ticket) -> None:
        """Add a ticket behind those of its priority."""
        request = ticket.request
        heapq.heappush(self._heap, (request.background, request.priority, next(self._serial), ticket))
        self._count(ticket, 1)

    def take(self, accept: Callable[[Ticket], bool]) -> list[Ticket]:
        """Offer the waiting in their order; the accepted leave.

        One that is not accepted is passed by those behind it, until it is overdue: then all wait for it.

        Returns:
            the accepted.

        """
        left: list[tuple[bool, int, int, Ticket]] = []
        taken: list[Ticket] = []
        while self._heap:
            entry = heapq.heappop(self._heap)
            ticket = entry[3]
            if accept(ticket):
                taken.append(ticket)
                self._count(ticket, -1)
                for _, _, _, passed in left:
                    passed.passed_by += 1
                continue
            left.append(entry)
            if ticket.overdue:
                break
        for entry in left:
            heapq.heappush(self._heap, entry)
        return taken

    def drop(self, ticket: Ticket) -> bool:
        """Remove a ticket; False when it is not here."""
        kept = [entry for entry in self._heap if entry[3] is not ticket]
        if len(kept) == len(self._heap):
            return False
        heapq.heapify(kept)
        self._heap = kept
        self._count(ticket, -1)
        return True

    def _count(self, ticket: Ticket, sign: Literal[1, -1]) -> None:
        self.choices += sign * ticket.request.choices
        if not ticket.request.background:
            self.pressing_choices += sign * ticket.request.choices

    def finished(self, choices: int) -> None:
        """Note that choices finished now: the pace that `estimate_s` goes by."""
        now = time.monotonic()
        if self._last_finish is not None:
            interval = (now - self._last_finish) / choices
            self._interval_s += _SMOOTHING * (interval - self._interval_s) if self._interval_s else interval
        self._last_finish = now

    def estimate_s(self) -> float:
        """Seconds until those who wait now have slots, at the pace of late; at least 1."""
        return max(1.0, self.choices * self._interval_s)
