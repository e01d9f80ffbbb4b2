"""A load that lasts: a number of answers always under way on a started engine, each followed by the next one.

Hears when each answer was asked for and when its tokens came, so that a first token's wait and the gaps between tokens
can be told for any stretch of time.
"""

import itertools
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType

from app.engine.engine import Engine
from app.engine.request import Crashed, Delta, Event, Finished, Sink
from benchmarks.load import equal_asks, requests
from benchmarks.shapes import Shape

_PATIENCE_S = 120.0


@dataclass(eq=False, slots=True)
class Heard:
    """One answer."""

    asked_at: float  # perf_counter seconds
    times: list[float] = field(default_factory=list)  # of its tokens


class Streams:
    """The load; a context in which it runs.

    Raises:
        RuntimeError: on leaving, when the engine failed meanwhile.

    """

    def __init__(self, engine: Engine, shape: Shape, count: int, prompt: int, answer: int, latents: int = 0) -> None:
        self.heard: list[Heard] = []
        self._engine, self._shape, self._count = engine, shape, count
        self._sizes = (prompt, answer, latents)
        self._over: queue.SimpleQueue[str] = queue.SimpleQueue()  # "" per finished answer, else why the engine failed
        self._stopping = threading.Event()
        self._seed = itertools.count()
        self._crash = ""
        self._feeder = threading.Thread(target=self._feed, name="streams", daemon=True)

    def __enter__(self) -> "Streams":
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._feeder.join(_PATIENCE_S)
        if kind is None and self._crash:
            raise RuntimeError(self._crash)

    def first_tokens_s(self, since: float) -> list[float]:
        """Seconds that answers asked for after `since` waited for their first token."""
        return [one.times[0] - one.asked_at for one in list(self.heard) if one.asked_at >= since and one.times]

    def tokens(self, since: float, until: float) -> int:
        """Tokens that came within a stretch of time."""
        return sum(since <= at < until for one in list(self.heard) for at in list(one.times))

    def longest_gap_s(self, since: float, until: float) -> float:
        """Longest time between two tokens of one answer that overlaps a stretch of time."""
        return max(
            (
                later - earlier
                for one in list(self.heard)
                for earlier, later in pairwise(list(one.times))
                if earlier <= until and later >= since
            ),
            default=0.0,
        )

    def _feed(self) -> None:
        for _ in range(self._count):
            self._ask()
        running = self._count
        while running and not self._crash:
            self._crash = self._over.get()
            running -= 1
            if not self._stopping.is_set() and not self._crash:
                self._ask()
                running += 1

    def _ask(self) -> None:
        prompt, answer, latents = self._sizes
        seed = next(self._seed)
        (request,) = requests(equal_asks(self._shape, 1, prompt, answer, seed), seed, latents)
        heard = Heard(time.perf_counter())
        self.heard.append(heard)
        self._engine.submit(request, self._sink(heard))

    def _sink(self, heard: Heard) -> Sink:
        def hear(events: Sequence[Event]) -> None:
            now = time.perf_counter()
            for event in events:
                if isinstance(event, Delta) and event.tokens:
                    heard.times.append(now)
                elif isinstance(event, Finished):
                    self._over.put("")
                elif isinstance(event, Crashed):
                    self._over.put(event.message)

        return hear
