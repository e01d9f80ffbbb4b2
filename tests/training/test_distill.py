"""Corrections: what a hint adds is measured, targets are distributions, and the policy comes to give the correction."""

from dataclasses import replace

import pytest
import torch

from tests.training.rollouts import EOS, backward, gradients, mixed_batch, moved, relative_difference, tiny
from training.distill import Correction, DistillConfig, corrected, distill, targets
from training.models.head import take_apart
from training.optimization.health import HealthConfig
from training.optimization.optimizer import OptimizerConfig
from training.rollout import Rollout
from training.update import Learner, UpdateConfig

ANSWER = torch.tensor([11, 12, 13, EOS], dtype=torch.int32)
CHUNK = 2**20


def corrections(hinted: bool = True) -> list[Correction]:
    """The mixed batch, each corrected to the same answer; the hint is any other prompt."""
    hint = torch.tensor([11, 12, 13, 7, 8], dtype=torch.int32) if hinted else None
    return [corrected(one, ANSWER, hint) for one in mixed_batch()]


def mean_logprob(rollouts: list[Rollout], model: torch.nn.Module) -> float:
    from training.replay import replay

    with torch.no_grad():
        replayed = replay(take_apart(model), rollouts)  # type: ignore[arg-type]
    return float(replayed.token_logprobs_BT[replayed.token_mask_BT].mean())


def test_a_correction_keeps_prompt_and_latents_and_records_nothing_of_its_tokens() -> None:
    given = mixed_batch()[0]
    one = corrected(given, ANSWER, None).rollout
    assert one.prompt_ids_P is given.prompt_ids_P
    assert one.latent_weights_LK is given.latent_weights_LK
    assert one.token_ids_T.tolist() == ANSWER.tolist()
    assert one.token_logprobs_T.isnan().all()
    with pytest.raises(ValueError, match="at least one token"):
        corrected(given, ANSWER[:0], None)


def test_without_a_hint_the_target_is_the_correction_and_the_loss_its_cross_entropy() -> None:
    model = tiny()
    shown = corrections(hinted=False)
    aims = targets(take_apart(model), shown, DistillConfig(), 64)
    assert all(aim.ids_TK.squeeze(1).tolist() == ANSWER.tolist() for aim in aims)
    assert all(bool((aim.weights_TK == 1).all()) and aim.gain == 0.0 for aim in aims)
    loss = distill(take_apart(model), shown, aims, CHUNK) / len(shown)
    assert float(loss.detach()) == pytest.approx(-mean_logprob([one.rollout for one in shown], model), rel=1e-5)


def test_a_hint_counts_only_where_it_makes_the_correction_likelier() -> None:
    model = tiny()
    shown = corrections()
    aims = targets(take_apart(model), shown, DistillConfig(trust=0.5, candidates=8), 64)
    gains = [aim.gain for aim in aims]
    assert min(gains) < 0 < max(gains), "a random model is helped by some and misled by others"
    for aim in aims:
        first_T, rest_T = aim.weights_TK[:, 0], aim.weights_TK[:, 1:].sum(-1)
        assert aim.ids_TK[:, 0].tolist() == ANSWER.tolist()
        if aim.gain > 0:
            assert torch.allclose(first_T, torch.tensor(0.5))
            assert torch.allclose(rest_T, torch.tensor(0.5))
        else:
            assert (first_T == 1).all()
            assert rest_T.sum() == 0


def test_how_corrections_are_batched_changes_nothing() -> None:
    model = tiny()
    shown = corrections()
    aims = targets(take_apart(model), shown, DistillConfig(), 10_000)
    alone = targets(take_apart(model), shown, DistillConfig(), 1)
    for one, other in zip(aims, alone, strict=True):
        assert one.ids_TK.tolist() == other.ids_TK.tolist()
        assert torch.allclose(one.weights_TK, other.weights_TK, atol=1e-5)
    backward(distill(take_apart(model), shown, aims, CHUNK))
    together = gradients(model)
    for single, aim in zip(shown, aims, strict=True):
        backward(distill(take_apart(model), [single], [aim], 64))
    assert relative_difference(gradients(model), together) < 1e-4


@pytest.mark.parametrize("hinted", [False, True])
def test_a_policy_comes_to_give_the_correction(hinted: bool) -> None:
    config = UpdateConfig(
        optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=0.0),
        health=HealthConfig(max_kl=float("inf")),
    )
    learner = Learner(tiny(), config)
    shown = corrections(hinted)
    rollouts = [one.rollout for one in shown]
    before = mean_logprob(rollouts, learner.model)
    reports = [learner.update([], [], shown).distilled for _ in range(5)]
    assert [one.corrections for one in reports] == [len(shown)] * 5
    assert reports[-1].loss < reports[0].loss
    assert mean_logprob(rollouts, learner.model) > before + 1.0
    assert (reports[0].hints_that_helped > 0) is hinted


def test_the_weight_scales_the_term_and_zero_leaves_rewards_alone() -> None:
    rollouts = [one for one in mixed_batch() if one.answer_length and one.sampling.temperature == 1.0]
    advantages = [1.0, -1.0] * 10
    weights = {}
    for weight in (0.0, 1.0):
        model = tiny()
        config = UpdateConfig(distill=DistillConfig(weight=weight), health=HealthConfig(max_kl=float("inf")))
        Learner(model, config).update(rollouts, advantages[: len(rollouts)], corrections())
        weights[weight] = [one.detach().clone() for one in model.parameters()]
    alone = tiny()
    Learner(alone, UpdateConfig(health=HealthConfig(max_kl=float("inf")))).update(rollouts, advantages[: len(rollouts)])
    assert all(torch.equal(one, other) for one, other in zip(weights[0.0], alone.parameters(), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(weights[1.0], weights[0.0], strict=True))


def test_a_refused_update_by_corrections_leaves_the_weights_alone() -> None:
    from training.optimization.health import UpdateRejected

    model = moved(tiny(), 0.01)
    before = [one.detach().clone() for one in model.parameters()]
    config = UpdateConfig(optimizer=OptimizerConfig(learning_rate=1.0), health=HealthConfig(max_kl=1e-6))
    with pytest.raises(UpdateRejected):
        Learner(model, config).update([], [], corrections())
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("wrong", "name"), [({"weight": -1.0}, "weight"), ({"trust": 1.5}, "trust"), ({"candidates": 0}, "candidates")]
)
def test_a_setting_out_of_range_is_named(wrong: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(DistillConfig(), **wrong)  # type: ignore[arg-type]
