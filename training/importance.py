"""What a step drawn by another policy weighs: truncated importance weights of tokens and of latent steps.

A token has the ratio of the policy that learns to the one that drew it, cut at a largest weight. Truncated importance
weights are IMPALA's (Espeholt et al., arXiv:1802.01561, section 4); their place beside a ratio whose anchor is another
policy is that of decoupled PPO (Hilton et al., arXiv:2110.00641), used on late answers of language models by AReaL
(arXiv:2505.24298, section 5). As there, a token's weight is its own: what came before it is taken as it is.

LEPO has no such ratio for a latent step, and four stand here (`LatentOffPolicy`), each 1 on policy, so that the
published gradient is what fresh answers give. `docs/decisions/off-policy.md` says which is the default, and why.

All weights are constants: no gradient flows through them. Leaves out the objective (`training.objective`).

Axes: B rollouts, L latent steps, K candidates, T answer tokens.
"""

from typing import Literal

import torch
from torch import Tensor

from training.kl import MAX_LOG_RATIO, kept_kl
from training.replay import Replayed

LatentOffPolicy = Literal[
    "prefix",  # exp of the sum over this and all earlier latent steps of sum_k z_k d_k, then truncated
    "step",  # exp(sum_k z_k d_k) of the step alone, truncated
    "density",  # ratio of the Concrete densities of the step's mixture, truncated; "step" where that is not defined
    "omit",  # 1 for a rollout whose latent steps are on policy, else 0
]
ON_POLICY_NATS = 1e-3  # per latent step, up to which "omit" takes a rollout for on policy: rounding gives less


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
    kept_BLK = replayed.latent_weights_BLK > 0
    if way == "omit":
        apart_BL = kept_kl(replayed.latent_recorded_BLK, replayed.latent_current_BLK, kept_BLK)
        steps_B1 = replayed.latent_mask_BL.sum(-1, keepdim=True).clamp(min=1)
        fresh_B1 = (apart_BL * replayed.latent_mask_BL).sum(-1, keepdim=True) / steps_B1 <= ON_POLICY_NATS
        return fresh_B1.expand(apart_BL.shape).to(replayed.latent_current_BLK.dtype)
    gap_BLK = (replayed.latent_current_BLK - replayed.latent_recorded_BLK).masked_fill(~kept_BLK, 0.0)
    gap_BL = (replayed.latent_weights_BLK.to(gap_BLK.dtype) * gap_BLK).sum(-1)
    if way == "prefix":
        gap_BL = gap_BL.cumsum(-1)
    if way == "density":
        gap_BL = torch.where(density_defined(replayed), density_gap(replayed), gap_BL)
    return truncated(gap_BL, most)


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
