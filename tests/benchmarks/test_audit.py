"""The audit finds what it looks for: rollouts of other weights, from their first step or from a later one."""

import dataclasses

import pytest
import torch

from benchmarks.audit import TOLERANCE, errors
from benchmarks.shapes import SHAPES, build_policy
from training.models.head import CausalLM, take_apart
from training.rollout import Rollout
from training.sample import sample
from training.sampling import Sampling

TOLERATED = TOLERANCE[torch.float32]


@pytest.fixture(scope="module")
def models() -> list[CausalLM]:
    shape = SHAPES["micro"]
    policies = [build_policy(shape, seed=s, version=s, dtype=torch.float32, device="cpu") for s in (0, 1)]
    return [take_apart(policy.model) for policy in policies]


@pytest.fixture(scope="module")
def rollouts() -> list[Rollout]:
    policy = build_policy(SHAPES["micro"], seed=0, version=0, dtype=torch.float32, device="cpu")
    draws = [Sampling(latent_length=latents, seed=latents) for latents in (0, 3)]
    return [sample(policy, [5, 9, 300, 17], draw, max_new=12) for draw in draws]


def test_rollouts_replay_on_their_version(models: list[CausalLM], rollouts: list[Rollout]) -> None:
    found = errors(rollouts, {0: models[0]})
    assert float(found.any_B.max()) < TOLERATED


def test_rollouts_of_other_weights_are_found_at_their_first_step(
    models: list[CausalLM], rollouts: list[Rollout]
) -> None:
    found = errors(rollouts, {0: models[1]})
    assert float(found.first_B.min()) > TOLERATED


def test_a_rollout_that_went_astray_later_is_found(models: list[CausalLM], rollouts: list[Rollout]) -> None:
    wrong = rollouts[0].token_logprobs_T.clone()
    wrong[-1] += 0.1
    found = errors([dataclasses.replace(rollouts[0], token_logprobs_T=wrong)], {0: models[0]})
    assert float(found.first_B) < TOLERATED
    assert float(found.any_B) == pytest.approx(0.1, abs=TOLERATED)
