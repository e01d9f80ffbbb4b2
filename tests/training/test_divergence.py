"""Divergence by argument: 0 on policy, grows as the policy moves, is what its formula says, and knows no choice."""

from dataclasses import replace

import pytest
import torch

from training.divergence import Divergence, Measuring, explored, measure
from training.models.head import take_apart
from training.objective import ObjectiveConfig
from training.optimization.health import UpdateCancelled
from training.rollout import Rollout
from training.sampling import Sampling, Target
from training.update import Learner, UpdateConfig

from .rollouts import VOCABULARY, group, mixed_batch, moved, tiny

ASKED = Sampling(latent_length=3, tau=0.5)


def measured(size: float, rollouts: list[Rollout], how: Measuring | None = None) -> list[Divergence]:
    return measure(take_apart(moved(tiny(), size)), rollouts, how or Measuring())


def mean_nats(found: list[Divergence]) -> float:
    return sum(one.nats for one in found) / len(found)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_fresh_rollouts_are_near_zero_and_weigh_one(temperature: float) -> None:
    """Whatever the temperature, as long as it is the target's."""
    rollouts = group(tiny(), 6, replace(ASKED, temperature=temperature), [5, 6, 7], 9)
    for how in (Measuring(), Measuring(target=Target(temperature))):
        for one in measured(0.0, rollouts, how):
            assert one.nats == pytest.approx(0.0, abs=1e-5)
            assert one.weight == pytest.approx(1.0, abs=1e-4)
            assert one.explored


def test_it_grows_as_the_policy_moves() -> None:
    rollouts = group(tiny(), 12, ASKED, [5, 6, 7], 9)
    found = [mean_nats(measured(size, rollouts)) for size in (0.0, 0.01, 0.03, 0.1)]
    assert found == sorted(found)
    assert found[-1] > 0.1


def test_averaged_over_tokens_it_is_the_kl() -> None:
    """Every one-token answer, weighed by its probability: the exact KL of what drew to what would learn."""
    sampling = Sampling(top_k=VOCABULARY, top_p=1.0)
    [drawn] = group(tiny(), 1, sampling, [5, 6, 7], 1)
    models = [take_apart(one) for one in (tiny(), moved(tiny(), 0.05))]
    with torch.no_grad():
        ids_BS = torch.tensor([[5, 6, 7]])
        p_V, q_V = (one.logits(one.hidden(one.embedding(ids_BS))[0, -1:]).double().log_softmax(-1)[0] for one in models)
    each = [
        replace(drawn, token_ids_T=torch.tensor([token]), token_logprobs_T=p_V[token : token + 1].float())
        for token in range(VOCABULARY)
    ]
    found = torch.tensor([one.nats for one in measure(models[1], each, Measuring())], dtype=torch.float64)
    assert float((p_V.exp() * found).sum()) == pytest.approx(float((p_V.exp() * (p_V - q_V)).sum()), rel=1e-4)


def test_tokens_and_latent_steps_share_one_mean() -> None:
    for rollout, one in zip(mixed_batch(), measured(0.05, mixed_batch()), strict=True):
        steps = rollout.latent_length + rollout.answer_length
        together = one.token_nats * rollout.answer_length + one.latent_nats * rollout.latent_length
        assert one.nats == pytest.approx(together / steps, rel=1e-9)
        assert (one.latent_nats > 0) is (rollout.latent_length > 0)


def test_another_temperature_diverges_on_the_same_weights() -> None:
    how = Measuring(target=Target())
    at_one = group(tiny(), 8, ASKED, [5, 6, 7], 9)
    cold = group(tiny(), 8, replace(ASKED, temperature=0.2), [5, 6, 7], 9)
    assert mean_nats(measured(0.0, at_one, how)) < 1e-5
    assert mean_nats(measured(0.0, cold, how)) > 0.3
    assert mean_nats(measured(0.0, cold)) < 1e-5, "on its own terms it is fresh"


def test_micro_batches_give_the_same_in_the_order_given() -> None:
    whole = measured(0.03, mixed_batch())
    for positions in (30, 1):
        parts = measured(0.03, mixed_batch(), Measuring(positions=positions))
        assert [one.nats for one in parts] == pytest.approx([one.nats for one in whole], rel=1e-3)
        assert [one.weight for one in parts] == pytest.approx([one.weight for one in whole], rel=1e-3)
    assert measured(0.0, []) == []


@pytest.mark.parametrize("latent_length", [0, 3])
def test_no_exploration_is_seen(latent_length: int) -> None:
    """Greedy, a temperature that leaves no choice, and a support of one carry no information."""
    asked = replace(ASKED, latent_length=latent_length)
    for settings in ({"temperature": 0.0}, {"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}):
        assert not any(explored(one) for one in group(tiny(), 4, replace(asked, **settings), [5, 6, 7], 8))
    free = group(tiny(), 4, asked, [5, 6, 7], 8)
    assert all(explored(one) for one in free)
    unknown = replace(free[0], token_logprobs_T=torch.full_like(free[0].token_logprobs_T, torch.nan))
    assert explored(unknown), "what was not recorded is not held to be certain"
    none = replace(free[0], token_ids_T=free[0].token_ids_T[:0], token_logprobs_T=free[0].token_logprobs_T[:0])
    assert explored(replace(none, token_log_mass_T=none.token_log_mass_T[:0])) is (latent_length > 0)


def test_a_choice_in_a_latent_step_alone_is_exploration() -> None:
    [one] = group(tiny(), 1, ASKED, [5, 6, 7], 8)
    certain = replace(one, token_logprobs_T=one.token_log_mass_T.clone())
    assert explored(certain)
    assert not explored(replace(certain, latent_logprobs_LK=torch.tensor([[0.0, float("-inf")]]).expand(3, 2)))


def test_broken_weights_keep_no_bound() -> None:
    model = tiny()
    causal = take_apart(model)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    [found] = measure(causal, group(tiny(), 1, ASKED, [5, 6, 7], 8), Measuring())
    assert not found.nats <= 1e9


def test_the_learner_measures_against_what_it_is_now() -> None:
    rollouts = mixed_batch()
    config = UpdateConfig(target=Target(0.7), micro_batch_positions=30)
    learner = Learner(tiny(), config)
    expected = measure(take_apart(tiny()), rollouts, Measuring(Target(0.7), positions=30))
    assert learner.measure(rollouts) == expected
    with torch.no_grad():
        moved(learner.model, 0.05)
    assert mean_nats(learner.measure(rollouts)) > mean_nats(expected)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_the_learner_weighs_by_its_objective() -> None:
    rollouts = group(moved(tiny(), 0.1), 6, ASKED, [5, 6, 7], 9)
    found = {
        most: Learner(tiny(), UpdateConfig(objective=ObjectiveConfig(off_policy="step", max_weight=most))).measure(
            rollouts
        )
        for most in (1.0, 50.0)
    }
    pairs = [(low.weight, high.weight) for low, high in zip(found[1.0], found[50.0], strict=True)]
    assert all(low <= 1.0 and low <= high for low, high in pairs)
    assert max(high for _, high in pairs) > 1.2


def test_measuring_can_be_cancelled() -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(UpdateCancelled):
        Learner(tiny(), UpdateConfig(micro_batch_positions=1)).measure(mixed_batch(), cancelled=cancelled)
    assert len(asked) == 3
