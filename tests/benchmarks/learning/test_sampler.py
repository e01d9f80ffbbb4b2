"""The bench's sampler: the production step for LEPO and GRPO, and the rivals' own latent steps."""

from dataclasses import replace

import pytest
import torch

from benchmarks.learning import gaussian
from benchmarks.learning.methods import TRIED, Method
from benchmarks.learning.sampler import CLAMP, answer, latent_step, sampling_of, seeded
from training.bench_model.location import WEIGHTS
from training.controls import controls_for
from training.draw import averaged_weights
from training.latent import mix
from training.models.chat import render_chat
from training.models.head import take_apart
from training.models.policy import Policy, embedding, load_policy
from training.noise import gumbel, step_key
from training.replay import replay
from training.sample import sample

METHODS = {name: tried[0].method for name, tried in TRIED.items()}
RECORDED = [one for one in METHODS.values() if one.noise != "gaussian"]  # as mixtures of kept ids


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(WEIGHTS, version=0, dtype=torch.float64, device="cpu")


@pytest.fixture(scope="module")
def prompt(policy: Policy) -> list[int]:
    return render_chat(policy.tokenizer, [{"role": "user", "content": "Work out 47 + 6 - 8 + 9 step by step."}])


@pytest.mark.parametrize("name", ["grpo", "lepo"])
def test_a_batch_is_what_the_reference_sampler_draws(policy: Policy, prompt: list[int], name: str) -> None:
    samplings = seeded(sampling_of(METHODS[name]), [3, 4, 5])
    answered = answer(policy, [prompt] * 3, METHODS[name], samplings, 18)
    for one, sampling in zip(answered, samplings, strict=True):
        expected = sample(policy, prompt, sampling, sampling.latent_length + 18)
        assert torch.equal(one.rollout.token_ids_T, expected.token_ids_T)
        assert torch.equal(one.rollout.latent_ids_LK, expected.latent_ids_LK)
        torch.testing.assert_close(one.rollout.latent_weights_LK, expected.latent_weights_LK)
        assert one.rollout.stop_reason == expected.stop_reason


@pytest.mark.parametrize("method", RECORDED, ids=lambda one: one.name)
def test_replay_gives_the_recorded_log_probabilities(policy: Policy, prompt: list[int], method: Method) -> None:
    answered = answer(policy, [prompt] * 3, method, seeded(sampling_of(method), [3, 4, 5]), 18)
    replayed = replay(take_apart(policy.model), [one.rollout for one in answered])
    mask = replayed.token_mask_BT
    gap = replayed.token_logprobs_BT[mask] - replayed.recorded_logprobs_BT[mask]
    assert gap.abs().max() < 1e-5


def test_the_rivals_steps_are_their_formulas() -> None:
    method = METHODS["soft_grpo"]
    logits_BV = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    controls = controls_for(seeded(sampling_of(method), [1, 2]), torch.device("cpu"))
    step_B1 = torch.zeros_like(controls.stream_B1)
    drawn, weights_BK = latent_step(method, logits_BV, controls, step_B1)
    top = logits_BV.topk(5)
    assert torch.equal(drawn.ids_BK, top.indices)
    inside = drawn.logprobs_BK > float("-inf")
    noise = gumbel(step_key(controls.stream_B1, step_B1), top.indices).clamp(*CLAMP)
    torch.testing.assert_close((drawn.scores_BK - drawn.logprobs_BK)[inside], noise[inside])
    torch.testing.assert_close(weights_BK, (drawn.scores_BK / 0.1).softmax(-1))

    still, weights_BK = latent_step(METHODS["deterministic"], logits_BV, controls, step_B1)
    torch.testing.assert_close(weights_BK, still.logprobs_BK.exp())


def test_the_method_that_averages_has_its_mixture_from_training() -> None:
    method = replace(METHODS["lepo_averaged"], draws=4)
    logits_BV = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    controls = controls_for(seeded(sampling_of(method), [1, 2]), torch.device("cpu"))
    step_B1 = torch.zeros_like(controls.stream_B1)
    drawn, weights_BK = latent_step(method, logits_BV, controls, step_B1)
    assert torch.equal(weights_BK, averaged_weights(drawn, controls, step_B1, 4))
    assert not torch.allclose(weights_BK, drawn.weights_BK, atol=1e-2)


def test_gaussian_noise_is_executed_and_scored_by_its_density(prompt: list[int]) -> None:
    policy = load_policy(WEIGHTS, version=0, dtype=torch.float32, device="cpu")
    method = TRIED["soft_tokens"][0].method
    samplings = seeded(sampling_of(method), [3, 4, 5])
    answered = answer(policy, [prompt] * 3, method, samplings, 12)
    table, sigma = embedding(policy), gaussian.sigma_of(embedding(policy), method.spread)
    rollouts = [one.rollout for one in answered]
    means = [mix(table, one.latent_ids_LK.long(), one.latent_weights_LK).detach() for one in rollouts]
    noise = torch.cat([(one.executed_LD - mean).flatten() for one, mean in zip(answered, means, strict=True)])
    assert noise.std() == pytest.approx(sigma, rel=0.1)
    again = answer(policy, [prompt], method, samplings[:1], 12)[0]
    torch.testing.assert_close(again.executed_LD, answered[0].executed_LD)
    pulls = torch.ones(3), torch.ones(3)
    executed = [one.executed_LD for one in answered]
    found = gaussian.loss(policy.model, rollouts, executed, pulls, method.spread).detach()
    density = -noise.square().sum() / (2 * sigma**2)
    tokens = torch.cat([one.token_logprobs_T for one in rollouts]).sum()
    assert float(found) == pytest.approx(-float(density + tokens), rel=1e-3)
    assert gaussian.sigma_of(table, 0.5) == pytest.approx(5 * gaussian.sigma_of(table, 0.1))
