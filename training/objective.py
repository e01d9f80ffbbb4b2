"""The unified objective of LEPO (arXiv:2604.17892): one advantage, latent steps and token steps, one number.

    J = sum over latent steps of  A * sum_k z_k log pi(k)                       (no ratio, no clip)
      + sum over token steps of   min(r A, clip(r, 1 - low, 1 + high) A)        (PPO, arXiv:1707.06347, equation 7)
      - beta * sum over all steps of  KL(pi || pi_ref)

`log pi` is over the whole vocabulary on the executed prefix; z is a constant. The loss is -J, each step weighted by
one of three normalisations: "grpo" (arXiv:2402.03300) takes the mean over a rollout's steps, then over rollouts; "bnpo"
the mean over all steps of the batch; "dr_grpo" (arXiv:2503.20783) divides by rollouts times a constant length.
With L = 0 this is GRPO.

One thing is added to the paper: for A < 0 the latent term falls without bound as log pi(k) does, so a candidate
below `negative_latent_floor` is pushed no further, and is counted. Leaves out baselines (`training.advantage`).

Axes: B rollouts, L latent steps, K candidates, T answer tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from training.ranks import Ranks
from training.replay import Replayed

_MAX_LOG_RATIO = 20.0  # keeps exp finite in float32; far outside every clip


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """Settings of the objective; the defaults are the released ones.

    Example: `ObjectiveConfig(beta=0.001, normalization="bnpo")`.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    """

    beta: float = 0.0  # weight of KL(policy || reference), >= 0
    clip_low: float = 0.2  # the ratio is clipped at 1 - clip_low, in [0, 1]
    clip_high: float = 0.2  # and at 1 + clip_high, >= 0
    normalization: Literal["grpo", "bnpo", "dr_grpo"] = "grpo"  # weight of a step
    max_steps: int = 256  # constant length of "dr_grpo", generated positions, > 0
    latent_gradient: bool = True  # False: only token steps learn (an ablation); KL stays
    negative_latent_floor: float = -20.0  # nats, < 0; -inf: unbounded, as published
    old_logprobs: Literal["recorded", "none"] = "recorded"  # "none": ratio 1 with the gradient of log pi

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ValueError(f"beta must be 0 or more, got {self.beta}")
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low must be in [0, 1], got {self.clip_low}")
        if not self.clip_high >= 0:
            raise ValueError(f"clip_high must be 0 or more, got {self.clip_high}")
        if self.normalization not in {"grpo", "bnpo", "dr_grpo"}:
            raise ValueError(f"normalization must be 'grpo', 'bnpo' or 'dr_grpo', got {self.normalization!r}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be 1 or more, got {self.max_steps}")
        if not self.negative_latent_floor < 0:
            raise ValueError(f"negative_latent_floor must be below 0, got {self.negative_latent_floor}")
        if self.old_logprobs not in {"recorded", "none"}:
            raise ValueError(f"old_logprobs must be 'recorded' or 'none', got {self.old_logprobs!r}")


@dataclass(frozen=True, slots=True)
class ObjectiveMetrics:
    """What the objective saw, averaged over the steps it was given; a mean over nothing is 0."""

    mean_ratio: float  # pi_theta / pi_old of tokens; 1 on policy
    clip_fraction: float  # share of tokens whose gradient the clip cut
    sampler_kl: float  # nats per token, estimate of KL(sampler || policy) from recorded log-probabilities
    reference_kl: float  # nats per step, exact KL(policy || reference); 0 without a reference
    token_entropy: float  # nats, over the whole vocabulary at the rollout's temperature
    latent_step_entropy: float  # nats, of the policy at latent steps, over the whole vocabulary
    skipped_negative_latents: int  # candidates under the floor, pushed no further
    negative_latents: int  # candidates of latent steps with A < 0
    token_steps: int
    latent_steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums behind `ObjectiveMetrics`, float64 scalars on the device, so that micro-batches add up exactly."""

    ratio: Tensor
    clipped: Tensor
    sampler_kl: Tensor
    reference_kl: Tensor
    token_entropy: Tensor
    latent_entropy: Tensor
    skipped: Tensor
    negative: Tensor
    tokens: Tensor
    latents: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def over(self, ranks: Ranks) -> "Tally":
        """Return the sums over all processes."""
        return Tally(*ranks.total(torch.stack([getattr(self, field.name) for field in fields(self)])))

    @classmethod
    def empty(cls) -> "Tally":
        """Return the tally of no step at all."""
        return cls(*(torch.zeros((), dtype=torch.float64) for _ in fields(cls)))

    def metrics(self) -> ObjectiveMetrics:
        """Turn sums into means; waits for the device."""
        tokens, latents = max(1.0, float(self.tokens)), max(1.0, float(self.latents))
        return ObjectiveMetrics(
            mean_ratio=float(self.ratio) / tokens,
            clip_fraction=float(self.clipped) / tokens,
            sampler_kl=float(self.sampler_kl) / tokens,
            reference_kl=float(self.reference_kl) / max(1.0, float(self.tokens + self.latents)),
            token_entropy=float(self.token_entropy) / tokens,
            latent_step_entropy=float(self.latent_entropy) / latents,
            skipped_negative_latents=int(self.skipped),
            negative_latents=int(self.negative),
            token_steps=int(self.tokens),
            latent_steps=int(self.latents),
        )


def step_weights(lengths: Sequence[int], config: ObjectiveConfig) -> Tensor:
    """Weight of each step of each rollout, for the whole batch at once: micro-batches then add up to the batch.

    Args:
        lengths: generated positions (latent steps plus tokens) of every rollout of the batch.
        config: names the normalisation.

    Returns:
        float64 [B].

    """
    length_B = torch.tensor(lengths, dtype=torch.float64)
    if config.normalization == "grpo":
        return 1.0 / (len(lengths) * length_B.clamp(min=1.0))
    if config.normalization == "bnpo":
        return torch.ones_like(length_B) / length_B.sum().clamp(min=1.0)
    return torch.ones_like(length_B) / (len(lengths) * config.max_steps)


def objective(
    replayed: Replayed, advantages_B: Tensor, step_weights_B: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, Tally]:
    """Return the loss (-J) of these rollouts, differentiable, and what it saw.

    Args:
        replayed: from `training.replay.replay`.
        advantages_B: float [B], the same on every step of a rollout.
        step_weights_B: float [B] from `step_weights` over the whole batch, this micro-batch's part.
        config: settings.

    """
    dtype, device = replayed.token_logprobs_BT.dtype, replayed.token_logprobs_BT.device
    advantages_B1 = advantages_B.to(device, dtype)[:, None]
    weights_B1 = step_weights_B.to(device, dtype)[:, None]
    latent_BL, skipped, negative = _latent_loss(replayed, advantages_B1, config)
    token_BT, ratio_BT, clipped_BT = _token_loss(replayed, advantages_B1, config)
    if config.beta:
        latent_BL = latent_BL + config.beta * replayed.latent_kl_BL
        token_BT = token_BT + config.beta * replayed.token_kl_BT
    loss = (weights_B1 * latent_BL * replayed.latent_mask_BL).sum()
    loss = loss + (weights_B1 * token_BT * replayed.token_mask_BT).sum()
    return loss, _tally(replayed, ratio_BT, clipped_BT, skipped, negative)


def _latent_loss(replayed: Replayed, advantages_B1: Tensor, config: ObjectiveConfig) -> tuple[Tensor, Tensor, Tensor]:
    """J_latent with its sign turned, [B, L]; candidates under the floor; candidates with A < 0."""
    logprobs_BLK, weights_BLK = replayed.latent_logprobs_BLK, replayed.latent_weights_BLK
    kept_BLK = weights_BLK > 0
    negative_BLK = kept_BLK & (advantages_B1[:, :, None] < 0)
    stopped_BLK = negative_BLK & (logprobs_BLK.detach() < config.negative_latent_floor)
    terms_BLK = torch.where(kept_BLK & ~stopped_BLK, weights_BLK.to(logprobs_BLK.dtype) * logprobs_BLK, 0.0)
    loss_BL = -advantages_B1 * terms_BLK.sum(-1)
    if not config.latent_gradient:
        loss_BL = torch.zeros_like(loss_BL)
    return loss_BL, stopped_BLK.sum(), negative_BLK.sum()


def _token_loss(replayed: Replayed, advantages_B1: Tensor, config: ObjectiveConfig) -> tuple[Tensor, Tensor, Tensor]:
    """J_discrete with its sign turned, the ratio, and where the clip cut the gradient; all [B, T]."""
    ratio_BT = _log_ratio(replayed, config).clamp(max=_MAX_LOG_RATIO).exp()
    low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
    loss_BT = -torch.minimum(ratio_BT * advantages_B1, ratio_BT.clamp(low, high) * advantages_B1)
    clipped_BT = ((ratio_BT < low) & (advantages_B1 < 0)) | ((ratio_BT > high) & (advantages_B1 > 0))
    return loss_BT, ratio_BT.detach(), clipped_BT


def _log_ratio(replayed: Replayed, config: ObjectiveConfig) -> Tensor:
    """Log pi_theta - log pi_old; 0 with the gradient of log pi_theta where nothing was recorded."""
    now_BT, then_BT = replayed.token_logprobs_BT, replayed.recorded_logprobs_BT
    missing_BT = then_BT.isnan()
    if config.old_logprobs == "none":
        missing_BT = torch.ones_like(missing_BT)
    return now_BT - torch.where(missing_BT, now_BT.detach(), then_BT.to(now_BT.dtype))


@torch.no_grad()
def _tally(replayed: Replayed, ratio_BT: Tensor, clipped_BT: Tensor, skipped: Tensor, negative: Tensor) -> Tally:
    token_BT, latent_BL = replayed.token_mask_BT, replayed.latent_mask_BL
    recorded_BT = torch.where(replayed.recorded_logprobs_BT.isnan(), 0.0, 1.0) * token_BT
    sampler_kl = k3(replayed.recorded_logprobs_BT.nan_to_num(), replayed.token_logprobs_BT) * recorded_BT
    kl = (replayed.token_kl_BT * token_BT).sum() + (replayed.latent_kl_BL * latent_BL).sum()
    sums = (
        (ratio_BT * token_BT).sum(),
        (clipped_BT & token_BT).sum(),
        sampler_kl.sum(),
        kl,
        (replayed.token_entropy_BT * token_BT).sum(),
        (replayed.latent_entropy_BL * latent_BL).sum(),
        skipped,
        negative,
        token_BT.sum(),
        latent_BL.sum(),
    )
    return Tally(*(value.detach().double() for value in sums))


def k3(sampler_logprobs: Tensor, policy_logprobs: Tensor) -> Tensor:
    """Estimate KL(sampler || policy) per sample: r - 1 - log r with r = policy / sampler; unbiased, never negative.

    Source: Schulman, "Approximating KL Divergence" (2020), estimator k3.
    """
    log_ratio = (policy_logprobs - sampler_logprobs).clamp(max=_MAX_LOG_RATIO)
    return log_ratio.expm1() - log_ratio
