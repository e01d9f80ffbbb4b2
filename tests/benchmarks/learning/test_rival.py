"""The latent losses of SofT-GRPO and Latent-GRPO against computations written out by hand."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from benchmarks.learning.rival import latent_loss, one_sided_loss

OLD = [math.log(0.6), math.log(0.39), math.log(0.01)]
SCORES = [0.2, -0.1, -3.0]
NEG_INF = float("-inf")


def loss_of(now: list[float], advantage: float) -> float:
    replayed: Any = SimpleNamespace(
        latent_logprobs_BLK=torch.tensor([[[*now, -9.0]]]), latent_mask_BL=torch.ones(1, 1, dtype=torch.bool)
    )
    rollout: Any = SimpleNamespace(latent_logprobs_LK=torch.tensor([[*OLD, NEG_INF]]))
    scores = [torch.tensor([[*SCORES, NEG_INF]])]
    weight = torch.tensor([0.25])
    return float(latent_loss(cast("Any", replayed), scores, [rollout], torch.tensor([advantage]), weight))


def ratio_by_hand(now: list[float]) -> float:
    total = sum(math.exp(one) for one in now)
    now = [one - math.log(total) for one in now]

    def mean(logprobs: list[float]) -> float:
        kept = [k for k in range(3) if now[k] > -3]
        noise = [SCORES[k] - logprobs[k] for k in kept]
        return sum(-g - math.exp(-g) for g in noise) / len(kept)

    return math.exp(mean(now) - mean(OLD))


def test_the_ratio_is_one_on_policy() -> None:
    assert loss_of(OLD, 2.0) == pytest.approx(-0.25 * 2.0)


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("now", [[-0.55, -0.9, -4.5], [-0.05, -3.2, -4.5], [-2.5, -0.1, -4.0]])
def test_the_loss_is_the_clipped_ratio_of_densities(now: list[float], advantage: float) -> None:
    ratio = ratio_by_hand(now)
    clipped = min(max(ratio, 0.8), 1.2)
    assert loss_of(now, advantage) == pytest.approx(-0.25 * min(ratio * advantage, clipped * advantage), rel=1e-4)


@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_latent_grpo_pulls_where_it_should_since_its_noise_is_never_below_0(advantage: float) -> None:
    """On policy: d log f / d log pi = 1 - exp(-g) of each kept candidate, g >= 0, a mean of them."""
    old, mass, noise = [-0.7, -1.5, -3.0], -0.2, [0.0, 0.5, 4.5]
    now = torch.tensor([[[*(one + mass for one in old), -9.0]]], requires_grad=True)
    replayed: Any = SimpleNamespace(latent_logprobs_BLK=now, latent_mask_BL=torch.ones(1, 1, dtype=torch.bool))
    rollout: Any = SimpleNamespace(
        latent_logprobs_LK=torch.tensor([[*old, NEG_INF]]), latent_log_mass_L=torch.tensor([mass])
    )
    scores = [torch.tensor([[*(one + mass + g for one, g in zip(old, noise, strict=True)), NEG_INF]])]
    weight = torch.tensor([0.25])
    loss = one_sided_loss(cast("Any", replayed), scores, [rollout], torch.tensor([advantage]), weight)
    assert float(loss.detach()) == pytest.approx(-0.25 * advantage)  # the ratio is 1
    loss.backward()  # type: ignore[no-untyped-call]
    expected = [-0.25 * advantage * (1 - math.exp(-g)) / 3 for g in noise]
    assert now.grad is not None
    assert now.grad[0, 0].tolist() == pytest.approx([*expected, 0.0], abs=1e-6)
