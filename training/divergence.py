"""Whether a rollout can still teach a policy: how far its sampler and the policy are apart, in nats per step.

A grade may come when the policy has moved on, after a rollback, or for an answer asked at another temperature. What
counts is not how many versions lie between: the recorded distribution each step was drawn from is compared with what
the policy that would learn gives the same step. Tokens give the estimate exp(d) - 1 - d with d = log pi - log mu;
latent steps the KL over {each kept id, everything else} of the distribution their mixture was drawn from. A rollout of
the same weights, asked as the target is, is near 0: what is left is rounding.

Leaves out what follows (a bound is the caller's) and what a diverged step weighs (`training.importance`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.kl import k3, kept_kl
from training.models.head import CausalLM
from training.objective import ObjectiveConfig, importance
from training.optimization.batches import batches_of
from training.replay import ReplayConfig, Replayed, replay
from training.rollout import Rollout
from training.sampling import Target

_CERTAIN = -1e-6  # log-probability above which a step's draw was no choice; float32 records are that exact


@dataclass(frozen=True, slots=True)
class Divergence:
    """What one rollout is worth to the policy it was measured against.

    A policy of broken weights gives NaN: let a bound be kept by `nats <= bound`, which NaN does not.
    """

    nats: float  # per step, tokens and latent steps together; 0 without any step
    token_nats: float  # per token
    latent_nats: float  # per latent step
    weight: float  # mean weight of its steps if it is worth less than expected; 1 on policy
    explored: bool  # whether any of its steps had a choice; if not, it carries no information


@dataclass(frozen=True, slots=True)
class Measuring:
    """How divergence is measured.

    Example: `Measuring(target=Target(1.0, 30, 0.95), positions=4096)`.
    """

    target: Target | None = None  # whose sampling would learn; None: each rollout's own
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)  # gives the weights
    positions: int = 16_384  # padded positions per forward


def measure(
    model: CausalLM,
    rollouts: Sequence[Rollout],
    how: Measuring,
    check: Callable[[], None] | None = None,
) -> list[Divergence]:
    """Measure rollouts against a model as it is now, in micro-batches, without gradients.

    Args:
        model: the policy that would learn, in eval mode.
        rollouts: any number.
        how: see `Measuring`.
        check: called before every micro-batch; what it raises ends the measuring.

    Returns:
        One per rollout, in their order.

    Raises:
        ValueError: a rollout cannot be learned from; see `training.executed.collate`.

    """
    found: dict[int, Divergence] = {}
    for bucket in batches_of(rollouts, how.positions, model.sharing):
        if check is not None:
            check()
        chosen = [rollouts[index] for index in bucket]
        found |= zip(bucket, _measured(model, chosen, how), strict=True)
    return [found[index] for index in range(len(rollouts))]


def explored(rollout: Rollout) -> bool:
    """Whether chance had a say in any step; not in greedy answers, nor where every support was one token.

    Read off the record: a token was certain where the filter left it alone, so that its probability is all of the mass
    that the filter left.
    """
    if rollout.sampling.temperature == 0.0:
        return False
    token_logprobs_T = rollout.token_logprobs_T - rollout.token_log_mass_T
    tokens = bool((token_logprobs_T.nan_to_num(nan=-1.0) < _CERTAIN).any())
    return tokens or (rollout.latent_length > 0 and bool((rollout.latent_logprobs_LK.amax(-1) < _CERTAIN).any()))


@torch.no_grad()
def _measured(model: CausalLM, rollouts: Sequence[Rollout], how: Measuring) -> list[Divergence]:
    """Measure one micro-batch."""
    replayed = replay(model, rollouts, how.replay, target=how.target, positions=how.positions)
    token_BT, latent_BL = step_nats(replayed)
    below_B = -torch.ones(len(rollouts))
    weight_BT, weight_BL = importance(replayed, below_B, how.objective)
    sums_B6 = torch.stack(
        (
            _summed(token_BT, replayed.token_mask_BT),
            _summed(latent_BL, replayed.latent_mask_BL),
            _summed(weight_BT, replayed.token_mask_BT),
            _summed(weight_BL, replayed.latent_mask_BL),
            replayed.token_mask_BT.sum(-1).double(),
            replayed.latent_mask_BL.sum(-1).double(),
        ),
        dim=-1,
    )
    return [
        Divergence(
            nats=(token + latent) / max(1.0, tokens + latents),
            token_nats=token / max(1.0, tokens),
            latent_nats=latent / max(1.0, latents),
            weight=(token_weight + latent_weight) / max(1.0, tokens + latents),
            explored=explored(rollout),
        )
        for rollout, (token, latent, token_weight, latent_weight, tokens, latents) in zip(
            rollouts, sums_B6.tolist(), strict=True
        )
    ]


def step_nats(replayed: Replayed) -> tuple[Tensor, Tensor]:
    """Divergence of each token [B, T] (0 where nothing was recorded) and of each latent step [B, L], nats."""
    token_BT = k3(replayed.recorded_logprobs_BT, replayed.token_logprobs_BT)
    token_BT = torch.where(replayed.recorded_logprobs_BT.isnan(), 0.0, token_BT)
    kept_BLK = replayed.latent_weights_BLK > 0
    return token_BT, kept_kl(replayed.latent_recorded_BLK, replayed.latent_current_BLK, kept_BLK)


def _summed(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the steps there are, float64 [B]."""
    return torch.where(mask, values, 0.0).double().sum(-1)
