"""Rollouts as one right-padded batch of executed inputs, and where each generated step is predicted from.

The executed prefix of a step is what the model really saw: prompt tokens, then the K-weighted mixtures (never their
readings), then what was put after them (`training.placement`), then answer tokens. Leaves out the
forward pass (`training.replay`).

Axes: B rollouts, S executed positions, L latent steps, K candidates, T answer tokens, N steps of all rollouts in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from training.latent import mix
from training.rollout import Rollout
from training.sampling import Target

_MIX_ELEMENTS = 2**24  # largest N * K * D of embedding rows held at once while mixing


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Steps of one kind (latent or token), those of all rollouts in a row.

    Example: three tokens of rollout 1 after 5 prompt ids and 2 latents: `row_N = [1, 1, 1]`, `step_N = [0, 1, 2]`,
    `predictor_N = [6, 7, 8]`.
    """

    row_N: Tensor  # int64 [N], which rollout
    step_N: Tensor  # int64 [N], 0-based among the rollout's steps of this kind
    predictor_N: Tensor  # int64 [N], executed position whose hidden state predicts the step
    ids_NK: Tensor  # int64 [N, K], kept candidates; K = 1 for tokens; 0 where weight is 0
    temperature_N: Tensor | None  # float32 [N], what divides the logits of the target; None: 1 everywhere
    width: int  # longest rollout in steps of this kind

    def padded(self, values: Tensor, rows: int, fill: float | bool = 0.0) -> Tensor:
        """Lay values [N, ...] out as [B, width, ...]; differentiable."""
        out = values.new_full((rows, self.width, *values.shape[1:]), fill)
        return out.index_put((self.row_N, self.step_N), values)


@dataclass(frozen=True, slots=True, eq=False)
class Executed:
    """One batch, ready for a forward pass."""

    rows: int  # B
    input_ids_BS: Tensor  # int64 [B, S], 0 at latents and padding
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
            [B, S, D] in the embedding's dtype. Gradients follow the caller's grad mode.

        """
        inputs_BSD: Tensor = embedding(self.input_ids_BS)
        ids_NK, weights_NK = self.latents.ids_NK, self.latent_weights_NK
        if not len(ids_NK):
            return inputs_BSD
        rows = max(1, _MIX_ELEMENTS // (ids_NK.shape[1] * embedding.embedding_dim))
        picks = [slice(start, start + rows) for start in range(0, len(ids_NK), rows)]
        parts = [mix(embedding, ids_NK[pick], weights_NK[pick]) for pick in picks]
        return inputs_BSD.index_put((self.latents.row_N, self.latents.predictor_N + 1), torch.cat(parts))


def executed_length(rollout: Rollout) -> int:
    """Positions a forward pass reads: everything but the last token, which predicts nothing."""
    return rollout.begin + max(0, rollout.answer_length - 1)


def collate(rollouts: Sequence[Rollout], device: torch.device, target: Target | None = None) -> Executed:
    """Batch rollouts of any prompt, latent and answer lengths.

    Args:
        rollouts: at least one.
        device: where the tensors go.
        target: whose sampling is scored; None: each rollout's own.

    Raises:
        ValueError: no rollout, or one that must not be learned from or has no prompt.

    """
    if not rollouts:
        raise ValueError("nothing to replay: give at least one rollout")
    for rollout in rollouts:
        if rollout.altered:
            raise ValueError(
                "an altered rollout (logit_bias or min_tokens) is not a sample of the policy: leave it out"
            )
        if not len(rollout.prompt_ids_P):
            raise ValueError("a rollout needs at least one prompt id")
    prompts = [len(rollout.prompt_ids_P) for rollout in rollouts]
    latents = [rollout.latent_length for rollout in rollouts]
    targets = [target or Target.of(rollout.sampling) for rollout in rollouts]
    temperatures = torch.tensor([one.temperature for one in targets], dtype=torch.float32)
    recorded = [_recorded(rollout, target) for rollout in rollouts]
    latent_steps = _steps(prompts, latents, temperatures, _stacked([r.latent_ids_LK for r in rollouts]).long())
    token_ids_N = torch.cat([rollout.token_ids_T for rollout in rollouts]).long()
    answers = [rollout.answer_length for rollout in rollouts]
    token_steps = _steps([rollout.begin for rollout in rollouts], answers, temperatures, token_ids_N[:, None])
    return Executed(
        rows=len(rollouts),
        input_ids_BS=_input_ids(rollouts).to(device),
        latents=_moved(latent_steps, device),
        latent_weights_NK=_stacked([rollout.latent_weights_LK for rollout in rollouts]).to(device),
        latent_recorded_NK=_stacked([latents_LK for latents_LK, _ in recorded], fill=float("-inf")).to(device),
        tokens=_moved(token_steps, device),
        token_recorded_N=torch.cat([tokens_T for _, tokens_T in recorded]).to(device),
        tau_B=torch.tensor([rollout.sampling.tau for rollout in rollouts], device=device),
        draws_B=torch.tensor([rollout.sampling.draws for rollout in rollouts], device=device),
    )


def _recorded(rollout: Rollout, target: Target | None) -> tuple[Tensor, Tensor]:
    """Log mu of the kept ids [L, K] and of the tokens [T], to be compared with the target's over the whole vocabulary.

    Drawn as the target draws, the filter hides the same probability on both sides: whole vocabulary against whole
    vocabulary. Drawn otherwise, what was really drawn from counts: renormalised over the support, at its temperature.
    """
    if target is None or target.drew(rollout.sampling):
        return rollout.latent_logprobs_LK + rollout.latent_log_mass_L[:, None], rollout.token_logprobs_T
    return rollout.latent_logprobs_LK, rollout.token_logprobs_T - rollout.token_log_mass_T


def _steps(begins: list[int], lengths: list[int], temperature_B: Tensor, ids_NK: Tensor) -> Steps:
    """Place runs of steps: rollout b's first one is executed at position `begins[b]`."""
    length_B = torch.tensor(lengths)
    row_N = torch.arange(len(lengths)).repeat_interleave(length_B)
    before_B = torch.tensor([0, *accumulate(lengths)][:-1])
    step_N = torch.arange(len(row_N)) - before_B[row_N]
    predictor_N = torch.tensor(begins)[row_N] + step_N - 1
    temperature_N = None if bool((temperature_B == 1).all()) else temperature_B[row_N]
    return Steps(row_N, step_N, predictor_N, ids_NK, temperature_N, max(lengths))


def _moved(steps: Steps, device: torch.device) -> Steps:
    return Steps(
        steps.row_N.to(device),
        steps.step_N.to(device),
        steps.predictor_N.to(device),
        steps.ids_NK.to(device),
        None if steps.temperature_N is None else steps.temperature_N.to(device),
        steps.width,
    )


def _stacked(parts: list[Tensor], fill: float = 0.0) -> Tensor:
    """[L_b, K_b] of every rollout as one [N, K], filled up."""
    width = max(1, *(part.shape[1] for part in parts))
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=fill) for part in parts])


def _input_ids(rollouts: Sequence[Rollout]) -> Tensor:
    """Int64 [B, S]: prompt ids, zeros for latents, lead-out and answer ids, zeros to the right."""
    ids_BS = torch.zeros(len(rollouts), max(executed_length(rollout) for rollout in rollouts), dtype=torch.int64)
    for row, rollout in enumerate(rollouts):
        begin, lead_out = rollout.begin, len(rollout.lead_out_ids_O)
        ids_BS[row, : len(rollout.prompt_ids_P)] = rollout.prompt_ids_P
        ids_BS[row, begin - lead_out : begin] = rollout.lead_out_ids_O
        ids_BS[row, begin : begin + max(0, rollout.answer_length - 1)] = rollout.token_ids_T[:-1]
    return ids_BS
