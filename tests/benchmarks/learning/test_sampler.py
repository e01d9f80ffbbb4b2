"""The bench's sampler: the production step for LEPO and GRPO, and the rivals' own latent steps."""

import pytest
import torch

from benchmarks.learning.methods import METHODS, Method
from benchmarks.learning.sampler import CLAMP, answer, latent_step, sampling_of, seeded
from training.bench_model.location import WEIGHTS
from training.chat import render_chat
from training.head import take_apart
from training.latent import controls_for
from training.noise import gumbel, step_key
from training.policy import Policy, load_policy
from training.replay import replay
from training.sample import sample


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


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
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
    key_B1 = step_key(controls.stream_B1, torch.tensor(0))
    drawn = latent_step(method, logits_BV, controls, key_B1)
    top = logits_BV.topk(5)
    assert torch.equal(drawn.ids_BK, top.indices)
    inside = drawn.logprobs_BK > float("-inf")
    noise = gumbel(key_B1, top.indices).clamp(*CLAMP)
    torch.testing.assert_close((drawn.scores_BK - drawn.logprobs_BK)[inside], noise[inside])
    torch.testing.assert_close(drawn.weights_BK, (drawn.scores_BK / 0.1).softmax(-1))

    still = latent_step(METHODS["deterministic"], logits_BV, controls, key_B1)
    torch.testing.assert_close(still.weights_BK, still.logprobs_BK.exp())
