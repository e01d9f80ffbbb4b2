"""What a batch of rollouts looks like before anything is learned from it: how random its latent steps were.

The filter hides mass, on some prompts the support is a single token, and the clean argmax is often not the mode of z:
these figures say so per batch. They come from the recorded rollouts alone; no model runs.

Axes: N latent steps of all rollouts in a row, K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.rollout import Rollout


@dataclass(frozen=True, slots=True)
class TraceStats:
    """Means over all latent steps of a batch (0 when there is none), and mean lengths."""

    latent_entropy: float  # nats, of the drawn mixture z
    effective_support: float  # exp of the entropy of pi~: candidates that share the draw, >= 1
    singleton_rate: float  # share of latent steps whose support is one token: not random at all
    hidden_mass: float  # probability that top-k and top-p dropped, in [0, 1)
    mode_disagreement: float  # share of steps whose clean argmax is not the mode of z
    mean_latents: float  # latent steps per rollout
    mean_tokens: float  # answer tokens per rollout


def describe(rollouts: Sequence[Rollout]) -> TraceStats:
    """Describe a batch of at least one rollout."""
    if not rollouts:
        raise ValueError("nothing to describe: give at least one rollout")
    steps = [_latent_figures(rollout) for rollout in rollouts if rollout.latent_length]
    entropy, effective, singleton, hidden, disagreement = torch.cat(steps).mean(0).tolist() if steps else [0.0] * 5
    return TraceStats(
        latent_entropy=entropy,
        effective_support=effective,
        singleton_rate=singleton,
        hidden_mass=hidden,
        mode_disagreement=disagreement,
        mean_latents=sum(rollout.latent_length for rollout in rollouts) / len(rollouts),
        mean_tokens=sum(rollout.answer_length for rollout in rollouts) / len(rollouts),
    )


def _latent_figures(rollout: Rollout) -> Tensor:
    """Compute the first five fields of `TraceStats` for each step, float64 [L, 5]."""
    weights_LK, logprobs_LK = rollout.latent_weights_LK.double(), rollout.latent_logprobs_LK.double()
    columns = (
        torch.special.entr(weights_LK).sum(-1),
        torch.special.entr(logprobs_LK.exp()).sum(-1).exp(),
        (logprobs_LK.isfinite().sum(-1) == 1).double(),
        -rollout.latent_log_mass_L.double().expm1().clamp(max=0.0),
        (logprobs_LK.argmax(-1) != weights_LK.argmax(-1)).double(),
    )
    return torch.stack(columns, dim=-1)
