"""A lane: one resident policy version with everything that depends on it.

Its weights (in storage that never moves), its prompts under way and its rows; keys and values lie in blocks of the pool
that all lanes share. Two lanes at most make swaps and canaries: a lane that no new requests enter runs its rows to the
end and is then free to take the next weights in place. So a row, its blocks and its prompt are of one version by
construction. Leaves out which lane a request enters and who gives up blocks when there are none (`app.engine.lanes`),
and how weights get in (`app.engine.stage`).

Axes: B rows in use, V vocabulary, K candidates.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from app.decoder.anatomy import Anatomy, UnsupportedModel, probe_ids
from app.decoder.cache import BLOCK, BlockPool, LayerShape, PagedCache
from app.decoder.fused import FusedDecoder, can_fuse
from app.decoder.lean import LeanDecoder, can_lean, view_of
from app.decoder.length import Lengths
from app.decoder.masks import Masks
from app.decoder.packed import PackedModel, can_pack
from app.engine.answer import Answer
from app.engine.blocks import Blocks, Root
from app.engine.config import EngineConfig
from app.engine.graphs import StepGraphs
from app.engine.plan import Plan, plan_for
from app.engine.prefill import Prefill, Prompt, Resumed
from app.engine.request import FinishReason
from app.engine.rows import Rows, Seed, Trace
from app.engine.ticket import Ticket
from training.latent import mix
from training.models.policy import Policy

_LOG = logging.getLogger(__name__)
_BRIEF = 3  # positions
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


class OutOfBlocks(Exception):
    """A row needs a block, and there is none: somebody must give up theirs."""


@dataclass(slots=True, eq=False)
class Running:
    """Whose row it is, and what it holds."""

    ticket: Ticket
    answer: Answer
    blocks: list[int]
    known: int  # blocks of these that can be found by their tokens
    root: Root  # of the block behind those

    @property
    def position(self) -> int:
        """Where the next step stands."""
        return self.answer.base + self.answer.steps


@dataclass(slots=True)
class Totals:
    """What a lane has done; only ever grows."""

    steps: int = 0  # forwards of the batch
    tokens: int = 0  # answer tokens drawn
    latents: int = 0  # latent steps drawn
    prompt_tokens: int = 0  # prompt positions asked for
    finished: int = 0  # answers that ended, however
    preempted: int = 0  # answers that had to give up their blocks
    not_finite: int = 0  # requests that failed because logits were not numbers


@dataclass(frozen=True, slots=True)
class VersionStats:
    """What a resident version is doing, and has done since it came into its lane."""

    version: int
    role: Literal["serving", "candidate", "other"]
    running: int  # answers being decoded
    finished: int  # answers that ended, however
    tokens: int  # answer tokens drawn
    latents: int  # latent steps drawn
    not_finite: int  # requests that failed because its logits were not numbers; more than none: it is suspect


def rank(ticket: Ticket) -> tuple[bool, int]:
    """Say who goes first: those somebody waits for, then those of the smaller number."""
    return ticket.request.background, ticket.request.priority


def can_graph(model: PreTrainedModel) -> bool:
    """Whether a model lies on one CUDA device: a graph is of one."""
    devices = {parameter.device for parameter in model.parameters()}
    return len(devices) == 1 and devices.pop().type == "cuda"


def quicker(model: PreTrainedModel) -> LeanDecoder | PackedModel | FusedDecoder | None:
    """Make a view of a model that steps faster where it lies; None where there is none."""
    if can_fuse(model):
        return FusedDecoder(model)
    return view_of(model) if can_pack(model) else None


def as_kept(anatomy: Anatomy, model: PreTrainedModel, config: EngineConfig) -> Anatomy:
    """Say in which dtype keys and values are kept: the model's, but float32 where `app.decoder.lean` steps it."""
    if config.packing == "off" or can_fuse(model) or not (can_pack(model) and can_lean(model)):
        return anatomy
    wide = [
        LayerShape(replace(layer.keys, dtype=torch.float32), replace(layer.values, dtype=torch.float32))
        for layer in anatomy.layers
    ]
    return replace(anatomy, layers=tuple(wide))


class Lane:
    """One policy version and its answers; belongs to the engine's thread while it serves."""

    def __init__(
        self,
        policy: Policy,
        anatomy: Anatomy,
        config: EngineConfig,
        max_length: int,
        storage: tuple[BlockPool, Blocks],
    ) -> None:
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
        kept = anatomy.layers[0].keys.dtype
        self._masks = Masks(anatomy.kinds, anatomy.window, self._lengths.longest, kept, policy.device)
        self._view = quicker(policy.model) if config.packing == "auto" else None
        served = self._view or policy.model
        pool, self._blocks = storage
        self._pool = pool
        cache = PagedCache(pool)
        size = (config.slots, self._lengths.blocks)
        self.rows = Rows(policy, served, cache, self._masks, size, config.max_top_k)
        self.prefill = Prefill(policy, served, cache, self._masks, self._blocks, self._lengths)
        self._graphs = StepGraphs(self.rows) if graphed else None
        self._plan: Plan | None = None  # of the next steps
        self._steps_in_blocks = 0  # steps until a row needs its next block

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
        return sum(prompt.choices for prompt in self.prefill.prompts)

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
            not_finite=now.not_finite - before.not_finite,
        )

    def tickets(self) -> list[Ticket]:
        """Give the requests that have an answer or a prompt here."""
        rows = [running.ticket for running in self.running if running is not None]
        return list(dict.fromkeys([*rows, *(prompt.ticket for prompt in self.prefill.prompts)]))

    def begin(self, ticket: Ticket) -> None:
        """Start the prompt of a request; from here on it is of this version."""
        self.totals.prompt_tokens += len(ticket.executed_ids)
        self.prefill.add(Prompt(ticket))

    def place(self, free: int) -> None:
        """Give rows to up to `free` choices whose prompts are done, then close the holes that are left.

        A row goes to the request that has fewest, so that one of many choices does not keep the others waiting.
        """
        ready = [prompt for prompt in self.prefill.prompts if prompt.ready]
        if not ready and None not in self.running:
            return
        holes = [row for row, running in enumerate(self.running) if running is None]
        rows = Counter(running.ticket for running in self.running if running is not None)
        seeds: list[Seed] = []
        while ready and len(seeds) < free:
            prompt = min(ready, key=lambda one: (*rank(one.ticket), rows[one.ticket], one.ticket.arrived))
            last = len(prompt.waiting) <= 1
            if prompt.waiting:
                blocks = self._blocks_of_a_row(prompt, last=last)
                if blocks is None:
                    break
                row = holes.pop(0) if holes else self._new_row()
                seeds.append(self._seed(row, prompt, blocks))
                rows[prompt.ticket] += 1
            if last:
                ready.remove(prompt)
                self.prefill.remove(prompt)
        if seeds:
            self.rows.seed(seeds)
        self._close(holes)
        self._plan, self._steps_in_blocks = None, 0

    def grow(self) -> None:
        """See to it that every row has a block for its next step.

        Raises:
            OutOfBlocks: one has not; those before it have theirs.

        """
        if self._steps_in_blocks or not self.running:
            return
        added: list[tuple[int, int, int]] = []
        left = BLOCK
        short = False
        for row, running in enumerate(self.running):
            assert running is not None
            if running.position == len(running.blocks) * BLOCK:
                taken = self._blocks.take(1)
                if taken is None:
                    short = True
                    continue
                added.append((row, len(running.blocks), taken[0]))
                running.blocks += taken
            left = min(left, len(running.blocks) * BLOCK - running.position)
        if added:
            self.rows.extend(added)
        if short:
            raise OutOfBlocks
        self._steps_in_blocks = left

    def retreat(self, running: Running) -> None:
        """Take its row and its blocks from an answer; it goes on when there is room, from where it was."""
        row, answer = self.running.index(running), running.answer
        trace = self.rows.trace(row, answer.latents)
        resumed = Resumed(answer, trace, self._inputs_of(running, trace), self.rows.next_input(row))
        self._blocks.give_back(running.blocks)
        self.totals.preempted += 1
        self.running[row] = None
        self._close([row])
        self._plan, self._steps_in_blocks = None, 0
        self.prefill.prompts.insert(0, Prompt(running.ticket, resumed))

    def step(self) -> None:
        """Move every row by one step and tell its ticket what happened."""
        if not self.running:
            return
        rows = len(self.running)
        plan = self._plan or plan_for(self._answers(), self.rows.width, self.anatomy.columns, self.policy.device)
        run = self.rows.step if self._graphs is None else self._graphs.step
        length = self._lengths.bucket(plan.needed)
        if plan.masked:
            self.rows.allow([answer.mask for answer in self._answers()])
        drawn_B3, logits_BV = run(rows, length, plan.width, draws=plan.draws, bias=plan.bias, masked=plan.masked)
        drawn = drawn_B3.tolist()  # the one place where the host waits for the device
        tops = self._tops(logits_BV, plan.top_logprobs) if plan.top_logprobs else [()] * rows
        self.totals.steps += 1
        self.totals.latents += plan.latents
        self.totals.tokens += plan.tokens
        self._steps_in_blocks -= 1
        self._plan = plan if plan.advance() else None
        self._take(drawn, tops)

    def end(self, ticket: Ticket, reason: FinishReason) -> None:
        """End what a request has here, now: running choices and those that still wait for a row."""
        now = time.monotonic()
        for row, running in enumerate(self.running):
            if running is not None and running.ticket is ticket:
                self._finish(row, reason, now)
        for prompt in [prompt for prompt in self.prefill.prompts if prompt.ticket is ticket]:
            if prompt.resumed is not None:
                self._finished(ticket, prompt.resumed.answer, reason, prompt.resumed.trace, now)
            self.prefill.remove(prompt)

    def fail(self, ticket: Ticket, words: str) -> None:
        """End a request with an error; the others go on."""
        ticket.fail(words)
        for row, running in enumerate(self.running):
            if running is not None and running.ticket is ticket:
                self._blocks.give_back(running.blocks)
                self.running[row] = None
        for prompt in [prompt for prompt in self.prefill.prompts if prompt.ticket is ticket]:
            self.prefill.remove(prompt)

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
        self.prefill.restart()
        rows = [running.answer for running in self.running if running is not None]
        for answer in (*rows, *(one.resumed.answer for one in self.prefill.prompts if one.resumed is not None)):
            answer.spans.append((version, answer.steps))

    def prove(self, *, briefly: bool = False) -> None:
        """Compare logits through blocks with those of a plain forward: when a model is loaded, and when weights come.

        Args:
            briefly: by three positions; the model is known to work through blocks, new weights need only be shown.

        Raises:
            UnsupportedModel: they differ, so the model does something between positions that slots do not carry.

        """
        most = _BRIEF if briefly else self._lengths.positions
        ids_1T = probe_ids(self.anatomy, most).to(self.policy.device)
        count = ids_1T.shape[1]
        head, length = count - 2, self._lengths.bucket(count)
        cache = PagedCache(BlockPool(self.anatomy.layers, 1 + length // BLOCK))  # its own: rows may run meanwhile
        table_1T = torch.arange(1, 1 + length // BLOCK, device=ids_1T.device)[None]
        with torch.inference_mode():
            plain_1V: Tensor = self.policy.model(input_ids=ids_1T, use_cache=False).logits[:, -1].to(ids_1T.device)
            inputs_1TD = self.rows.embedding(ids_1T)
            position_1T = torch.arange(count, device=ids_1T.device)[None]
            for part in (slice(head), slice(head, head + 1), slice(head + 1, head + 2)):
                slots_1V = self.rows.forward(
                    inputs_1TD[:, part], table_1T, position_1T[:, part].clone(), length, cache=cache
                )
        error = float((slots_1V - plain_1V).abs().max() / plain_1V.abs().max().clamp(min=1e-6))
        if not error <= _TOLERANCE[self.policy.dtype]:
            raise UnsupportedModel(
                f"{type(self.policy.model).__name__} gives other logits through slots (off by {error:.2g}): it keeps "
                "something between positions that is not keys and values; choose another model"
            )

    def _new_row(self) -> int:
        self.running.append(None)
        return len(self.running) - 1

    def _blocks_of_a_row(self, prompt: Prompt, *, last: bool) -> list[int] | None:
        """Give the blocks that a row begins with; None: there are none for what it would have to copy.

        Full ones are shared with the prompt. The one that the row's first step writes to becomes its own: the last
        choice takes the prompt's, any other a copy.
        """
        if last:
            blocks, prompt.blocks = prompt.blocks, []
            return blocks
        full = prompt.positions // BLOCK
        blocks = prompt.blocks[:full]
        if len(prompt.blocks) > full:
            taken = self._blocks.take(1)
            if taken is None:
                return None
            self._pool.copy(taken[0], prompt.blocks[full])
            blocks += taken
        self._blocks.share(prompt.blocks[:full])
        return blocks

    def _seed(self, row: int, prompt: Prompt, blocks: list[int]) -> Seed:
        """Make a choice whose prompt is done a row."""
        ticket, resumed, last_id = prompt.ticket, prompt.resumed, prompt.ticket.executed_ids[-1]
        answer = prompt.waiting[0]
        self.running[row] = running = Running(ticket, answer, blocks, prompt.known, prompt.root)
        if resumed is not None:
            own = resumed.next_1D, resumed.trace
            return Seed(row, last_id, running.position, answer.sampling, blocks, answer.steps, *own)
        ticket.seeded = answer.choice + 1
        answer.began_at = time.monotonic()
        answer.spans.append((self.version, 0))
        return Seed(row, last_id, answer.base, answer.sampling, blocks)

    def _inputs_of(self, running: Running, trace: Trace) -> Tensor:
        """Embed what an answer's steps read, [X, D]: the prompt's last token, then what each step but the last gave."""
        look_up, device, answer = self.rows.embedding, self.policy.device, running.answer
        ids = torch.tensor([running.ticket.executed_ids[-1], *answer.read_ids], device=device)
        read_XD: Tensor = look_up(ids)
        if answer.latents:
            mixed_LD = mix(look_up, trace.ids_LK.to(device).long(), trace.weights_LK.to(device))
            read_XD = torch.cat((read_XD[:1], mixed_LD, read_XD[1:]))
        return read_XD[: answer.steps]

    def _close(self, holes: Sequence[int]) -> None:
        """Fill holes with the last rows, so that the rows in use are the first ones."""
        for hole in sorted(holes, reverse=True):
            last = len(self.running) - 1
            moved = self.running[last]
            if hole != last:
                assert moved is not None
                self.rows.move(last, hole)
                self.running[hole] = moved
            self.running.pop()
        if holes:
            self.rows.clear(slice(len(self.running), len(self.running) + len(holes)))

    def _take(self, drawn: Sequence[Sequence[float]], tops: Sequence[tuple[tuple[int, float], ...]]) -> None:
        """Give each row's answer its numbers."""
        now = time.monotonic()
        given: dict[int, int] = {}
        for row, (running, numbers, top) in enumerate(zip(self.running, drawn, tops, strict=True)):
            if running is None:
                continue  # a choice of a request that has just failed
            if math.isnan(numbers[1]):
                self.totals.not_finite += 1
                _LOG.error("policy version %s gave logits that are not numbers; the request fails", self.version)
                self.fail(running.ticket, "The policy gave logits that are not numbers; this answer is over.")
                continue
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
        self._let_be_found(running)
        self._blocks.give_back(running.blocks)
        trace = self.rows.trace(row, running.answer.latents)
        self._finished(running.ticket, running.answer, reason, trace, now)
        self.running[row] = None

    def _finished(self, ticket: Ticket, answer: Answer, reason: FinishReason, trace: Trace, now: float) -> None:
        ticket.finish(answer, reason, trace, self.version, now)
        self.totals.finished += 1

    def _let_be_found(self, running: Running) -> None:
        """Let an answer's full blocks be found by the prompts that continue it, unless latent steps lie in them."""
        answer = running.answer
        if answer.sampling.latent_length or len(answer.spans) > 1:
            return
        ids = [*running.ticket.executed_ids, *answer.read_ids]
        while (end := (running.known + 1) * BLOCK) <= running.position:
            running.root = self._blocks.know(running.root, ids[end - BLOCK : end], running.blocks[running.known])
            running.known += 1

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
