"""The engine under measurement: what it is asked, and when its steps came.

Leaves out its peers (`benchmarks.peers`, `benchmarks.bare`).
"""

import threading
import time
from collections.abc import Sequence
from itertools import pairwise

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Crashed, Delta, Event, Finished, Request, Sink
from benchmarks.load import Ask, requests
from training.models.policy import Policy

_PATIENCE_S = 600.0  # a whole load takes no longer


def engine_for(policy: Policy, slots: int, max_length: int, threads: int = 0) -> Engine:
    """Make an engine with the product's defaults, but for its size and cores."""
    return Engine(policy, EngineConfig(slots=slots, max_length=max_length, threads=threads))


def answer(engine: Engine, asks: Sequence[Ask], seed: int, latents: int = 0) -> list[list[int]]:
    """Answer all asks and give the tokens.

    Raises:
        RuntimeError: an answer is not as long as was asked.

    """
    finished = engine.generate(requests(list(asks), seed, latents))
    answers = [[int(token) for token in choices[0].rollout.token_ids_T] for choices in finished]
    for ask, tokens in zip(asks, answers, strict=True):
        if len(tokens) != ask.answer_length:
            raise RuntimeError(f"asked for {ask.answer_length} tokens, got {len(tokens)}")
    return answers


class StepClock:
    """Hears the answers of equal requests and knows when all of them were running."""

    def __init__(self, count: int) -> None:
        self._times: list[list[float]] = [[] for _ in range(count)]  # arrival of each token, by request
        self._left = count
        self._crash: str | None = None
        self._done = threading.Event()

    def sink(self, index: int) -> Sink:
        """Make the sink of one request."""

        def hear(events: Sequence[Event]) -> None:
            now = time.perf_counter()
            for event in events:
                if isinstance(event, Delta) and event.tokens:
                    self._times[index].append(now)
                elif isinstance(event, Finished):
                    self._left -= 1
                elif isinstance(event, Crashed):
                    self._crash, self._left = event.message, 0
            if not self._left:
                self._done.set()

        return hear

    def steps_per_second(self) -> float:
        """Wait for the end; count the steps during which every row ran.

        Raises:
            RuntimeError: the engine failed, or the rows never ran together.

        """
        if not self._done.wait(_PATIENCE_S) or self._crash is not None:
            raise RuntimeError(self._crash or f"the engine did not finish within {_PATIENCE_S:.0f} s")
        first = max(times[0] for times in self._times)
        last = min(times[-1] for times in self._times)
        inside = [at for at in self._times[0] if first <= at <= last]
        if len(inside) < 2:
            raise RuntimeError("the rows did not run together: ask for longer answers")
        return (len(inside) - 1) / (inside[-1] - inside[0])

    def longest_gap(self, began: float, ended: float) -> float:
        """Longest time between two tokens of a request that overlaps a stretch of time; call it after the end."""
        return max(
            (
                later - earlier
                for times in self._times
                for earlier, later in pairwise(times)
                if earlier <= ended and later >= began
            ),
            default=0.0,
        )


def steps_per_second(engine: Engine, asked: Sequence[Request]) -> float:
    """Decode steps per second of a started engine while all of `asked` run, sinks and text included."""
    clock = StepClock(len(asked))
    for index, request in enumerate(asked):
        engine.submit(request, clock.sink(index))
    return clock.steps_per_second()
