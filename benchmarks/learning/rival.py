"""Latent terms of two rivals: a clipped ratio of the Gumbel densities of the stored scores y.

log f(y_k) = -(y_k - log pi(k)) - exp(-(y_k - log pi(k))), averaged over candidates; PPO clip 0.2.

SofT-GRPO (arXiv:2511.06411) averages over the kept candidates whose current log-probability is above -3, with pi
renormalised over the kept ones as it was when sampling. Leaves out the paper's KL term (weight 0.001), as no method of
the bench has one.

Latent-GRPO (arXiv:2604.27998) averages over the ten largest scores, with pi over the whole vocabulary. Its noise is
never below 0, so that what was drawn always gets likelier where it was good. Leaves out what only another setting has:
the turned gradient for noise below 0 (only off policy), masks for rollouts that do not end their thinking (ours has a
fixed length), a choice among right first steps, and its warm start.

Axes: B rollouts, L latent steps, K candidates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.replay import Replayed
from training.rollout import Rollout

FLOOR = -3.0  # nats; candidates less likely than this say nothing
CLIP = 0.2
NEG_INF = float("-inf")


def log_density(scores_BLK: Tensor, logprobs_BLK: Tensor, counted_BLK: Tensor) -> Tensor:
    """Mean Gumbel log-density of the counted candidates, [B, L]; 0 where none is counted."""
    noise_BLK = torch.where(counted_BLK, scores_BLK - logprobs_BLK, 0.0)
    density_BLK = torch.where(counted_BLK, -noise_BLK - (-noise_BLK).exp(), 0.0)
    return density_BLK.sum(-1) / counted_BLK.sum(-1).clamp(min=1)


def latent_loss(
    replayed: Replayed, scores: Sequence[Tensor], rollouts: Sequence[Rollout], advantages_B: Tensor, weights_B: Tensor
) -> Tensor:
    """Return the latent part of SofT-GRPO's loss, a scalar, differentiable."""
    now_BLK = replayed.latent_logprobs_BLK
    scores_BLK = padded(scores, now_BLK.shape)
    old_BLK = padded([one.latent_logprobs_LK for one in rollouts], now_BLK.shape)
    kept_BLK = scores_BLK > NEG_INF
    now_BLK = now_BLK.masked_fill(~kept_BLK, -1e9).log_softmax(-1)
    counted_BLK = kept_BLK & (now_BLK.detach() > FLOOR)
    return clipped(scores_BLK, now_BLK, old_BLK, counted_BLK, replayed, advantages_B, weights_B)


def one_sided_loss(
    replayed: Replayed, scores: Sequence[Tensor], rollouts: Sequence[Rollout], advantages_B: Tensor, weights_B: Tensor
) -> Tensor:
    """Return the latent part of Latent-GRPO's loss, a scalar, differentiable."""
    now_BLK = replayed.latent_logprobs_BLK
    scores_BLK = padded(scores, now_BLK.shape)
    whole = [one.latent_logprobs_LK + one.latent_log_mass_L[:, None] for one in rollouts]
    counted_BLK = scores_BLK > NEG_INF
    old_BLK = padded(whole, now_BLK.shape)
    return clipped(scores_BLK, now_BLK, old_BLK, counted_BLK, replayed, advantages_B, weights_B)


def clipped(
    scores_BLK: Tensor,
    now_BLK: Tensor,
    old_BLK: Tensor,
    counted_BLK: Tensor,
    replayed: Replayed,
    advantages_B: Tensor,
    weights_B: Tensor,
) -> Tensor:
    """Weigh PPO's clipped ratio of the densities now and then, summed with its sign turned."""
    log_ratio_BL = log_density(scores_BLK, now_BLK, counted_BLK) - log_density(scores_BLK, old_BLK, counted_BLK)
    ratio_BL = log_ratio_BL.clamp(max=20.0).exp()
    pull_B1 = advantages_B.to(ratio_BL.dtype)[:, None]
    gain_BL = torch.minimum(ratio_BL * pull_B1, ratio_BL.clamp(1 - CLIP, 1 + CLIP) * pull_B1)
    return -(weights_B.to(ratio_BL.dtype)[:, None] * gain_BL * replayed.latent_mask_BL).sum()


def padded(parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Stack [L, K] pieces as [B, L, K], -inf where a piece is smaller."""
    whole = torch.full(shape, NEG_INF)
    for row, part in enumerate(parts):
        whole[row, : part.shape[0], : part.shape[1]] = part
    return whole
