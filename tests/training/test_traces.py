"""What a batch looks like, by hand on two latent steps whose figures are known."""

import math

import pytest
import torch

from training.rollout import Rollout
from training.sampling import Sampling
from training.traces import describe

from .rollouts import group, tiny


def by_hand() -> Rollout:
    """One step with a support of one token, one with two equal candidates of which the second was drawn."""
    return Rollout(
        prompt_ids_P=torch.tensor([5], dtype=torch.int32),
        latent_ids_LK=torch.tensor([[7, 0], [8, 9]], dtype=torch.int32),
        latent_weights_LK=torch.tensor([[1.0, 0.0], [0.25, 0.75]]),
        latent_logprobs_LK=torch.tensor([[0.0, -math.inf], [math.log(0.5), math.log(0.5)]]),
        latent_log_mass_L=torch.tensor([math.log(0.9), math.log(0.7)]),
        token_ids_T=torch.tensor([3, 4, 1], dtype=torch.int32),
        token_logprobs_T=torch.zeros(3),
        token_log_mass_T=torch.zeros(3),
        sampling=Sampling(latent_length=2),
        policy_version=0,
        stop_reason="stop",
    )


def test_the_figures_are_those_of_the_steps() -> None:
    found = describe([by_hand()])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.latent_entropy == pytest.approx(entropy / 2)
    assert found.effective_support == pytest.approx((1 + 2) / 2)
    assert found.singleton_rate == 0.5
    assert found.hidden_mass == pytest.approx((0.1 + 0.3) / 2)
    assert found.mode_disagreement == 0.5
    assert (found.mean_latents, found.mean_tokens) == (2.0, 3.0)


def test_real_rollouts_are_random_and_the_filter_hides_mass() -> None:
    drawn = group(tiny(), 20, Sampling(latent_length=4, top_k=8, top_p=0.9), [5, 6], 6)
    found = describe([*drawn, *group(tiny(), 3, Sampling(), [5], 4)])
    assert found.latent_entropy > 0.05
    assert 1.0 < found.effective_support <= 8.0
    assert 0.0 < found.hidden_mass < 0.5
    assert 0.0 < found.mode_disagreement < 1.0
    assert found.mean_latents == pytest.approx(80 / 23)


def test_without_latents_their_figures_are_zero() -> None:
    found = describe(group(tiny(), 3, Sampling(), [5], 4))
    assert (found.latent_entropy, found.effective_support, found.singleton_rate, found.mean_latents) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        describe([])
