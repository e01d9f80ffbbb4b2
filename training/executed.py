"""Rollouts as one right-padded batch of executed inputs, and where each generated step is predicted from.

The executed prefix of a step is what the model really saw: prompt tokens, then the K-weighted mixtures (never their
readings), then what was put after them (`training.placement`), then answer tokens. Rollouts of one prompt may share a
row (`training.shared_prompts`). Leaves out the forward pass (`training.replay`).

Axes: B rollouts, R rows, S executed positions, L latent steps, K candidates, T answer tokens, N steps of all rollouts
one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from training.allowed import Allowed, allowed_of
from training.latent import mix
from training.rollout import Rollout
from training.sampling import Target
from training.shared_prompts import ALONE, Layout, executed_length, own_length, row_length

_MIX_ELEMENTS = 2**24  # largest N * K * D of embedding rows held at once while mixing


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Steps of one kind (latent or token), those of all rollouts one after another.

    Example: three tokens of rollout 1 after 5 prompt ids and 2 latents, in a row of its own: `rollout_N = [1, 1, 1]`,
    `step_N = [0, 1, 2]`, `predictor_N = [6, 7, 8]`.
    """

    rollout_N: Tensor  # int64 [N], which rollout
    step_N: Tensor  # int64 [N], 0-based among the rollout's steps of this kind
    row_N: Tensor  # int64 [N], in which row
    predictor_N: Tensor  # int64 [N], position in the row whose hidden state predicts the step
    position_N: Tensor  # int64 [N], position in the row where the step itself is executed
    ids_NK: Tensor  # int64 [N, K], kept candidates; K = 1 for tokens; 0 where weight is 0
    temperature_N: Tensor | None  # float32 [N], what divides the logits of the target; None: 1 everywhere
    width: int  # longest rollout in steps of this kind
    allowed: Allowed | None = None  # which ids each step could draw; None: any

    def padded(self, values: Tensor, rows: int, fill: float | bool = 0.0) -> Tensor:
        """Lay values [N, ...] out as [B, width, ...]; differentiable."""
        out = values.new_full((rows, self.width, *values.shape[1:]), fill)
        return out.index_put((self.rollout_N, self.step_N), values)


@dataclass(frozen=True, slots=True, eq=False)
class Executed:
    """One batch, ready for a forward pass."""

    rollouts: int  # B
    input_ids_RS: Tensor  # int64 [R, S], 0 at latents and padding
    layout: Layout | None  # of rows that are shared; None: every rollout has its own
    latents: Steps
    latent_weights_NK: Tensor  # float32 [N, K], z; rows sum to 1
    latent_recorded_NK: Tensor  # float32 [N, K], log mu of the kept ids, see `Replayed`; -inf outside the support
    tokens: Steps
    token_recorded_N: Tensor  # float32 [N], log mu of the token; NaN where nothing was recorded
    tau_B: Tensor  # float32 [B], of the mixtures
    draws_B: Tensor  # int64 [B], samples averaged in a mixture

    def inputs(self, embedding: nn.Embedding) -> Tensor:
        """Embed the batch: token rows looked up, latent rows mixed again from ids and weights.

        Returns:
            [R, S, D] in the embedding's dtype. Gradients follow the caller's grad mode.

        """
        inputs_RSD: Tensor = embedding(self.input_ids_RS)
        ids_NK, weights_NK = self.latents.ids_NK, self.latent_weights_NK
        if not len(ids_NK):
            return inputs_RSD
        rows = max(1, _MIX_ELEMENTS // (ids_NK.shape[1] * embedding.embedding_dim))
        picks = [slice(start, start + rows) for start in range(0, len(ids_NK), rows)]
        parts = [mix(embedding, ids_NK[pick], weights_NK[pick]) for pick in picks]
        return inputs_RSD.index_put((self.latents.row_N, self.latents.position_N), torch.cat(parts))


def collate(
    rollouts: Sequence[Rollout],
    device: torch.device,
    target: Target | None = None,
    rows: Sequence[Sequence[int]] | None = None,
) -> Executed:
    """Batch rollouts of any prompt, latent and answer lengths.

    Args:
        rollouts: at least one.
        device: where the tensors go.
        target: whose sampling is scored; None: each rollout's own.
        rows: which rollouts share a row, from `rows_of`; None: every rollout has its own.

    Raises:
        ValueError: no rollout, or one that must not be learned from or has no prompt.

    """
    if not rollouts:
        raise ValueError("nothing to replay: give at least one rollout")
    for rollout in rollouts:
        if rollout.altered:
            raise ValueError(
                "an altered rollout (logit_bias, min_tokens or a penalty) is not a sample of the policy: leave it out"
            )
        if not len(rollout.prompt_ids_P):
            raise ValueError("a rollout needs at least one prompt id")
    places = _placed(rollouts, rows or [[index] for index in range(len(rollouts))])
    prompts = [len(rollout.prompt_ids_P) for rollout in rollouts]
    latents = [rollout.latent_length for rollout in rollouts]
    targets = [target or Target.of(rollout.sampling) for rollout in rollouts]
    temperatures = torch.tensor([one.temperature for one in targets], dtype=torch.float32)
    recorded = [_recorded(rollout, target) for rollout in rollouts]
    latent_ids_NK = _stacked([rollout.latent_ids_LK for rollout in rollouts]).long()
    latent_steps = _steps(prompts, latents, temperatures, latent_ids_NK, places)
    token_ids_N = torch.cat([rollout.token_ids_T for rollout in rollouts]).long()
    answers = [rollout.answer_length for rollout in rollouts]
    token_steps = _steps([one.begin for one in rollouts], answers, temperatures, token_ids_N[:, None], places)
    latents_allowed, tokens_allowed = allowed_of(rollouts, device)
    return Executed(
        rollouts=len(rollouts),
        input_ids_RS=_input_ids(rollouts, places).to(device),
        layout=_layout(rollouts, places, device) if places.shared else None,
        latents=_moved(latent_steps, device, latents_allowed),
        latent_weights_NK=_stacked([rollout.latent_weights_LK for rollout in rollouts]).to(device),
        latent_recorded_NK=_stacked([latents_LK for latents_LK, _ in recorded], fill=float("-inf")).to(device),
        tokens=_moved(token_steps, device, tokens_allowed),
        token_recorded_N=torch.cat([tokens_T for _, tokens_T in recorded]).to(device),
        tau_B=torch.tensor([rollout.sampling.tau for rollout in rollouts], device=device),
        draws_B=torch.tensor([rollout.sampling.draws for rollout in rollouts], device=device),
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where every rollout stands."""

    rows: int  # R
    width: int  # S
    prompt: list[int]  # B of them: positions of its prompt
    row: list[int]  # B of them: which row
    part: list[int]  # B of them: which of its row's own parts, from 1
    begin: list[int]  # B of them: position in the row of the first one after the prompt

    @property
    def shared(self) -> bool:
        """Whether some row holds several rollouts."""
        return len(self.row) > self.rows


def _placed(rollouts: Sequence[Rollout], rows: Sequence[Sequence[int]]) -> _Places:
    """Place rollouts one after another in their rows."""
    prompt = [len(rollout.prompt_ids_P) for rollout in rollouts]
    row, part, begin = ([0] * len(rollouts) for _ in range(3))
    for number, members in enumerate(rows):
        at = prompt[members[0]]
        for place, index in enumerate(members):
            row[index], part[index], begin[index] = number, place + 1, at
            at += own_length(rollouts[index])
    width = max(row_length([rollouts[index] for index in members]) for members in rows)
    return _Places(len(rows), width, prompt, row, part, begin)


def _recorded(rollout: Rollout, target: Target | None) -> tuple[Tensor, Tensor]:
    """Log mu of the kept ids [L, K] and of the tokens [T], to be compared with the target's over the whole vocabulary.

    Drawn as the target draws, the filter hides the same probability on both sides: whole vocabulary against whole
    vocabulary. Drawn otherwise, what was really drawn from counts: renormalised over the support, at its temperature.
    """
    if target is None or target.drew(rollout.sampling):
        return rollout.latent_logprobs_LK + rollout.latent_log_mass_L[:, None], rollout.token_logprobs_T
    return rollout.latent_logprobs_LK, rollout.token_logprobs_T - rollout.token_log_mass_T


def _steps(begins: list[int], lengths: list[int], temperature_B: Tensor, ids_NK: Tensor, places: _Places) -> Steps:
    """Place runs of steps: of rollout b's positions, the first one stands at `begins[b]`, after the prompt."""
    length_B = torch.tensor(lengths)
    rollout_N = torch.arange(len(lengths)).repeat_interleave(length_B)
    before_B = torch.tensor([0, *accumulate(lengths)][:-1])
    step_N = torch.arange(len(rollout_N)) - before_B[rollout_N]
    shift_N = (torch.tensor(places.begin) - torch.tensor(places.prompt))[rollout_N]
    executed_N = torch.tensor(begins)[rollout_N] + step_N
    position_N = executed_N + shift_N
    in_prompt_N = executed_N == torch.tensor(places.prompt)[rollout_N]
    predictor_N = torch.where(in_prompt_N, executed_N, position_N) - 1
    temperature_N = None if bool((temperature_B == 1).all()) else temperature_B[rollout_N]
    row_N = torch.tensor(places.row)[rollout_N]
    return Steps(rollout_N, step_N, row_N, predictor_N, position_N, ids_NK, temperature_N, max(lengths))


def _moved(steps: Steps, device: torch.device, allowed: Allowed | None) -> Steps:
    return Steps(
        steps.rollout_N.to(device),
        steps.step_N.to(device),
        steps.row_N.to(device),
        steps.predictor_N.to(device),
        steps.position_N.to(device),
        steps.ids_NK.to(device),
        None if steps.temperature_N is None else steps.temperature_N.to(device),
        steps.width,
        allowed,
    )


def _stacked(parts: list[Tensor], fill: float = 0.0) -> Tensor:
    """[L_b, K_b] of every rollout as one [N, K], filled up."""
    width = max(1, *(part.shape[1] for part in parts))
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=fill) for part in parts])


def _input_ids(rollouts: Sequence[Rollout], places: _Places) -> Tensor:
    """Int64 [R, S]: prompt ids, zeros for latents, lead-out and answer ids, zeros to the right."""
    ids_RS = torch.zeros(places.rows, places.width, dtype=torch.int64)
    for rollout, row, own in zip(rollouts, places.row, places.begin, strict=True):
        lead_out, executed = len(rollout.lead_out_ids_O), max(0, rollout.answer_length - 1)
        begin = own + rollout.begin - len(rollout.prompt_ids_P)
        ids_RS[row, : len(rollout.prompt_ids_P)] = rollout.prompt_ids_P
        ids_RS[row, begin - lead_out : begin] = rollout.lead_out_ids_O
        ids_RS[row, begin : begin + executed] = rollout.token_ids_T[:executed]
    return ids_RS


def _layout(rollouts: Sequence[Rollout], places: _Places, device: torch.device) -> Layout:
    """Say of every position which one of its rollout it is, and to which part of its row it belongs."""
    part_RS = torch.full((places.rows, places.width), ALONE)
    position_RS = torch.zeros(places.rows, places.width, dtype=torch.int64)
    for rollout, row, part, own in zip(rollouts, places.row, places.part, places.begin, strict=True):
        prompt, length = len(rollout.prompt_ids_P), executed_length(rollout)
        part_RS[row, :prompt] = 0
        part_RS[row, own : own + length - prompt] = part
        position_RS[row, :prompt] = torch.arange(prompt)
        position_RS[row, own : own + length - prompt] = torch.arange(prompt, length)
    return Layout.of(part_RS.to(device), position_RS.to(device))
