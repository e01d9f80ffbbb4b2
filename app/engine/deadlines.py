"""When requests must end: those that are due, soonest first; and nothing is kept of a request that has ended."""

import heapq
import itertools

from app.engine.ticket import Ticket


class Deadlines:
    """Tickets by the moment they are due; the engine's lock guards it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._serial = itertools.count()
        self._ended = 0  # tickets, at most, that ended and are in the heap

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, ticket: Ticket) -> None:
        """Add a ticket, if it has a deadline."""
        if ticket.deadline is not None:
            heapq.heappush(self._heap, (ticket.deadline, next(self._serial), ticket))

    def due(self, now: float) -> list[Ticket]:
        """Remove the tickets whose deadline has passed, and give them."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[2])
        return found

    def ended(self, tickets: int) -> None:
        """Note that tickets have ended before they were due; they are let go of once they are the larger part."""
        self._ended += tickets
        if 2 * self._ended > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].unfinished]
            heapq.heapify(self._heap)
            self._ended = 0
