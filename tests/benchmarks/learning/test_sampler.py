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
from training.objective import ObjectiveConfig, objective
from training.placement import PlacementName, placement_of
from training.replay import replay
from training.sample import sample

METHODS = {name: tried[0].method for name, tried in TRIED.items()}
RECORDED = [one for one in METHODS.values() if one.noise not in {"gaussian", "dropout"}]  # as mixtures of kept ids
NEG_INF = float("-inf")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(WEIGHTS, version=0, dtype=torch.float64, device="cpu")


@pytest.fixture(scope="module")
def prompt(policy: Policy) -> list[int]:
    return render_chat(policy.tokenizer, [{"role": "user", "content": "Work out 47 + 6 - 8 + 9 step by step."}])


@pytest.mark.parametrize("placement", ["answer", "preamble"])
@pytest.mark.parametrize("name", ["grpo", "lepo", "multiplex"])
def test_a_batch_is_what_the_reference_sampler_draws(
    policy: Policy, prompt: list[int], name: str, placement: PlacementName
) -> None:
    samplings = seeded(sampling_of(METHODS[name]), [3, 4, 5])
    answered = answer(policy, [prompt] * 3, replace(METHODS[name], placement=placement), samplings, 18)
    placed = placement_of(placement, policy.tokenizer)
    for one, sampling in zip(answered, samplings, strict=True):
        expected = sample(policy, prompt, sampling, sampling.latent_length + 18, placement=placed)
        assert one.rollout.placed == expected.placed
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


def test_latent_grpo_keeps_the_ten_largest_of_scores_that_noise_only_raises() -> None:
    method = METHODS["latent_grpo"]
    sharpness_B1 = torch.tensor([[1.3], [3.0]])  # more than ten in the nucleus, and fewer
    logits_BV = sharpness_B1 * torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    controls = controls_for(seeded(sampling_of(method), [1, 2]), torch.device("cpu"))
    step_B1 = torch.zeros_like(controls.stream_B1)
    drawn, weights_BK = latent_step(method, logits_BV, controls, step_B1)
    full_BV = logits_BV.log_softmax(-1)
    raised_BK = drawn.scores_BK - full_BV.gather(1, drawn.ids_BK)
    assert raised_BK.min() >= 0
    assert raised_BK.max() <= 4.5
    noise_BV = gumbel(step_key(controls.stream_B1, step_B1), torch.arange(60).expand(2, -1)).clamp(*CLAMP) + 1.5
    ordered = full_BV.sort(-1, descending=True)
    filtered_BV = ordered.values[:, :30].softmax(-1)
    outside_BV = (filtered_BV.cumsum(-1) - filtered_BV >= 0.95) & (torch.arange(30) >= 10)
    outside_BV = torch.cat([outside_BV, torch.ones(2, 30, dtype=torch.bool)], dim=-1)
    allowed_BV = torch.zeros_like(outside_BV).scatter(1, ordered.indices, ~outside_BV)
    expected = (full_BV + noise_BV).masked_fill(~allowed_BV, NEG_INF).topk(10)
    assert torch.equal(drawn.ids_BK, expected.indices)
    assert not torch.equal(drawn.ids_BK.sort().values, full_BV.topk(10).indices.sort().values)
    torch.testing.assert_close(weights_BK, expected.values.softmax(-1))
    greedy = controls_for([replace(sampling_of(method), temperature=0.0)], torch.device("cpu"))
    _, alone_BK = latent_step(method, logits_BV[:1], greedy, step_B1[:1])
    assert alone_BK.max() == 1.0


def test_multiplex_learns_by_the_sum_of_its_tokens_log_probabilities(prompt: list[int]) -> None:
    """On policy, against the log-probabilities of the three tokens of each latent step, which only the ids tell."""
    policy = load_policy(WEIGHTS, version=0, dtype=torch.float64, device="cpu")
    method = METHODS["multiplex"]
    one = answer(policy, [prompt], method, seeded(sampling_of(method), [5]), 12)[0].rollout
    counts_LK = (one.latent_weights_LK * 3).round()
    torch.testing.assert_close(counts_LK / 3, one.latent_weights_LK)
    assert counts_LK.sum(-1).tolist() == [3.0] * method.latent_length
    assert counts_LK.max(-1).values.min() < 3
    replayed = replay(take_apart(policy.model), [one])
    config = ObjectiveConfig(latent_scale=method.latent_scale)
    advantage, weight = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    loss, _ = objective(replayed, advantage, weight, config)
    tokens = [
        replayed.latent_logprobs_BLK[0, step, k]
        for step, counts in enumerate(counts_LK.int().tolist())
        for k, count in enumerate(counts)
        for _ in range(count)
    ]
    assert len(tokens) == 3 * method.latent_length
    expected = -0.1 * 0.7 * (torch.stack(tokens).sum() + one.answer_length)  # a token's ratio is 1
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_the_method_that_averages_has_its_mixture_from_training() -> None:
    method = replace(METHODS["lepo_averaged"], draws=4)
    logits_BV = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    controls = controls_for(seeded(sampling_of(method), [1, 2]), torch.device("cpu"))
    step_B1 = torch.zeros_like(controls.stream_B1)
    drawn, weights_BK = latent_step(method, logits_BV, controls, step_B1)
    assert torch.equal(weights_BK, averaged_weights(drawn, controls, step_B1, 4))
    assert not torch.allclose(weights_BK, drawn.weights_BK, atol=1e-2)


def test_a_rollout_keeps_its_dropout_mask_and_only_tokens_teach(prompt: list[int]) -> None:
    policy = load_policy(WEIGHTS, version=0, dtype=torch.float32, device="cpu")
    method = replace(METHODS["dropout"], spread=0.3)
    answered = answer(policy, [prompt] * 3, method, seeded(sampling_of(method), [3, 4, 5]), 12)
    table = embedding(policy)
    masks = []
    for one in answered:
        mean_LD = mix(table, one.rollout.latent_ids_LK.long(), one.rollout.latent_weights_LK).detach()
        kept_LD = one.executed_LD != 0
        assert (kept_LD == kept_LD[0]).all()
        torch.testing.assert_close(one.executed_LD, torch.where(kept_LD, mean_LD / 0.7, 0.0))
        masks.append(kept_LD[0])
    assert 0.5 < torch.stack(masks).double().mean() < 0.9
    assert not torch.equal(masks[0], masks[1])
    rollouts, executed = [one.rollout for one in answered], [one.executed_LD for one in answered]
    found = gaussian.loss(policy.model, rollouts, executed, (torch.ones(3), torch.ones(3)), None)
    tokens = torch.cat([one.token_logprobs_T for one in rollouts]).sum()
    assert float(found.detach()) == pytest.approx(-float(tokens), rel=1e-3)


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
