"""Differentiable log-probabilities of recorded rollouts, on the prefix that was executed.

LEPO (arXiv:2604.17892) takes every log-probability, old, new and reference, on the executed mixtures. They are mixed
again from the recorded ids and weights by the function that mixed them when sampling, so under the weights that
sampled, `replay(sample(x))` gives the recorded log-probabilities; those of a constrained answer are over the tokens
that each of its steps could draw (`training.allowed`). Memory is one chunk of the head, never [B, T, V].

A reference model embeds the same ids and weights with its own embedding: the sample is (ids, weights).
What was recorded comes along on the same footing: the log-probabilities of the policy that drew (mu), ready to be
compared with those of the target, the sampling whose policy learns. Leaves out the objective (`training.objective`),
what a step weighs that another policy drew (`training.importance`) and choosing batches (`training.update`).

Axes: B rollouts, L latent steps (longest), K candidates (widest), T answer tokens (longest), R rows, S executed
positions, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.executed import Executed, Steps, collate
from training.models.head import CausalLM
from training.rollout import Rollout
from training.sampling import Target
from training.scoring import Reader, Scores, score
from training.shared_prompts import rows_of


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """How log-probabilities are taken.

    Example: `ReplayConfig(embedding_gradient=True)` lets the token lookups learn too.

    Raises:
        ValueError: `chunk_elements` is not positive or `latent_temperature` is unknown.

    """

    embedding_gradient: bool = False  # True: gradients flow through prompt, token and latent lookups; published: False
    latent_temperature: Literal["one", "sampling"] = "one"  # what divides the logits on latent steps; published: one
    chunk_elements: int = 2**26  # largest float32 [C, V] that exists at once; 2**26 is 256 MiB, 441 positions at V=152k

    def __post_init__(self) -> None:
        if self.chunk_elements < 1:
            raise ValueError(f"chunk_elements must be 1 or more, got {self.chunk_elements}")
        if self.latent_temperature not in {"one", "sampling"}:
            raise ValueError(f"latent_temperature must be 'one' or 'sampling', got {self.latent_temperature!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """Per-step scores of a batch, padded; masks are True on steps that were executed.

    Log-probabilities and KL are differentiable; entropies, `latent_current` and what was recorded are not. float32, or
    float64 for a float64 model.
    """

    latent_logprobs_BLK: Tensor  # [B, L, K], log pi over the whole vocabulary at the kept ids
    latent_weights_BLK: Tensor  # [B, L, K], z; 0 outside the support and in padding
    latent_kl_BL: Tensor  # [B, L], exact KL(policy || reference), nats; 0 without a reference
    latent_entropy_BL: Tensor  # [B, L], nats
    latent_mask_BL: Tensor  # bool [B, L]
    latent_current_BLK: Tensor  # [B, L, K], log pi at the kept ids, at the target's temperature: against recorded
    latent_recorded_BLK: Tensor  # float32 [B, L, K], log mu at the kept ids; -inf outside the support and in padding
    token_logprobs_BT: Tensor  # [B, T], over the whole vocabulary at the target's temperature
    recorded_logprobs_BT: Tensor  # float32 [B, T], log mu of the token; NaN where nothing was recorded
    token_kl_BT: Tensor  # [B, T]
    token_entropy_BT: Tensor  # [B, T]
    token_mask_BT: Tensor  # bool [B, T]
    tau_B: Tensor  # float32 [B], of the mixtures
    draws_B: Tensor  # int64 [B], samples averaged in a mixture


def replay(
    model: CausalLM,
    rollouts: Sequence[Rollout],
    config: ReplayConfig | None = None,
    reference: CausalLM | None = None,
    target: Target | None = None,
    positions: int = 0,
) -> Replayed:
    """Run rollouts through the model once more and score each executed step.

    Args:
        model: the policy that learns, in eval mode; wrap in `torch.no_grad` to only look.
        rollouts: at least one; prompts, latents and answers of any length.
        config: defaults to the published choices.
        reference: frozen model for the KL (LEPO's beta term); the KL is exact, over the whole vocabulary, because the
            head is at hand a chunk at a time anyway: unlike an estimate from the sampled token it is never negative,
            means the same on latent and token steps, and costs one more head product.
        target: whose sampling is scored, and compared with what was recorded; None: each rollout's own.
        positions: of a micro-batch: rollouts of one prompt share rows of at most so many; 0: each has its own.

    Raises:
        ValueError: a rollout cannot be learned from; see `training.executed.collate`.

    """
    config = config or ReplayConfig()
    both = model.sharing if reference is None or reference.sharing else None
    batch = collate(rollouts, model.device, target, rows_of(rollouts, both, positions))
    hidden_RSD = model.hidden(_inputs(model, batch, config.embedding_gradient), batch.layout)
    frozen_RSD = None if reference is None else _frozen_hidden(reference, batch)

    def scored(steps: Steps, temperature_N: Tensor | None) -> Scores:
        where = (steps.row_N, steps.predictor_N)
        frozen = None if reference is None or frozen_RSD is None else Reader(reference, frozen_RSD[where])
        reader = Reader(model, hidden_RSD[where])
        return score(reader, steps.ids_NK, temperature_N, config.chunk_elements, frozen, steps.allowed)

    at_one = config.latent_temperature == "one"
    latents = scored(batch.latents, None if at_one else batch.latents.temperature_N)
    tokens = scored(batch.tokens, batch.tokens.temperature_N)
    if not at_one or batch.latents.temperature_N is None:
        return padded(batch, latents, tokens)
    with torch.no_grad():
        where, steps = (batch.latents.row_N, batch.latents.predictor_N), batch.latents
        reader = Reader(model, hidden_RSD[where])
        current = score(reader, steps.ids_NK, steps.temperature_N, config.chunk_elements, allowed=steps.allowed)
    return padded(batch, latents, tokens, current)


def padded(batch: Executed, latents: Scores, tokens: Scores, current: Scores | None = None) -> Replayed:
    """Scores of steps in a row, laid out by rollout and step.

    Args:
        batch: what was executed.
        latents: of latent steps, at the temperature they learn at.
        tokens: of token steps.
        current: of latent steps at the target's temperature, where that is another one.

    """
    rollouts, current_NK = batch.rollouts, (current or latents).logprobs_NK.detach()
    return Replayed(
        latent_logprobs_BLK=batch.latents.padded(latents.logprobs_NK, rollouts),
        latent_weights_BLK=batch.latents.padded(batch.latent_weights_NK, rollouts),
        latent_kl_BL=batch.latents.padded(latents.kl_N, rollouts),
        latent_entropy_BL=batch.latents.padded(latents.entropy_N, rollouts),
        latent_mask_BL=batch.latents.padded(
            torch.ones_like(batch.latents.rollout_N, dtype=torch.bool), rollouts, fill=False
        ),
        latent_current_BLK=batch.latents.padded(current_NK, rollouts),
        latent_recorded_BLK=batch.latents.padded(batch.latent_recorded_NK, rollouts, fill=float("-inf")),
        token_logprobs_BT=batch.tokens.padded(tokens.logprobs_NK.squeeze(1), rollouts),
        recorded_logprobs_BT=batch.tokens.padded(batch.token_recorded_N, rollouts, fill=float("nan")),
        token_kl_BT=batch.tokens.padded(tokens.kl_N, rollouts),
        token_entropy_BT=batch.tokens.padded(tokens.entropy_N, rollouts),
        token_mask_BT=batch.tokens.padded(
            torch.ones_like(batch.tokens.rollout_N, dtype=torch.bool), rollouts, fill=False
        ),
        tau_B=batch.tau_B,
        draws_B=batch.draws_B,
    )


def _inputs(model: CausalLM, batch: Executed, embedding_gradient: bool) -> Tensor:
    """Embed what was executed, [R, S, D]: constants unless the lookups are to learn."""
    with torch.set_grad_enabled(embedding_gradient and torch.is_grad_enabled()):
        return batch.inputs(model.embedding)


@torch.no_grad()
def _frozen_hidden(reference: CausalLM, batch: Executed) -> Tensor:
    return reference.hidden(batch.inputs(reference.embedding), batch.layout)
