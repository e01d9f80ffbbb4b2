"""Prompts into keys and values: several requests together, in chunks between decode steps, once for all choices.

All but the last token of a prompt are computed here; the last one is the first decode step of each choice, so sampling
happens in one place and a prompt whose prefix is cached may need nothing at all. A batch of prompts is ordered by what
is left of them, so those still under way are always the first rows. Leaves out where a finished prompt goes (`lane`).

Axes: B prompts under way, C positions per chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from app.decoder.cache import KVPool, LayerShape, SlotCache
from app.decoder.length import Lengths
from app.decoder.masks import Masks
from app.engine.prefix import PrefixCache
from app.engine.ticket import Ticket
from training.models.policy import Policy, embedding


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a lane's prefill."""

    rows: int  # prompts computed together
    chunk: int  # positions computed between two decode steps
    lengths: Lengths  # buckets of length


@dataclass(slots=True)
class Job:
    """One prompt on its way into keys and values."""

    ticket: Ticket
    row: int = 0  # of the staging pool
    filled: int = 0  # positions done, or found in the prefix cache

    @property
    def ids(self) -> tuple[int, ...]:
        """What is to be computed: the prompt without its last token."""
        return self.ticket.executed_ids[:-1]

    @property
    def left(self) -> int:
        """Positions still to compute."""
        return len(self.ticket.executed_ids) - 1 - self.filled


class Prefill:
    """The prompts of one lane that are not rows yet."""

    def __init__(
        self,
        policy: Policy,
        model: Any,
        layers: Sequence[LayerShape],
        masks: Masks,
        prefix: PrefixCache | None,
        limits: Limits,
    ) -> None:
        self.pool = KVPool(layers, limits.rows, limits.lengths.longest)
        self.jobs: list[Job] = []  # by falling number of positions left
        self.computed_tokens = 0  # prompt positions computed, padding not counted
        self._model = model.base_model  # no head: a prompt's logits are not needed
        self._embedding = embedding(policy)
        self._device = policy.device
        self._cache = SlotCache(self.pool)
        self._masks = masks
        self._prefix = prefix
        self._limits = limits

    @property
    def busy(self) -> bool:
        """Whether prompts are here, computed or not."""
        return bool(self.jobs)

    def start(self, tickets: Sequence[Ticket]) -> None:
        """Begin a batch of at most `limits.rows` prompts; the one before must be over."""
        assert not self.jobs
        assert len(tickets) <= self._limits.rows
        self.jobs = [Job(ticket) for ticket in tickets]
        if self._prefix is not None:
            for job in self.jobs:
                job.filled = self._prefix.match(job.ids)
        self.jobs.sort(key=lambda job: job.left, reverse=True)
        for row, job in enumerate(self.jobs):
            job.row = row
            if self._prefix is not None:
                job.filled = self._prefix.load(job.ids, self.pool, row)

    def advance(self) -> None:
        """Compute one chunk: up to `limits.chunk` positions over all prompts under way."""
        active = [job for job in self.jobs if job.left]
        if not active:
            return
        width = min(max(self._limits.chunk // len(active), 1), max(job.left for job in active))
        self._compute(active, width)
        for job in active:
            done = min(width, job.left)
            job.filled += done
            self.computed_tokens += done
            if self._prefix is not None and not job.left:
                self._prefix.store(job.ids, self.pool, job.row)

    def drop(self, ticket: Ticket) -> None:
        """Forget a request's prompt."""
        self.jobs = [job for job in self.jobs if job.ticket is not ticket]

    def restart(self) -> None:
        """Compute every prompt here again: the weights have changed."""
        for job in self.jobs:
            job.filled = 0
        self.jobs.sort(key=lambda job: job.left, reverse=True)
        for row, job in enumerate(self.jobs):  # else a row that is done would lie before rows under way
            job.row = row

    def _compute(self, active: Sequence[Job], width: int) -> None:
        """Forward the next `width` positions of each active prompt.

        A prompt with less left is padded; what the padding writes lies behind its end and is never read.
        """
        rows = 1 + max(job.row for job in active)
        ids_BC = torch.zeros((rows, width), dtype=torch.long)
        first_B = torch.zeros(rows, dtype=torch.long)
        for job in active:
            piece = job.ids[job.filled : job.filled + width]
            ids_BC[job.row, : len(piece)] = torch.tensor(piece)
            first_B[job.row] = job.filled
        longest = self._limits.lengths.longest
        position_BC = (first_B[:, None] + torch.arange(width)).clamp(max=longest - 1).to(self._device)
        length = self._limits.lengths.bucket(min(int(first_B.max()) + width, longest))
        self._cache.bind(position_BC, length)
        self._model(
            inputs_embeds=self._embedding(ids_BC.to(self._device)),
            attention_mask=self._masks(position_BC, length),
            position_ids=position_BC,
            past_key_values=self._cache,
            use_cache=True,
        )
