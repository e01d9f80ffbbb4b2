"""The unified objective of LEPO (arXiv:2604.17892): one advantage, latent steps and token steps, one number.

    J = sum over latent steps of  u * A * sum_k z_k log pi(k)
      + sum over token steps of   w * min(r A, clip(r, 1 - low, 1 + high) A)    (PPO, arXiv:1707.06347, equation 7)
      - beta * sum over all steps of  KL(pi || pi_ref)

`log pi` is over the whole vocabulary on the executed prefix; z is a constant. The loss is -J, each step weighted by
one of three normalisations: "grpo" (arXiv:2402.03300) takes the mean over a rollout's steps, then over rollouts; "bnpo"
the mean over all steps of the batch; "dr_grpo" (arXiv:2503.20783) divides by rollouts times a constant length, and its
advantages are not divided by their spread (`divides_advantages`).
With L = 0 this is GRPO.

r is taken against the policy at the start of the update; the weights w and u (`training.importance`) say what a step
counts that another policy drew. Where the policy that learns drew it, both are 1 and this is the published objective;
`old_logprobs="recorded"` is the published one whoever drew.

Two bounds are added to the paper, both for A < 0: the latent term falls without bound as log pi(k) does, so a candidate
below `negative_latent_floor` is pushed no further, and is counted; and a ratio above `dual_clip` has no gradient (Ye et
al., arXiv:1912.09729). Leaves out baselines (`training.advantage`).

Axes: B rollouts, L latent steps, K candidates, T answer tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from training.importance import (
    LatentOffPolicy,
    OffPolicy,
    latent_weights,
    on_policy_latents,
    rollout_weights,
    token_weights,
)
from training.kl import MAX_LOG_RATIO, k3, kept_kl
from training.replay import Replayed

Normalization = Literal["grpo", "bnpo", "dr_grpo"]
OldLogprobs = Literal[
    "start",  # the policy at the start of the update; steps weigh what `training.importance` says
    "recorded",  # the policy that drew, as published: the ratio is the weight, latent steps have none
    "none",  # the policy as it is: ratio 1 with the gradient of log pi, no weights
]
_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "normalization": get_args(Normalization),
        "old_logprobs": get_args(OldLogprobs),
        "off_policy": get_args(OffPolicy),
        "latent_off_policy": get_args(LatentOffPolicy),
    }
)


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """Settings of the objective; on policy, the defaults are the released ones.

    Example: `ObjectiveConfig(beta=0.001, normalization="bnpo")`.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    """

    beta: float = 0.0  # weight of KL(policy || reference), >= 0
    clip_low: float = 0.2  # the ratio is clipped at 1 - clip_low, in [0, 1]
    clip_high: float = 0.2  # and at 1 + clip_high, >= 0
    normalization: Normalization = "grpo"  # weight of a step
    max_steps: int = 256  # constant length of "dr_grpo", generated positions, > 0
    latent_gradient: bool = True  # False: only token steps learn (an ablation); KL stays
    latent_scale: float = 1.0  # of the latent term, >= 0; K: a product of K token probabilities (arXiv:2601.08808)
    negative_latent_floor: float = -20.0  # nats, < 0; -inf: unbounded, as published
    old_logprobs: OldLogprobs = "start"  # what a token's ratio is taken against
    off_policy: OffPolicy = "rollout"  # how what another policy drew is weighed
    max_weight: float = 2.0  # largest weight of a single step, by "step", >= 1; inf: not truncated
    dual_clip: float = 3.0  # ratio above which a token with A < 0 is pushed no further, > 1; inf: no bound
    latent_off_policy: LatentOffPolicy = "prefix"  # how a latent step's ratio or weight is taken

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low must be in [0, 1], got {self.clip_low}")
        for name in ("beta", "clip_high", "latent_scale"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be 1 or more, got {self.max_steps}")
        if not self.negative_latent_floor < 0:
            raise ValueError(f"negative_latent_floor must be below 0, got {self.negative_latent_floor}")
        if not self.max_weight >= 1:
            raise ValueError(f"max_weight must be 1 or more, got {self.max_weight}")
        if not self.dual_clip > 1:
            raise ValueError(f"dual_clip must be above 1, got {self.dual_clip}")
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class ObjectiveMetrics:
    """What the objective saw, averaged over the steps it was given; a mean over nothing is 0."""

    mean_ratio: float  # pi_theta / mu of tokens, before any clip or truncation; 1 on policy
    mean_weight: float  # of tokens, truncated
    latent_mean_weight: float  # of latent steps, truncated
    truncated_fraction: float  # share of all steps that weigh `max_weight`
    clip_fraction: float  # share of tokens whose gradient a clip cut
    sampler_kl: float  # nats per token, estimate of KL(sampler || policy) from recorded log-probabilities
    latent_sampler_kl: float  # nats per latent step, KL(sampler || policy) over {each kept id, everything else}
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
    token_weight: Tensor
    latent_weight: Tensor
    truncated: Tensor
    clipped: Tensor
    sampler_kl: Tensor
    latent_sampler_kl: Tensor
    reference_kl: Tensor
    token_entropy: Tensor
    latent_entropy: Tensor
    skipped: Tensor
    negative: Tensor
    tokens: Tensor
    latents: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def stacked(self) -> Tensor:
        """Return the sums as one tensor, in the order of the fields."""
        return torch.stack([getattr(self, field.name) for field in fields(self)])

    @classmethod
    def empty(cls) -> "Tally":
        """Return the tally of no step at all."""
        return cls(*(torch.zeros((), dtype=torch.float64) for _ in fields(cls)))

    def metrics(self) -> ObjectiveMetrics:
        """Turn sums into means; waits for the device."""
        tokens, latents = max(1.0, float(self.tokens)), max(1.0, float(self.latents))
        return ObjectiveMetrics(
            mean_ratio=float(self.ratio) / tokens,
            mean_weight=float(self.token_weight) / tokens,
            latent_mean_weight=float(self.latent_weight) / latents,
            truncated_fraction=float(self.truncated) / max(1.0, float(self.tokens + self.latents)),
            clip_fraction=float(self.clipped) / tokens,
            sampler_kl=float(self.sampler_kl) / tokens,
            latent_sampler_kl=float(self.latent_sampler_kl) / latents,
            reference_kl=float(self.reference_kl) / max(1.0, float(self.tokens + self.latents)),
            token_entropy=float(self.token_entropy) / tokens,
            latent_step_entropy=float(self.latent_entropy) / latents,
            skipped_negative_latents=int(self.skipped),
            negative_latents=int(self.negative),
            token_steps=int(self.tokens),
            latent_steps=int(self.latents),
        )


def divides_advantages(normalization: Normalization) -> bool:
    """Whether advantages are divided by their standard deviation; Dr. GRPO's are not (arXiv:2503.20783, section 3)."""
    return normalization != "dr_grpo"


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


@torch.no_grad()
def importance(replayed: Replayed, advantages_B: Tensor, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Give what each token [B, T] and each latent step [B, L] would weigh in an update that starts now."""
    now_BT = replayed.token_logprobs_BT
    weights = _weights(replayed, now_BT, advantages_B.to(now_BT)[:, None], config)
    return weights.token_BT, weights.latent_BL


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """What each step counts for; constants."""

    token_BT: Tensor
    latent_BL: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Clipped:
    """The token steps: their loss, and where a clip cut the gradient."""

    loss_BT: Tensor
    clipped_BT: Tensor  # bool


@dataclass(frozen=True, slots=True, eq=False)
class _Latent:
    """The latent steps: their loss, and how many candidates the floor stopped."""

    loss_BL: Tensor
    skipped: Tensor  # candidates under the floor
    negative: Tensor  # candidates with A < 0


def objective(
    replayed: Replayed,
    advantages_B: Tensor,
    step_weights_B: Tensor,
    config: ObjectiveConfig,
    start_logprobs_BT: Tensor | None = None,
) -> tuple[Tensor, Tally]:
    """Return the loss (-J) of these rollouts, differentiable, and what it saw.

    Args:
        replayed: from `training.replay.replay`.
        advantages_B: float [B], the same on every step of a rollout.
        step_weights_B: float [B] from `step_weights` over the whole batch, this micro-batch's part.
        config: settings.
        start_logprobs_BT: log pi of the tokens at the start of the update; None: the policy has not moved since.

    """
    now_BT = replayed.token_logprobs_BT
    dtype, device = now_BT.dtype, now_BT.device
    start_BT = (now_BT.detach() if start_logprobs_BT is None else start_logprobs_BT).to(device, dtype)
    advantages_B1 = advantages_B.to(device, dtype)[:, None]
    step_weights_B1 = step_weights_B.to(device, dtype)[:, None]
    weights = _weights(replayed, start_BT, advantages_B1, config)
    latent = _latent_loss(replayed, advantages_B1, weights.latent_BL, config)
    token = _token_loss(replayed, start_BT, advantages_B1, weights.token_BT, config)
    latent_BL, token_BT = latent.loss_BL, token.loss_BT
    if config.beta:
        latent_BL = latent_BL + config.beta * replayed.latent_kl_BL
        token_BT = token_BT + config.beta * replayed.token_kl_BT
    loss = (step_weights_B1 * latent_BL * replayed.latent_mask_BL).sum()
    loss = loss + (step_weights_B1 * token_BT * replayed.token_mask_BT).sum()
    return loss, _tally(replayed, weights, latent, token, config)


def _weights(replayed: Replayed, start_BT: Tensor, advantages_B1: Tensor, config: ObjectiveConfig) -> _Weights:
    """Weigh each step; 1 unless the ratio is taken against the start."""
    whole_BT, whole_BL = torch.ones_like(start_BT), torch.ones_like(replayed.latent_entropy_BL)
    way = config.latent_off_policy
    if config.old_logprobs != "start":
        return _Weights(whole_BT, whole_BL)
    if config.off_policy == "step":
        return _Weights(
            token_weights(start_BT, replayed.recorded_logprobs_BT, config.max_weight),
            latent_weights(replayed, way, config.max_weight),
        )
    weight_B1 = torch.where(advantages_B1 < 0, rollout_weights(replayed, start_BT, way)[:, None], 1.0)
    if way == "omit":
        whole_BL = whole_BL * on_policy_latents(replayed)[:, None]
    return _Weights(whole_BT * weight_B1, whole_BL * weight_B1)


def _latent_loss(replayed: Replayed, advantages_B1: Tensor, importance_BL: Tensor, config: ObjectiveConfig) -> _Latent:
    """J_latent with its sign turned."""
    logprobs_BLK, weights_BLK = replayed.latent_logprobs_BLK, replayed.latent_weights_BLK
    kept_BLK = weights_BLK > 0
    negative_BLK = kept_BLK & (advantages_B1[:, :, None] < 0)
    stopped_BLK = negative_BLK & (logprobs_BLK.detach() < config.negative_latent_floor)
    terms_BLK = torch.where(kept_BLK & ~stopped_BLK, weights_BLK.to(logprobs_BLK.dtype) * logprobs_BLK, 0.0)
    scale = config.latent_scale if config.latent_gradient else 0.0
    return _Latent(-(scale * importance_BL * advantages_B1) * terms_BLK.sum(-1), stopped_BLK.sum(), negative_BLK.sum())


def _token_loss(
    replayed: Replayed, start_BT: Tensor, advantages_B1: Tensor, importance_BT: Tensor, config: ObjectiveConfig
) -> _Clipped:
    """J_discrete with its sign turned."""
    ratio_BT = _ratio(replayed.token_logprobs_BT, _old(replayed, start_BT, config))
    low, high, most = 1.0 - config.clip_low, 1.0 + config.clip_high, config.dual_clip
    gain_BT = torch.minimum(ratio_BT * advantages_B1, ratio_BT.clamp(low, high) * advantages_B1)
    beyond_BT = (ratio_BT > most) & (advantages_B1 < 0)
    gain_BT = torch.where(beyond_BT, ratio_BT.detach().clamp(max=most) * advantages_B1, gain_BT)
    clipped_BT = ((ratio_BT < low) & (advantages_B1 < 0)) | ((ratio_BT > high) & (advantages_B1 > 0)) | beyond_BT
    return _Clipped(-(importance_BT * gain_BT), clipped_BT)


def _old(replayed: Replayed, start_BT: Tensor, config: ObjectiveConfig) -> Tensor:
    """Log-probabilities that the ratio is taken against; the policy's own where nothing was recorded."""
    now_BT, recorded_BT = replayed.token_logprobs_BT.detach(), replayed.recorded_logprobs_BT
    if config.old_logprobs == "start":
        return start_BT
    if config.old_logprobs == "none":
        return now_BT
    return torch.where(recorded_BT.isnan(), now_BT, recorded_BT.to(now_BT.dtype))


def _ratio(now_BT: Tensor, old_BT: Tensor) -> Tensor:
    return (now_BT - old_BT).clamp(max=MAX_LOG_RATIO).exp()


@torch.no_grad()
def _tally(replayed: Replayed, weights: _Weights, latent: _Latent, token: _Clipped, config: ObjectiveConfig) -> Tally:
    token_BT, latent_BL = replayed.token_mask_BT, replayed.latent_mask_BL
    now_BT, recorded_BT = replayed.token_logprobs_BT, replayed.recorded_logprobs_BT
    known_BT = token_BT & ~recorded_BT.isnan() & (config.old_logprobs != "none")
    ratio_BT = torch.where(known_BT, _ratio(now_BT, recorded_BT.to(now_BT.dtype)), 1.0)
    apart_BL = kept_kl(replayed.latent_recorded_BLK, replayed.latent_current_BLK, replayed.latent_weights_BLK > 0)
    heaviest = (weights.token_BT >= config.max_weight)[token_BT].sum()
    heaviest = heaviest + (weights.latent_BL >= config.max_weight)[latent_BL].sum()
    kl = (replayed.token_kl_BT * token_BT).sum() + (replayed.latent_kl_BL * latent_BL).sum()
    sums = (
        (ratio_BT * token_BT).sum(),
        (weights.token_BT * token_BT).sum(),
        (weights.latent_BL * latent_BL).sum(),
        heaviest,
        (token.clipped_BT & token_BT).sum(),
        k3(recorded_BT.nan_to_num(), now_BT)[token_BT & ~recorded_BT.isnan()].sum(),
        (apart_BL * latent_BL).sum(),
        kl,
        (replayed.token_entropy_BT * token_BT).sum(),
        (replayed.latent_entropy_BL * latent_BL).sum(),
        latent.skipped,
        latent.negative,
        token_BT.sum(),
        latent_BL.sum(),
    )
    return Tally(*(value.detach().double() for value in sums))
