"""Device-side state of the running answers, and the one fused step that moves all of them.

Latent and token rows share the batch: a forward on input embeddings, the draw of `training.latent`, the mixture and the
token, and a select of the next input. Only ids and log-probabilities cross to the host, once per step. The rows in use
are always the first ones, so the step works on slices; where their keys and values lie, a table of blocks says. Leaves
out whose row it is and when an answer ends.

Axes: R rows at most, B rows in use, T blocks of a row, V vocabulary, K candidates kept, D hidden size, M positions in
view, L latent steps, Q bytes of a mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.decoder.cache import PADDING, PagedCache
from app.decoder.masks import Mask, Masks, StepMasks
from app.engine.bias import Bias
from training.allowed import forbidden
from training.controls import Controls, controls_for
from training.draw import Drawn, averaged_weights, draw
from training.latent import chosen, mix
from training.models.policy import Policy, embedding
from training.rollout import trimmed
from training.sampling import Sampling

POSITION, STEP, LATENTS = range(3)  # of `Rows.at`


@dataclass(frozen=True, slots=True)
class Trace:
    """Latent steps of one answer, on the host; K is the widest support among them."""

    ids_LK: Tensor  # int32
    weights_LK: Tensor  # float32, z
    logprobs_LK: Tensor  # float32, log pi~; -inf outside the support


@dataclass(frozen=True, slots=True)
class Seed:
    """A new row: where it goes and how it is drawn."""

    row: int  # 0 <= row < R
    last_id: int  # last token of the prompt; its forward is the row's first step
    position: int  # where its next step stands
    sampling: Sampling  # of this answer, its own seed included
    blocks: Sequence[int]  # that hold the positions before
    step: int = 0  # steps executed before
    next_1D: Tensor | None = None  # what its next step reads, if it is not the prompt's last token
    trace: Trace | None = None  # latent steps executed before


@dataclass(frozen=True, slots=True)
class InUse:
    """Views of the first B rows: made when B changes, not at every step."""

    at_3B1: Tensor
    position_B1: Tensor
    step_B1: Tensor
    latents_B1: Tensor
    moved_2B1: Tensor  # position and step
    controls: Controls
    next_B1D: Tensor
    row_B1: Tensor
    table_BT: Tensor

    @property
    def count(self) -> int:
        """B."""
        return self.row_B1.shape[0]


class Rows:
    """State of up to R running answers of one model."""

    def __init__(
        self, policy: Policy, model: Any, cache: PagedCache, masks: Masks, size: tuple[int, int], width: int
    ) -> None:
        """Keep the state of rows.

        Args:
            policy: the model.
            model: it, or a view of it that steps faster.
            cache: of keys and values.
            masks: of the model.
            size: R and T.
            width: K at most.

        """
        self.model = model
        self.embedding = embedding(policy)
        self.device = policy.device
        self.cache = cache
        self.masks = masks
        self.count, blocks = size
        rows = self.count
        self._step_masks = StepMasks(masks, rows)
        self.width = width
        hidden = self.embedding.weight.shape[1]
        self.at_3R1 = torch.zeros((3, rows, 1), dtype=torch.long, device=self.device)
        self.table_RT = torch.full((rows, blocks), PADDING, device=self.device)
        self.next_R1D = torch.zeros((rows, 1, hidden), dtype=policy.dtype, device=self.device)
        self._controls = controls_for([Sampling()] * rows, self.device)
        self._row_R1 = torch.arange(rows, device=self.device)[:, None]
        self._in_use = self._view(rows)
        self._allowed_RQ = torch.empty((rows, 0), dtype=torch.uint8, device=self.device)  # see `training.allowed`
        self.held_biases: dict[tuple[int, int], Bias] = {}  # by size: those that graphs read
        self.trace_room = 0  # latent steps the trace buffers hold
        self._trace_ids_RLK = self._trace_weights_RLK = self._trace_logprobs_RLK = torch.empty((rows, 0, width))

    @property
    def moving(self) -> tuple[Tensor, ...]:
        """Give the buffers that a step must find as the step before left them."""
        return self.at_3R1, self.next_R1D

    def seed(self, seeds: Sequence[Seed]) -> None:
        """Start rows whose keys and values before their positions are in their blocks."""
        numbers = [(seed.row, seed.last_id, seed.position, seed.step, seed.sampling.latent_length) for seed in seeds]
        row_S, last_S, *at_S = torch.tensor(numbers, device=self.device).unbind(1)
        controls = controls_for([seed.sampling for seed in seeds], self.device)
        for mine, new in zip(self._controls, controls, strict=True):
            mine[row_S] = new
        self.at_3R1[:, row_S, 0] = torch.stack(at_S)
        self._step_masks.seed(row_S, at_S[POSITION])
        self.next_R1D[row_S, 0] = self.embedding(last_S)
        if latents := max(seed.sampling.latent_length for seed in seeds):
            self._make_trace_room(latents)
            self._trace_logprobs_RLK[row_S] = float("-inf")
        table_ST = torch.full((len(seeds), self.table_RT.shape[1]), PADDING)
        for place, seed in enumerate(seeds):
            table_ST[place, : len(seed.blocks)] = torch.tensor(seed.blocks, dtype=torch.long)
            if seed.next_1D is not None:
                self.next_R1D[seed.row] = seed.next_1D
            if seed.trace is not None:
                self._put_back(seed.row, seed.trace)
        self.table_RT[row_S] = table_ST.to(self.device)

    def extend(self, added: Sequence[tuple[int, int, int]]) -> None:
        """Give rows blocks: row, place in its table, block."""
        row_S, place_S, block_S = torch.tensor(added, device=self.device).unbind(1)
        self.table_RT[row_S, place_S] = block_S

    def move(self, source: int, row: int) -> None:
        """Move a row into another one; its keys and values stay where they are."""
        self.at_3R1[:, row] = self.at_3R1[:, source]
        self._step_masks.move(source, row)
        for buffer in (*self._controls, self.table_RT, self.next_R1D, *self._traces()):
            buffer[row] = buffer[source]

    def give(self, ids: Mapping[int, int]) -> None:
        """Have rows read an id of the caller's next, in the place of what they drew: row -> id."""
        row_S, id_S = torch.tensor(list(ids.items()), device=self.device).unbind(1)
        self.next_R1D[row_S, 0] = self.embedding(id_S)

    def allow(self, masks: Sequence[bytes | None]) -> None:
        """Say which tokens the first rows may draw in the next masked step; None: any."""
        size = max(len(mask) for mask in masks if mask is not None) if any(masks) else self._allowed_RQ.shape[1]
        if size != self._allowed_RQ.shape[1]:
            self._allowed_RQ = torch.full((self.count, size), 255, dtype=torch.uint8, device=self.device)
        bits_BQ = np.full((len(masks), size), 255, dtype=np.uint8)
        for row, mask in enumerate(masks):
            if mask is not None:
                bits_BQ[row] = np.frombuffer(mask, dtype=np.uint8)
        self._allowed_RQ[: len(masks)].copy_(torch.from_numpy(bits_BQ))

    def hold(self, bias: Bias) -> tuple[int, int]:
        """Copy a bias into tensors that stay; gives the size by which they are held."""
        wide = bias.widened()
        held = self.held_biases.setdefault(wide.size, wide)
        if held is not wide:
            held.take(wide)
        return wide.size

    def clear(self, rows: slice) -> None:
        """Make unused rows harmless: they stand at position 0 of nobody's block when a padded batch runs them."""
        self.at_3R1[:, rows] = 0
        self.table_RT[rows] = PADDING

    def step(
        self, rows: int, length: int, width: int, *, draws: int, bias: Bias | None = None, masked: bool = False
    ) -> tuple[Tensor, Tensor]:
        """One step of the first `rows` rows.

        Args:
            rows: B.
            length: M, positions in view; beyond every row's position.
            width: K, candidates drawn from; no row's top-k is larger.
            draws: samples made at latent steps, no fewer than a row averages; 0: no row is at one.
            bias: what rows that asked for it do to their logits.
            masked: whether rows draw what `allow` said only.

        Returns:
            float32 [B, 3] (exact for ids below 2^24): token id (at a latent step the mode of z), its log-probability
            over the whole vocabulary, and the log of the mass that the filter kept; and the logits [B, V] behind them.

        """
        now = self._of(rows)
        mask = self._step_masks(now.position_B1, length)
        logits_BV = self.forward(now.next_B1D, now.table_BT, now.position_B1, length, mask)
        if bias is not None:
            logits_BV = bias.add(logits_BV)
        if masked:
            closed_BV = forbidden(self._allowed_RQ[:rows], logits_BV.shape[1])
            logits_BV = logits_BV.masked_fill(closed_BV, float("-inf"))
        drawn = draw(logits_BV, now.controls, now.step_B1, width)
        told_B3, next_B1D = drawn.told_B3, self.embedding(drawn.token_B1)
        if draws:
            latent_B1 = now.step_B1 < now.latents_B1
            weights_BK = averaged_weights(drawn, now.controls, now.step_B1, draws)
            mixed_B1D = mix(self.embedding, drawn.ids_BK, weights_BK)[:, None]
            next_B1D = torch.where(latent_B1[:, :, None], mixed_B1D, next_B1D)
            if draws > 1:
                token_B1 = torch.where(latent_B1, drawn.ids_BK.gather(1, chosen(weights_BK)), drawn.token_B1)
                told_B3 = torch.cat((token_B1, told_B3[:, 1:]), dim=1)
            self._record(drawn, weights_BK, now)
        now.next_B1D.copy_(next_B1D)
        now.moved_2B1.add_(1)
        return told_B3, logits_BV

    def _record(self, drawn: Drawn, weights_BK: Tensor, now: InUse) -> None:
        """Write a step into the traces; token rows write behind their latent steps, where nothing is read."""
        width = drawn.ids_BK.shape[1]
        at = (now.row_B1.squeeze(1), now.step_B1.clamp(max=self.trace_room).squeeze(1))
        self._trace_ids_RLK[:, :, :width].index_put_(at, drawn.ids_BK.to(torch.int32))
        self._trace_weights_RLK[:, :, :width].index_put_(at, weights_BK)
        self._trace_logprobs_RLK[:, :, :width].index_put_(at, drawn.logprobs_BK.float())

    def forward(
        self,
        inputs_BCD: Tensor,
        table_BT: Tensor,
        position_BC: Tensor,
        length: int,
        mask: Mask | None = None,
        cache: PagedCache | None = None,
    ) -> Tensor:
        """Logits [B, V] after the last of C positions per row, whose keys and values are written to their blocks."""
        cache = cache or self.cache
        cache.bind(table_BT, position_BC, length)
        output = self.model(
            inputs_embeds=inputs_BCD,
            attention_mask=self.masks(position_BC, length) if mask is None else mask,
            position_ids=position_BC,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV.to(self.device)

    def controls(self, rows: int) -> Controls:
        """Give the sampling settings of the first rows, as views."""
        return self._of(rows).controls

    def trace(self, row: int, latents: int) -> Trace:
        """Fetch the first `latents` latent steps of a row."""
        if latents == 0:
            none = torch.empty((0, 0), dtype=torch.float32)
            return Trace(none.to(torch.int32), none, none)
        ids_LK, weights_LK, logprobs_LK = trimmed(*(buffer[row, :latents].cpu() for buffer in self._traces()))
        return Trace(ids_LK.clone(), weights_LK.clone(), logprobs_LK.clone())

    def next_input(self, row: int) -> Tensor:
        """Fetch what a row's next step reads, [1, D]."""
        return self.next_R1D[row].clone()

    def _put_back(self, row: int, trace: Trace) -> None:
        """Write latent steps that were fetched from another row, or from this one."""
        latents, width = trace.ids_LK.shape
        parts = (trace.ids_LK, trace.weights_LK, trace.logprobs_LK)
        for buffer, part in zip(self._traces(), parts, strict=True):
            if latents:
                buffer[row, :latents, :width] = part.to(self.device)

    def _traces(self) -> tuple[Tensor, Tensor, Tensor]:
        """Trace buffers; of no row until the first latent step is asked for."""
        return self._trace_ids_RLK, self._trace_weights_RLK, self._trace_logprobs_RLK

    def _of(self, rows: int) -> InUse:
        if rows != self._in_use.count:
            self._in_use = self._view(rows)
        return self._in_use

    def _view(self, rows: int) -> InUse:
        at_3B1 = self.at_3R1[:, :rows]
        return InUse(
            at_3B1,
            at_3B1[POSITION],
            at_3B1[STEP],
            at_3B1[LATENTS],
            at_3B1[: STEP + 1],
            Controls(*(setting_R1[:rows] for setting_R1 in self._controls)),
            self.next_R1D[:rows],
            self._row_R1[:rows],
            self.table_RT[:rows],
        )

    def _make_trace_room(self, latents: int) -> None:
        """Grow the trace buffers to hold `latents` steps and one spare place."""
        if latents <= self.trace_room:
            return
        room = max(2 * self.trace_room, latents, 16)
        shape = (self.count, room + 1, self.width)
        kept = self.trace_room
        kinds = (torch.int32, torch.float32, torch.float32)
        grown = [torch.zeros(shape, dtype=kind, device=self.device) for kind in kinds]
        if kept:
            for new, buffer in zip(grown, self._traces(), strict=True):
                new[:, :kept] = buffer[:, :kept]
        self._trace_ids_RLK, self._trace_weights_RLK, self._trace_logprobs_RLK = grown
        self.trace_room = room
