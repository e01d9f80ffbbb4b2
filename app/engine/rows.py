"""Device-side state of the running answers, and the one fused step that moves all of them.

Latent and token rows share the batch: a forward on input embeddings, the draw of `training.latent`, the mixture and the
token, and a select of the next input. Only ids and log-probabilities cross to the host, once per step. The rows in use
are always the first ones, so the step works on slices. Leaves out whose row it is and when an answer ends.

Axes: R rows at most, B rows in use, V vocabulary, K candidates kept, D hidden size, M positions in view, L latent
steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.engine.bias import Bias
from app.engine.cache import KVPool, SlotCache
from app.engine.masks import Masks
from training.latent import Controls, Drawn, draw, mix
from training.noise import stream
from training.policy import Policy, embedding
from training.rollout import trimmed
from training.sampling import Sampling

POSITION, STEP, LATENTS, TOP_K, STREAM = range(5)  # rows of `Rows.whole`
TEMPERATURE, TOP_P, TAU = range(3)  # rows of `Rows.real`


@dataclass(frozen=True, slots=True)
class Seed:
    """A new row: where it goes and how it is drawn."""

    row: int  # 0 <= row < R
    last_id: int  # last token of the prompt; its forward is the row's first step
    position: int  # where that token stands
    sampling: Sampling  # of this answer, its own seed included


@dataclass(frozen=True, slots=True)
class Trace:
    """Latent steps of one answer, on the host; K is the widest support among them."""

    ids_LK: Tensor  # int32
    weights_LK: Tensor  # float32, z
    logprobs_LK: Tensor  # float32, log pi~; -inf outside the support


class Rows:
    """State of up to `pool.rows` running answers of one model."""

    def __init__(self, policy: Policy, pool: KVPool, masks: Masks, width: int) -> None:
        self.model: Any = policy.model
        self.embedding = embedding(policy)
        self.device = policy.device
        self.pool = pool
        self.cache = SlotCache(pool)
        self.masks = masks
        self.width = width  # K at most
        rows = pool.rows
        self.whole = torch.zeros((5, rows), dtype=torch.long, device=self.device)
        self.real = torch.ones((3, rows), dtype=torch.float32, device=self.device)
        self.next_RD = torch.zeros((rows, self.embedding.weight.shape[1]), dtype=policy.dtype, device=self.device)
        self._row_R = torch.arange(rows, device=self.device)
        self.trace_room = 0  # latent steps the trace buffers hold
        self._trace_ids_RLK = torch.empty(0)
        self._trace_weights_RLK = torch.empty(0)
        self._trace_logprobs_RLK = torch.empty(0)

    def seed(self, seeds: Sequence[Seed]) -> None:
        """Start rows whose keys and values up to `position` are already in the pool."""
        streams = stream(torch.tensor([seed.sampling.seed for seed in seeds])).tolist()
        draws = [seed.sampling for seed in seeds]
        whole = [
            [seed.position for seed in seeds],
            [0] * len(seeds),
            [sampling.latent_length for sampling in draws],
            [sampling.top_k for sampling in draws],
            streams,
        ]
        real = [[s.temperature for s in draws], [s.top_p for s in draws], [s.tau for s in draws]]
        row_S = torch.tensor([seed.row for seed in seeds], device=self.device)
        last_S = torch.tensor([seed.last_id for seed in seeds], device=self.device)
        self.whole[:, row_S] = torch.tensor(whole, device=self.device)
        self.real[:, row_S] = torch.tensor(real, dtype=torch.float32, device=self.device)
        self.next_RD[row_S] = self.embedding(last_S)
        if latents := max(sampling.latent_length for sampling in draws):
            self._make_trace_room(latents)
            self._trace_logprobs_RLK[row_S] = float("-inf")

    def move(self, source: int, row: int, length: int) -> None:
        """Move a row, its first `length` positions and its latent steps into another row."""
        self.pool.copy(row, self.pool, source, length)
        self.whole[:, row] = self.whole[:, source]
        self.real[:, row] = self.real[:, source]
        self.next_RD[row] = self.next_RD[source]
        if self.trace_room:
            for buffer in (self._trace_ids_RLK, self._trace_weights_RLK, self._trace_logprobs_RLK):
                buffer[row] = buffer[source]

    def clear(self, rows: slice) -> None:
        """Make unused rows harmless: they stand at position 0 when a padded batch runs them."""
        self.whole[:, rows] = 0

    def step(
        self, rows: int, length: int, width: int, *, mixing: bool, bias: Bias | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step of the first `rows` rows.

        Args:
            rows: B.
            length: M, positions in view; beyond every row's position.
            width: K, candidates drawn from; no row's top-k is larger.
            mixing: whether any row is at a latent step.
            bias: what rows that asked for it add to their logits.

        Returns:
            float32 [B, 3] (exact for ids below 2^24): token id (at a latent step the mode of z), its log-probability
            over the whole vocabulary, and the log of the mass that the filter kept; and the logits [B, V] behind them.

        """
        position_B1 = self.whole[POSITION, :rows, None]
        logits_BV = self.forward(self.next_RD[:rows, None], position_B1, length)
        if bias is not None:
            logits_BV = bias.add(logits_BV)
        step_B = self.whole[STEP, :rows]
        drawn = draw(logits_BV, self.controls(rows), step_B, width)
        next_BD = self.embedding(drawn.token_B)
        if mixing:
            latent_B = step_B < self.whole[LATENTS, :rows]
            weights_BK = drawn.weights_BK.float()  # what is executed is what is recorded
            mixed_BD = mix(self.embedding, drawn.ids_BK, weights_BK)
            next_BD = torch.where(latent_B[:, None], mixed_BD, next_BD)
            self._record(drawn, step_B)
        self.next_RD[:rows] = next_BD
        self.whole[POSITION : STEP + 1, :rows] += 1
        numbers_B1 = (drawn.token_B[:, None], drawn.token_logprob_B[:, None], drawn.log_mass_B[:, None])
        return torch.cat(numbers_B1, dim=1), logits_BV

    def _record(self, drawn: Drawn, step_B: Tensor) -> None:
        """Write a step into the traces; token rows write behind their latent steps, where nothing is read."""
        rows, width = drawn.ids_BK.shape
        at = (self._row_R[:rows], step_B.clamp(max=self.trace_room))
        self._trace_ids_RLK[:, :, :width].index_put_(at, drawn.ids_BK.to(torch.int32))
        self._trace_weights_RLK[:, :, :width].index_put_(at, drawn.weights_BK.float())
        self._trace_logprobs_RLK[:, :, :width].index_put_(at, drawn.logprobs_BK.float())

    def forward(self, inputs_BCD: Tensor, position_BC: Tensor, length: int) -> Tensor:
        """Logits [B, V] after the last of C positions per row, whose keys and values are written to the pool."""
        self.cache.bind(position_BC, length)
        output = self.model(
            inputs_embeds=inputs_BCD,
            attention_mask=self.masks(position_BC, length),
            position_ids=position_BC,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV.to(self.device)

    def controls(self, rows: int) -> Controls:
        """Give the sampling settings of the first rows, as views."""
        whole, real = self.whole, self.real
        return Controls(
            temperature_B=real[TEMPERATURE, :rows],
            top_k_B=whole[TOP_K, :rows],
            top_p_B=real[TOP_P, :rows],
            tau_B=real[TAU, :rows],
            stream_B=whole[STREAM, :rows],
        )

    def trace(self, row: int, latents: int) -> Trace:
        """Fetch the first `latents` latent steps of a row."""
        if latents == 0:
            none = torch.empty((0, 0), dtype=torch.float32)
            return Trace(none.to(torch.int32), none, none)
        parts = (self._trace_ids_RLK, self._trace_weights_RLK, self._trace_logprobs_RLK)
        ids_LK, weights_LK, logprobs_LK = trimmed(*(buffer[row, :latents].cpu() for buffer in parts))
        return Trace(ids_LK.clone(), weights_LK.clone(), logprobs_LK.clone())

    def _make_trace_room(self, latents: int) -> None:
        """Grow the trace buffers to hold `latents` steps and one spare place."""
        if latents <= self.trace_room:
            return
        room = max(2 * self.trace_room, latents, 16)
        shape = (self.pool.rows, room + 1, self.width)
        kept = self.trace_room
        kinds = (torch.int32, torch.float32, torch.float32)
        grown = [torch.zeros(shape, dtype=kind, device=self.device) for kind in kinds]
        old = (self._trace_ids_RLK, self._trace_weights_RLK, self._trace_logprobs_RLK)
        if kept:
            for new, buffer in zip(grown, old, strict=True):
                new[:, :kept] = buffer[:, :kept]
        self._trace_ids_RLK, self._trace_weights_RLK, self._trace_logprobs_RLK = grown
        self.trace_room = room
