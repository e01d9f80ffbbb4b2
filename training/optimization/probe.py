"""How far a step moved the policy: some rollouts scored before and after it, without gradients.

The KL is taken from the policy before the step to the one after, on the executed prefixes. Tokens give the k3 estimate
(they were drawn close to the old policy); latent steps the exact KL between the two policies as distributions over
{each kept id, everything else}, a lower bound of the full one. Neither holds more than one chunk of the vocabulary.

Axes: B rollouts, L latent steps, K candidates, T answer tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.kl import k3, kept_kl
from training.models.head import CausalLM
from training.optimization.batches import batches_of
from training.replay import ReplayConfig, Replayed, replay
from training.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Movement:
    """What one update did to the policy, on the probed rollouts."""

    kl: float  # nats per step, KL(before || after), >= 0
    entropy_before: float  # nats, mean over answer tokens (over latent steps when there is no token)
    entropy_after: float  # nats


def spread(total: int, wanted: int) -> list[int]:
    """Pick `wanted` indices evenly over range(total), or all of them."""
    wanted = min(total, wanted)
    return [index * total // wanted for index in range(wanted)]


@torch.no_grad()
def look(model: CausalLM, rollouts: Sequence[Rollout], config: ReplayConfig, positions: int) -> list[Replayed]:
    """Score rollouts as they are now; the same arguments give the same layout."""
    buckets = batches_of(rollouts, positions, model.sharing)
    return [replay(model, [rollouts[index] for index in bucket], config, positions=positions) for bucket in buckets]


def movement(before: Sequence[Replayed], after: Sequence[Replayed]) -> Movement:
    """Compare two looks at the same rollouts."""
    kl, steps = 0.0, 0
    for old, new in zip(before, after, strict=True):
        token_kl_BT = k3(old.token_logprobs_BT, new.token_logprobs_BT)
        kl += float(token_kl_BT[old.token_mask_BT].double().sum())
        kl += float(_kept_kl(old, new)[old.latent_mask_BL].sum())
        steps += int(old.token_mask_BT.sum()) + int(old.latent_mask_BL.sum())
    return Movement(kl / max(1, steps), _entropy(before), _entropy(after))


def _kept_kl(old: Replayed, new: Replayed) -> Tensor:
    """KL over {each kept id, everything else}, float64 [B, L]."""
    return kept_kl(old.latent_logprobs_BLK, new.latent_logprobs_BLK, old.latent_weights_BLK > 0)


def _entropy(looks: Sequence[Replayed]) -> float:
    """Mean entropy of answer tokens, or of latent steps where no rollout has a token."""
    tokens = torch.cat([one.token_entropy_BT[one.token_mask_BT] for one in looks])
    latents = torch.cat([one.latent_entropy_BL[one.latent_mask_BL] for one in looks])
    chosen = tokens if len(tokens) else latents
    return float(chosen.double().mean()) if len(chosen) else 0.0
