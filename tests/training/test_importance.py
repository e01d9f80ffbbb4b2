"""What another policy's steps weigh: 1 on policy, never above the bound, and each way against its own definition."""

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from training.importance import (
    LatentOffPolicy,
    density_defined,
    latent_gaps,
    latent_weights,
    rollout_weights,
    token_weights,
)
from training.models.head import take_apart
from training.replay import Replayed, replay
from training.rollout import Rollout
from training.sampling import Sampling, Target

from .rollouts import group, mixed_batch, moved, tiny

WAYS: tuple[LatentOffPolicy, ...] = get_args(LatentOffPolicy)
FREE = 1e9  # no truncation
SEEDS = range(8)


def seen(size: float, rollouts: list[Rollout], seed: int = 1, target: Target | None = None) -> Replayed:
    """Replay on weights moved by `size` from those that sampled."""
    with torch.no_grad():
        return replay(take_apart(moved(tiny(dtype=torch.float64), size, seed)), rollouts, target=target)


def latents(sampling: Sampling, size: int = 6) -> list[Rollout]:
    return group(tiny(), size, sampling, [5, 6, 7], sampling.latent_length + 3)


@pytest.mark.parametrize("way", WAYS)
def test_on_policy_every_weight_is_one(way: LatentOffPolicy) -> None:
    replayed = seen(0.0, mixed_batch())
    tokens_BT = token_weights(replayed.token_logprobs_BT, replayed.recorded_logprobs_BT, 2.0)
    latents_BL = latent_weights(replayed, way, 2.0)
    torch.testing.assert_close(tokens_BT, torch.ones_like(tokens_BT), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents_BL, torch.ones_like(latents_BL), rtol=0, atol=1e-4)
    assert rollout_weights(replayed, replayed.token_logprobs_BT, way).tolist() == [1.0] * 7, "bit for bit"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_no_weight_is_negative_or_above_the_bound(way: LatentOffPolicy, seed: int) -> None:
    """However far the policy has moved, and whatever the target."""
    for size in (0.02, 0.3, 3.0):
        for target in (None, Target(0.7), Target(1.0, 5, 1.0)):
            replayed = seen(size, mixed_batch(), seed, target)
            for most in (1.0, 2.0, 50.0):
                for weights in (
                    token_weights(replayed.token_logprobs_BT, replayed.recorded_logprobs_BT, most),
                    latent_weights(replayed, way, most),
                ):
                    assert bool(weights.isfinite().all())
                    assert 0.0 <= float(weights.min()) <= float(weights.max()) <= most
            whole_B = rollout_weights(replayed, replayed.token_logprobs_BT, way)
            assert bool(((whole_B >= 0.0) & (whole_B <= 1.0)).all())


def test_a_token_weighs_what_its_probabilities_say() -> None:
    start, recorded = torch.tensor([[-1.0, -2.0, -0.1, -3.0]]), torch.tensor([[-2.0, -1.0, float("nan"), -90.0]])
    found = token_weights(start, recorded, 2.5)
    torch.testing.assert_close(found, torch.tensor([[2.5, 0.3678794, 1.0, 2.5]]))


def test_prefixes_are_products_of_steps() -> None:
    replayed = seen(0.03, latents(Sampling(latent_length=4, tau=0.5)))
    step_BL, prefix_BL = latent_weights(replayed, "step", FREE), latent_weights(replayed, "prefix", FREE)
    torch.testing.assert_close(prefix_BL, step_BL.cumprod(-1))
    assert float((step_BL - 1).abs().max()) > 0.1, "the policy must have moved"
    cut_BL = latent_weights(replayed, "prefix", 1.5)
    torch.testing.assert_close(cut_BL, prefix_BL.clamp(max=1.5))


def test_a_rollout_weighs_the_product_of_its_steps() -> None:
    rollouts = latents(Sampling(latent_length=3, tau=0.5))
    replayed = seen(0.03, rollouts)
    found_B = rollout_weights(replayed, replayed.token_logprobs_BT, "prefix")
    without_B = rollout_weights(replayed, replayed.token_logprobs_BT, "omit")
    for row, rollout in enumerate(rollouts):
        now_T = replayed.token_logprobs_BT[row, : rollout.answer_length]
        tokens = float((now_T - rollout.token_logprobs_T).double().sum())
        both = tokens + float(latent_gaps(replayed, "prefix")[row].sum())
        assert float(found_B[row]) == pytest.approx(min(1.0, math.exp(both)), rel=1e-5)
        assert float(without_B[row]) == pytest.approx(min(1.0, math.exp(tokens)), rel=1e-5)
    assert float(found_B.min()) < 0.9 < float(found_B.max())


def test_as_tau_falls_a_step_weighs_what_its_one_token_does() -> None:
    rollouts = latents(Sampling(latent_length=3, tau=1e-6))
    replayed = seen(0.03, rollouts)
    for way in ("step", "density"):  # the scores behind a one-hot mixture are lost: there is no density
        found_BL = latent_weights(replayed, way, FREE)
        for row, rollout in enumerate(rollouts):
            k_L1 = rollout.latent_weights_LK.argmax(-1, keepdim=True)
            now_L, then_L = (
                one[row].gather(1, k_L1).squeeze(1)
                for one in (replayed.latent_current_BLK, replayed.latent_recorded_BLK)
            )
            torch.testing.assert_close(found_BL[row], (now_L - then_L).exp(), rtol=1e-5, atol=0)


def concrete_log_density(z_K: Tensor, logits_K: Tensor, tau: float) -> Tensor:
    relaxed: Any = ExpRelaxedCategorical(torch.tensor(tau, dtype=torch.float64), logits=logits_K, validate_args=False)
    log_density: Tensor = relaxed.log_prob(z_K.log())
    return log_density


def brute_force(rollout: Rollout, replayed: Replayed, row: int) -> Tensor:
    """Density of the mixture under both policies, each normalised over the support, by torch's Concrete; [L]."""
    ratios = []
    for step in range(rollout.latent_length):
        size = int(rollout.latent_logprobs_LK[step].isfinite().sum())
        z_K = rollout.latent_weights_LK[step, :size].double()
        now_K, then_K = (
            one[row, step, :size].double().log_softmax(-1)
            for one in (replayed.latent_current_BLK, replayed.latent_recorded_BLK)
        )
        ratios.append(
            concrete_log_density(z_K, now_K, rollout.sampling.tau)
            - concrete_log_density(z_K, then_K, rollout.sampling.tau)
        )
    return torch.stack(ratios).exp()


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("target", [None, Target(0.7)])
def test_the_density_ratio_is_that_of_the_concrete_distribution(tau: float, target: Target | None) -> None:
    rollouts = latents(Sampling(latent_length=4, tau=tau))
    replayed = seen(0.03, rollouts, target=target)
    assert bool(density_defined(replayed).all())
    found_BL = latent_weights(replayed, "density", FREE)
    for row, rollout in enumerate(rollouts):
        torch.testing.assert_close(found_BL[row].double(), brute_force(rollout, replayed, row), rtol=1e-3, atol=1e-6)
    assert float((found_BL - latent_weights(replayed, "step", FREE)).abs().max()) > 0.05


def test_the_mean_of_several_samples_has_no_density_and_takes_the_step_ratio() -> None:
    replayed = seen(0.03, latents(Sampling(latent_length=3, tau=1.0, draws=4)))
    assert not bool(density_defined(replayed).any())
    assert torch.equal(latent_weights(replayed, "density", FREE), latent_weights(replayed, "step", FREE))


def test_omit_leaves_out_what_another_policy_drew_and_nothing_else() -> None:
    fresh = latents(Sampling(latent_length=3, tau=0.5), 3)
    late = group(moved(tiny(), 0.05), 3, Sampling(latent_length=3, tau=0.5), [5, 6, 7], 6)
    found_BL = latent_weights(seen(0.0, [*fresh, *late]), "omit", 2.0)
    assert found_BL.tolist() == [[1.0] * 3] * 3 + [[0.0] * 3] * 3


def test_asked_otherwise_the_recorded_distribution_is_what_was_drawn_from() -> None:
    """Through the support alone: a token's log mu is that of the filtered draw, the target's is of all."""
    hot = replace(latents(Sampling(temperature=0.5, top_k=3, top_p=1.0), 1)[0])
    own, asked = seen(0.0, [hot]), seen(0.0, [hot], target=Target(1.0))
    mu_T = hot.token_logprobs_T - hot.token_log_mass_T
    torch.testing.assert_close(own.recorded_logprobs_BT[0], hot.token_logprobs_T, rtol=0, atol=0)
    torch.testing.assert_close(asked.recorded_logprobs_BT[0], mu_T, rtol=0, atol=0)
    at_one = seen(0.0, [replace(hot, sampling=replace(hot.sampling, temperature=1.0))])
    torch.testing.assert_close(asked.token_logprobs_BT, at_one.token_logprobs_BT)
