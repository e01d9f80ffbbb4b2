"""A request in the engine's hands: its choices, its times, its events of this step, and the way to cancel it."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Final

import torch
from torch import Tensor

from app.engine.answer import Answer, Reader, answers_of
from app.engine.grammar import Grammar
from app.engine.request import Crashed, Event, FinishReason, Request, Sink
from app.engine.rows import Trace

_PATIENCE: Final = 64  # requests that may pass one for which there are no blocks yet


class Ticket:
    """What `Engine.submit` gives back; everything but `cancel` belongs to the engine's thread."""

    def __init__(
        self,
        request: Request,
        sink: Sink,
        reader: Reader,
        on_cancel: Callable[["Ticket"], None],
        *,
        telling: bool,
        grammar: Grammar | None = None,
    ) -> None:
        self.request = request
        self.executed_ids = request.executed_ids  # before the first step
        self._make_answers = partial(answers_of, request, reader, grammar, telling=telling)
        self.arrived = time.monotonic()
        self.deadline = None if request.deadline_s is None else self.arrived + request.deadline_s
        self.started: float | None = None  # when its prefill began
        self.seeded = 0  # choices that got a row so far
        self.passed_by = 0  # requests that came later and were begun earlier
        self.events: list[Event] = []  # of the step under way
        self.unfinished = request.choices
        self.gone = False  # the sink does not listen any more
        self._finished = 0  # choices, since the last flush
        self._sink = sink
        self._on_cancel = on_cancel

    @cached_property
    def answers(self) -> Sequence[Answer]:
        """Its choices; made by the engine's thread, not by the one that submits."""
        return self._make_answers()

    @cached_property
    def prompt_P(self) -> Tensor:
        """The prompt with its lead-in, int32 [P]; likewise."""
        return torch.tensor(self.executed_ids, dtype=torch.int32)

    @property
    def overdue(self) -> bool:
        """Whether enough have passed it that nobody may any more."""
        return self.passed_by >= _PATIENCE

    def cancel(self) -> None:
        """End it: its slots are free within one step, and each unfinished choice yields `Finished("cancelled")`."""
        self._on_cancel(self)

    def finish(self, answer: Answer, reason: FinishReason, trace: Trace, version: int, now: float) -> None:
        """Close one choice; one that never ran counts as of `version`."""
        if not answer.spans:
            answer.spans.append((version, 0))
        queued = (self.started if self.started is not None else now) - self.arrived
        moments = (answer.first_token_at, answer.began_at, answer.latents_over_at)
        first, began, latents_over = (None if at is None else at - self.arrived for at in moments)
        answer.finish(reason, trace, self.prompt_P, (queued, first, began, latents_over), self.events)
        self.unfinished -= 1
        self._finished += 1

    def finish_unstarted(self, reason: FinishReason, version: int) -> None:
        """Close the choices that never had a row."""
        nothing = torch.empty((0, 0))
        for answer in self.answers:
            if not answer.finished:
                self.finish(answer, reason, Trace(nothing.to(torch.int32), nothing, nothing), version, time.monotonic())

    def fail(self, words: str) -> None:
        """End the whole request with an error."""
        self.events.append(Crashed(words))
        self._finished += self.unfinished
        self.unfinished = 0

    def flush(self) -> int:
        """Hand the step's events to the sink, once; a sink whose event loop is closed counts as a cancel.

        Returns:
            choices that finished among them.

        """
        events, self.events = self.events, []
        finished, self._finished = self._finished, 0
        if not events or self.gone:
            return finished
        try:
            self._sink(events)
        except RuntimeError:
            self.gone = True
            self.cancel()
        return finished
