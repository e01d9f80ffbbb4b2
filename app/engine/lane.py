"""A lane: one resident policy version with everything that depends on it.

Its weights (in storage that never moves), its keys and values, its prefix cache, its prompts under way and its rows.
Two lanes at most make swaps and canaries: a lane that no new requests enter runs its rows to the end and is then free
to take the next weights in place. So a row, its cache and its prompt are of one version by construction. Leaves out
which lane a request enters (`app.engine.lanes`) and how weights get in (`app.engine.stage`).

Axes: B rows in use, V vocabulary, K candidates.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.decoder.anatomy import Anatomy, UnsupportedModel, probe_ids
from app.decoder.cache import KVPool
from app.decoder.fused import FusedDecoder, can_fuse
from app.decoder.lean import LeanDecoder, view_of
from app.decoder.length import Lengths
from app.decoder.masks import Masks
from app.decoder.packed import PackedModel, can_pack
from app.engine.answer import Answer
from app.engine.config import EngineConfig
from app.engine.graphs import StepGraphs
from app.engine.plan import Plan, plan_for
from app.engine.prefill import Limits, Prefill
from app.engine.prefix import BLOCK, PrefixCache
from app.engine.request import FinishReason
from app.engine.rows import Rows, Seed, Trace
from app.engine.ticket import Ticket
from training.models.policy import Policy

STAGED = 8  # prompts computed together at most
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


class NotFinite(RuntimeError):
    """The model's logits are not numbers."""


@dataclass(slots=True)
class Running:
    """Whose row it is."""

    ticket: Ticket
    answer: Answer


@dataclass(slots=True)
class Totals:
    """What a lane has done; only ever grows."""

    steps: int = 0  # forwards of the batch
    tokens: int = 0  # answer tokens drawn
    latents: int = 0  # latent steps drawn
    prompt_tokens: int = 0  # prompt positions asked for
    finished: int = 0  # answers that ended, however


@dataclass(frozen=True, slots=True)
class VersionStats:
    """What a resident version is doing, and has done since it came into its lane."""

    version: int
    role: Literal["serving", "candidate", "other"]
    running: int  # answers being decoded
    finished: int  # answers that ended, however
    tokens: int  # answer tokens drawn
    latents: int  # latent steps drawn


def can_graph(model: PreTrainedModel) -> bool:
    """Whether a model lies on one CUDA device: a graph is of one."""
    devices = {parameter.device for parameter in model.parameters()}
    return len(devices) == 1 and devices.pop().type == "cuda"


def quicker(model: PreTrainedModel) -> LeanDecoder | PackedModel | FusedDecoder | None:
    """Make a view of a model that steps faster where it lies; None where there is none."""
    if can_fuse(model):
        return FusedDecoder(model)
    return view_of(model) if can_pack(model) else None


class Lane:
    """One policy version and its answers; belongs to the engine's thread while it serves."""

    def __init__(self, policy: Policy, anatomy: Anatomy, config: EngineConfig, max_length: int) -> None:
        self.policy = policy
        self.anatomy = anatomy
        self.version = policy.version
        self.fingerprint: str | None = None  # of the live weights, once it was computed
        self.origin: str | None = None  # fingerprint that the checkpoint they were read from names, where it is known
        self.running: list[Running | None] = []  # by row; None is a hole until the next `place`
        self.totals = Totals()
        self._before = Totals()  # when its version came
        graphed = can_graph(policy.model)
        self._lengths = Lengths(max_length, graphed=graphed)
        masks = Masks(anatomy.kinds, anatomy.window, max_length, policy.dtype, policy.device)
        self._view = quicker(policy.model) if config.packing == "auto" else None
        served = self._view or policy.model
        pool = KVPool(anatomy.layers, config.slots, max_length)
        self.rows = Rows(policy, served, pool, masks, config.max_top_k)
        tokens = config.prefix_cache_tokens
        self.prefix = PrefixCache(anatomy.layers, tokens) if tokens >= BLOCK else None
        limits = Limits(min(STAGED, config.slots), config.prefill_chunk, self._lengths)
        self.prefill = Prefill(policy, served, anatomy.layers, masks, self.prefix, limits)
        self.staged_rows = limits.rows
        self._graphs = StepGraphs(self.rows) if graphed else None
        self._plan: Plan | None = None  # of the next steps

    @property
    def in_use(self) -> int:
        """Rows that belong to an answer."""
        return sum(running is not None for running in self.running)

    @property
    def idle(self) -> bool:
        """Whether nothing here depends on the weights any more, but the prefix cache."""
        return self.in_use == 0 and not self.prefill.busy

    @property
    def waiting_choices(self) -> int:
        """Choices whose prompt is here and that have no row yet."""
        return sum(job.ticket.request.choices - job.ticket.seeded for job in self.prefill.jobs)

    def stats(self, role: Literal["serving", "candidate", "other"]) -> VersionStats:
        """Say what this version is doing and has done here."""
        now, before = self.totals, self._before
        return VersionStats(
            version=self.version,
            role=role,
            running=self.in_use,
            finished=now.finished - before.finished,
            tokens=now.tokens - before.tokens,
            latents=now.latents - before.latents,
        )

    def tickets(self) -> list[Ticket]:
        """Give the requests that have an answer or a prompt here."""
        rows = [running.ticket for running in self.running if running is not None]
        return list(dict.fromkeys([*rows, *(job.ticket for job in self.prefill.jobs)]))

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """Start the prompts of requests; from here on they are of this version."""
        self.totals.prompt_tokens += sum(len(ticket.executed_ids) for ticket in tickets)
        self.prefill.start(tickets)

    def place(self, free: int) -> None:
        """Give rows to up to `free` choices whose prompts are done, then close the holes that are left."""
        if not self.prefill.jobs and None not in self.running:
            return
        holes = [row for row, running in enumerate(self.running) if running is None]
        seeds: list[Seed] = []
        for job in self.prefill.jobs:
            if job.left:
                continue
            ticket = job.ticket
            while free > len(seeds) and ticket.seeded < ticket.request.choices:
                answer = ticket.answers[ticket.seeded]
                ticket.seeded += 1
                if answer.finished:
                    continue
                row = holes.pop(0) if holes else self._new_row()
                seeds.append(self._seed(row, ticket, answer, job.row))
        if seeds:
            self.rows.seed(seeds)
        self.prefill.jobs = [job for job in self.prefill.jobs if job.ticket.seeded < job.ticket.request.choices]
        self._close(holes)
        self._plan = None

    def step(self) -> None:
        """Move every row by one step and tell its ticket what happened."""
        if not self.running:
            return
        rows = len(self.running)
        plan = self._plan or plan_for(self._answers(), self.rows.width, self.anatomy.columns, self.policy.device)
        run = self.rows.step if self._graphs is None or plan.bias is not None else self._graphs.step
        length = self._lengths.bucket(plan.needed)
        if plan.masked:
            self.rows.allow([answer.mask for answer in self._answers()])
        drawn_B3, logits_BV = run(rows, length, plan.width, draws=plan.draws, bias=plan.bias, masked=plan.masked)
        drawn = drawn_B3.tolist()  # the one place where the host waits for the device
        tops = self._tops(logits_BV, plan.top_logprobs) if plan.top_logprobs else [()] * rows
        self.totals.steps += 1
        self.totals.latents += plan.latents
        self.totals.tokens += plan.tokens
        self._plan = plan if plan.advance() else None
        self._take(drawn, tops)

    def end(self, ticket: Ticket, reason: FinishReason) -> None:
        """End what a request has here, now: running choices and those that still wait for a row."""
        now = time.monotonic()
        for row, running in enumerate(self.running):
            if running is not None and running.ticket is ticket:
                self._finish(row, reason, now)
        self.prefill.drop(ticket)

    @property
    def packed(self) -> bool:
        """Whether steps run by a quicker view than the stock forward."""
        return self._view is not None

    def repack(self) -> None:
        """Follow weights that were changed in place; nothing to do where they are read as they lie."""
        if self._view is not None:
            self._view.repack()

    def change(self, version: int, fingerprint: str) -> None:
        """Note that the weights are others now. Rows under way go on, their spans say so; prompts start again."""
        self.version, self.fingerprint, self.origin = version, fingerprint, None
        self._before = replace(self.totals)
        if self.prefix is not None:
            self.prefix.drop()
        self.prefill.restart()
        for running in self.running:
            if running is not None:
                running.answer.spans.append((version, running.answer.steps))

    def prove(self) -> None:
        """Compare logits through slots with those of a plain forward, once, at load.

        Raises:
            UnsupportedModel: they differ, so the model does something between positions that slots do not carry.

        """
        ids_1T = probe_ids(self.anatomy, self._lengths.longest).to(self.policy.device)
        head = ids_1T.shape[1] - 2
        with torch.inference_mode():
            plain_1V: Tensor = self.policy.model(input_ids=ids_1T, use_cache=False).logits[:, -1].to(ids_1T.device)
            inputs_1TD = self.rows.embedding(ids_1T)
            position_1T = torch.arange(ids_1T.shape[1], device=ids_1T.device)[None]
            length = self._lengths.bucket(ids_1T.shape[1])
            self.rows.forward(inputs_1TD[:, :head], position_1T[:, :head], length)
            for at in range(head, ids_1T.shape[1]):
                slots_1V = self.rows.forward(inputs_1TD[:, at : at + 1], position_1T[:, at : at + 1], length)
        error = float((slots_1V - plain_1V).abs().max() / plain_1V.abs().max().clamp(min=1e-6))
        if not error <= _TOLERANCE[self.policy.dtype]:
            raise UnsupportedModel(
                f"{type(self.policy.model).__name__} gives other logits through slots (off by {error:.2g}): it keeps "
                "something between positions that is not keys and values; choose another model"
            )

    def _new_row(self) -> int:
        self.running.append(None)
        return len(self.running) - 1

    def _seed(self, row: int, ticket: Ticket, answer: Answer, staged: int) -> Seed:
        """Make a finished prompt a row."""
        self.running[row] = Running(ticket, answer)
        answer.began_at = time.monotonic()
        answer.spans.append((self.version, 0))
        if answer.base:
            self.rows.pool.copy(row, self.prefill.pool, staged, answer.base)
        return Seed(row, ticket.executed_ids[-1], answer.base, answer.sampling)

    def _close(self, holes: Sequence[int]) -> None:
        """Fill holes with the last rows, so that the rows in use are the first ones."""
        for hole in sorted(holes, reverse=True):
            last = len(self.running) - 1
            moved = self.running[last]
            if hole != last:
                assert moved is not None
                self.rows.move(last, hole, moved.answer.base + moved.answer.steps)
                self.running[hole] = moved
            self.running.pop()
        if holes:
            self.rows.clear(slice(len(self.running), len(self.running) + len(holes)))

    def _take(self, drawn: Sequence[Sequence[float]], tops: Sequence[tuple[tuple[int, float], ...]]) -> None:
        """Give each row's answer its numbers."""
        now = time.monotonic()
        given: dict[int, int] = {}
        for row, (running, numbers, top) in enumerate(zip(self.running, drawn, tops, strict=True)):
            if math.isnan(numbers[1]):
                raise NotFinite(f"policy version {self.version} gave logits that are not numbers")
            assert running is not None
            reason = running.answer.take(numbers, top, now, running.ticket.events)
            if reason is not None:
                self._finish(row, reason, now)
            elif (next_id := running.answer.given_id) is not None:
                given[row] = next_id
        if given:
            self.rows.give(given)

    def _finish(self, row: int, reason: FinishReason, now: float) -> None:
        """Close a row's answer and leave a hole."""
        running = self.running[row]
        assert running is not None
        trace: Trace = self.rows.trace(row, running.answer.latents)
        running.ticket.finish(running.answer, reason, trace, self.version, now)
        self.totals.finished += 1
        self.running[row] = None

    def _answers(self) -> list[Answer]:
        """Answers by row; before a step there are no holes."""
        answers = [running.answer for running in self.running if running is not None]
        assert len(answers) == len(self.running)
        return answers

    def _tops(self, logits_BV: Tensor, most: int) -> list[tuple[tuple[int, float], ...]]:
        """Likeliest tokens of each row that asked for them, at its temperature; none that could not be drawn."""
        answers = self._answers()
        scale_B1 = self.rows.controls(len(answers)).scale_B1
        top = (logits_BV.float() * scale_B1).log_softmax(-1).topk(most, dim=-1)
        found = zip(top.indices.tolist(), top.values.tolist(), answers, strict=True)
        return [
            tuple(pair for pair in zip(ids, values, strict=True) if pair[1] > -math.inf)[: answer.request.top_logprobs]
            for ids, values, answer in found
        ]
