"""What a rollout drawn by another policy weighs, as a whole or step by step.

As a whole ("rollout", the default): what is worth more than expected weighs 1, what is worth less weighs as much as it
is still as likely as it was, min(pi / mu, 1) of all its steps together. This is tapered off-policy REINFORCE (TOPR; Le
Roux et al., arXiv:2503.14286): an answer that the policy would no longer give must not be pushed down for ever.

Step by step ("step"): a token has the ratio of the policy that learns to the one that drew it, cut at a largest weight,
whatever came before it. Truncated importance weights are IMPALA's (Espeholt et al., arXiv:1802.01561, section 4); their
place beside a ratio with another anchor is decoupled PPO's (Hilton et al., arXiv:2110.00641), used on late answers of
language models by AReaL (arXiv:2505.24298). LEPO has no ratio for a latent step; four stand in (`LatentOffPolicy`).

Every weight is 1 on policy, so that the published gradient is what fresh answers give. All are constants: no gradient
flows through them. `docs/decisions/off-policy.md` says what was measured. Leaves out the objective
(`training.objective`).

Axes: B rollouts, L latent steps, K candidates, T answer tokens.
"""

from typing import Literal

import torch
from torch import Tensor

from training.kl import MAX_LOG_RATIO, k3, kept_kl
from training.replay import Replayed

OffPolicy = Literal[
    "rollout",  # all steps alike: 1 where A >= 0, else min(pi / mu, 1) of the whole rollout
    "step",  # each step by itself, truncated; latent steps by `LatentOffPolicy`
]
LatentOffPolicy = Literal[  # by "rollout", a latent step's part of the ratio: "prefix" and "step" mean the same there
    "prefix",  # exp of the sum over this and all earlier latent steps of sum_k z_k d_k, then truncated
    "step",  # exp(sum_k z_k d_k) of the step alone, truncated
    "density",  # ratio of the Concrete densities of the step's mixture, truncated; "step" where that is not defined
    "omit",  # 1 for a rollout whose latent steps are on policy, else 0: they teach nothing then
]
ON_POLICY_NATS = 1e-3  # per step, up to which a rollout is taken for on policy as a whole: rounding gives less


@torch.no_grad()
def token_weights(start_logprobs_BT: Tensor, recorded_logprobs_BT: Tensor, most: float) -> Tensor:
    """min(pi / mu, most) of each executed token; 1 where nothing was recorded.

    Args:
        start_logprobs_BT: log pi of the policy at the start of the update.
        recorded_logprobs_BT: log mu, see `Replayed`; NaN where nothing was recorded.
        most: largest weight, 1 or more.

    """
    gap_BT = (start_logprobs_BT - recorded_logprobs_BT.to(start_logprobs_BT.dtype)).nan_to_num(nan=0.0)
    return truncated(gap_BT, most)


@torch.no_grad()
def latent_weights(replayed: Replayed, way: LatentOffPolicy, most: float) -> Tensor:
    """Weight of each latent step, [B, L], in [0, most].

    Args:
        replayed: scores of the policy as it is, with what was recorded.
        way: see `LatentOffPolicy`.
        most: largest weight, 1 or more.

    """
    if way == "omit":
        return on_policy_latents(replayed)[:, None].expand(replayed.latent_mask_BL.shape)
    gap_BL = latent_gaps(replayed, way)
    return truncated(gap_BL.cumsum(-1) if way == "prefix" else gap_BL, most)


@torch.no_grad()
def rollout_weights(replayed: Replayed, start_logprobs_BT: Tensor, way: LatentOffPolicy) -> Tensor:
    """min(pi / mu, 1) over all steps of each rollout together, [B]; 1 where it is on policy up to rounding.

    Args:
        replayed: scores of the policy as it is, with what was recorded.
        start_logprobs_BT: log pi of the tokens at the start of the update.
        way: how a latent step's ratio is taken; "omit": not at all.

    """
    recorded_BT = replayed.recorded_logprobs_BT.to(start_logprobs_BT.dtype)
    known_BT = replayed.token_mask_BT & ~recorded_BT.isnan()
    tokens_BT = torch.where(known_BT, start_logprobs_BT - recorded_BT, 0.0)
    latents_BL = latent_gaps(replayed, way) * (way != "omit") * replayed.latent_mask_BL
    nats_B = torch.where(known_BT, k3(recorded_BT, start_logprobs_BT), 0.0).double().sum(-1)
    nats_B = nats_B + (_latent_nats(replayed) * replayed.latent_mask_BL).sum(-1)
    steps_B = (replayed.token_mask_BT.sum(-1) + replayed.latent_mask_BL.sum(-1)).clamp(min=1)
    weight_B = truncated(tokens_BT.sum(-1) + latents_BL.sum(-1), 1.0)
    return torch.where(nats_B / steps_B <= ON_POLICY_NATS, 1.0, weight_B)


@torch.no_grad()
def on_policy_latents(replayed: Replayed) -> Tensor:
    """1 for each rollout whose latent steps are on policy up to rounding, else 0; [B]."""
    steps_B = replayed.latent_mask_BL.sum(-1).clamp(min=1)
    apart_B = (_latent_nats(replayed) * replayed.latent_mask_BL).sum(-1) / steps_B
    return (apart_B <= ON_POLICY_NATS).to(replayed.latent_current_BLK.dtype)


def latent_gaps(replayed: Replayed, way: LatentOffPolicy) -> Tensor:
    """Log ratio of each latent step, [B, L]: sum_k z_k (log pi_k - log mu_k), or that of the densities."""
    kept_BLK = replayed.latent_weights_BLK > 0
    gap_BLK = (replayed.latent_current_BLK - replayed.latent_recorded_BLK).masked_fill(~kept_BLK, 0.0)
    gap_BL = (replayed.latent_weights_BLK.to(gap_BLK.dtype) * gap_BLK).sum(-1)
    if way != "density":
        return gap_BL
    return torch.where(density_defined(replayed), density_gap(replayed), gap_BL)


def _latent_nats(replayed: Replayed) -> Tensor:
    return kept_kl(replayed.latent_recorded_BLK, replayed.latent_current_BLK, replayed.latent_weights_BLK > 0)


def density_defined(replayed: Replayed) -> Tensor:
    """Where a latent step's mixture has a Concrete density that its record determines, bool [B, L].

    Not where the mixture is the mean of several samples, whose density has no closed form, and not where a weight
    within the support was rounded to 0, so that the scores behind it are lost.
    """
    support_BLK = replayed.latent_recorded_BLK.isfinite()
    lost_BL = (support_BLK & (replayed.latent_weights_BLK == 0)).any(-1) & replayed.latent_mask_BL
    return ~lost_BL & (replayed.draws_B == 1)[:, None]


def density_gap(replayed: Replayed) -> Tensor:
    """Log ratio of the densities of each latent step's mixture under the policy as it is and the one that drew it.

    The density of a Gumbel-softmax sample is the Concrete distribution's (Maddison et al., arXiv:1611.00712,
    equation 10). What depends on z and tau alone cancels, and so does the probability outside the support:

        log p(z) / p'(z) = sum_k (log pi_k - log pi'_k) - K log( sum_k pi_k z_k^-tau / sum_k pi'_k z_k^-tau )

    Returns:
        [B, L]; meaningless where `density_defined` is False.

    """
    kept_BLK = replayed.latent_weights_BLK > 0
    now_BLK, then_BLK = replayed.latent_current_BLK.double(), replayed.latent_recorded_BLK.double()
    spread_BLK = -replayed.tau_B.double()[:, None, None] * replayed.latent_weights_BLK.double().log()

    def shared(logprobs_BLK: Tensor) -> Tensor:
        return (logprobs_BLK + spread_BLK).masked_fill(~kept_BLK, float("-inf")).logsumexp(-1)

    sizes_BL = kept_BLK.sum(-1)
    gap_BL = (now_BLK - then_BLK).masked_fill(~kept_BLK, 0.0).sum(-1) - sizes_BL * (shared(now_BLK) - shared(then_BLK))
    return gap_BL.masked_fill(sizes_BL == 0, 0.0).to(replayed.latent_current_BLK.dtype)


def truncated(log_ratio: Tensor, most: float) -> Tensor:
    """Give exp of a log ratio, at most `most`."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp().clamp(max=most)
