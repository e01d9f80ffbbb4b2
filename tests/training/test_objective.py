"""The objective by argument: its limits are GRPO, its parts add up, and every setting has its effect."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.importance import LatentOffPolicy, OffPolicy
from training.kl import k3
from training.models.head import take_apart
from training.objective import ObjectiveConfig, ObjectiveMetrics, divides_advantages, objective, step_weights
from training.replay import ReplayConfig, replay
from training.rollout import Rollout
from training.sampling import Sampling

from .rollouts import backward, gradients, group, mixed_batch, moved, relative_difference, tiny

UNBOUNDED = float("-inf")
PUBLISHED = ObjectiveConfig(old_logprobs="recorded", dual_clip=float("inf"))  # GRPO's and LEPO's, whoever drew


def steps_of(rollouts: list[Rollout]) -> list[int]:
    return [rollout.latent_length + rollout.answer_length for rollout in rollouts]


def learn(
    model: PreTrainedModel,
    rollouts: list[Rollout],
    advantages: list[float],
    config: ObjectiveConfig,
    reference: PreTrainedModel | None = None,
    replay_config: ReplayConfig | None = None,
) -> tuple[float, dict[str, Tensor], ObjectiveMetrics]:
    """Loss, gradients and metrics of one whole batch."""
    frozen = None if reference is None else take_apart(reference)
    replayed = replay(take_apart(model), rollouts, replay_config, frozen)
    weights_B = step_weights(steps_of(rollouts), config)
    loss, tally = objective(replayed, torch.tensor(advantages, dtype=torch.float64), weights_B, config)
    backward(loss)
    return float(loss.detach()), gradients(model), tally.metrics()


def plain_grpo(
    model: Any, rollouts: list[Rollout], advantages: list[float], unclipped: int = 0, epsilon: float = 0.2
) -> tuple[float, dict[str, Tensor]]:
    """GRPO written straight from its paper for answers without latents: one forward with token ids per answer.

    The first `unclipped` tokens have ratio 1 with the gradient of log pi. A mean over tokens, then over answers.
    """
    total = torch.zeros((), dtype=torch.float64)
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        ids_S = torch.cat([rollout.prompt_ids_P, rollout.token_ids_T]).long()
        with torch.no_grad():
            inputs_SD = model.get_input_embeddings()(ids_S)
        logits_TV = model(inputs_embeds=inputs_SD[None]).logits[0, len(rollout.prompt_ids_P) - 1 : -1]
        table_TV = torch.log_softmax(logits_TV / rollout.sampling.temperature, dim=-1)
        now_T = table_TV[torch.arange(len(rollout.token_ids_T)), rollout.token_ids_T.long()]
        ratio_T = torch.exp(now_T - rollout.token_logprobs_T)
        surrogate_T = torch.minimum(ratio_T * advantage, ratio_T.clamp(1 - epsilon, 1 + epsilon) * advantage)
        free_T = torch.exp(now_T - now_T.detach()) * advantage
        first_T = torch.arange(len(now_T)) < unclipped
        total = total - torch.where(first_T, free_T, surrogate_T).mean() / len(rollouts)
    backward(total)
    return float(total.detach()), gradients(model)


def clipped_share(model: PreTrainedModel, rollouts: list[Rollout], advantages: list[float]) -> float:
    """Share of tokens on the flat part of the surrogate, counted by its slope at the ratio."""
    with torch.no_grad():
        replayed = replay(take_apart(model), rollouts)
    flat, tokens = 0, 0
    for row, advantage in enumerate(advantages):
        length = rollouts[row].answer_length
        now_T, then_T = replayed.token_logprobs_BT[row, :length], replayed.recorded_logprobs_BT[row, :length]
        for ratio in (now_T - then_T).exp().tolist():
            value, further = (
                min(one * advantage, min(max(one, 0.8), 1.2) * advantage) for one in (ratio, ratio * (1 + 1e-9))
            )
            flat += advantage != 0 and value == further
            tokens += 1
    return flat / tokens


def test_without_latents_it_is_grpo() -> None:
    sampler, model = tiny(), moved(tiny(dtype=torch.float64), 0.03)
    rollouts = group(sampler, 6, Sampling(temperature=0.9), [5, 6, 7], 9)
    assert len({rollout.answer_length for rollout in rollouts}) > 1
    advantages = [1.3, -0.7, 0.4, -1.9, 0.0, 0.8]
    loss, found, metrics = learn(model, rollouts, advantages, PUBLISHED)
    expected_loss, expected = plain_grpo(model, rollouts, advantages)
    assert 0.1 < metrics.clip_fraction < 0.9, "the clip must have been at work"
    assert metrics.clip_fraction == pytest.approx(clipped_share(model, rollouts, advantages))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative_difference(found, expected) < 1e-5  # recorded log-probabilities are float32


def test_as_tau_falls_it_is_grpo_with_the_first_tokens_unclipped() -> None:
    """At tau = 1e-6 a mixture is one token, so the same answer can be told as latents or as tokens."""
    sampler, model = tiny(), moved(tiny(dtype=torch.float64), 0.03)
    latent = group(sampler, 6, Sampling(latent_length=3, tau=1e-6), [5, 6, 7], 9)
    assert all(float(one.latent_weights_LK.max(-1).values.min()) == 1.0 for one in latent)
    as_tokens = [
        replace(
            one,
            latent_ids_LK=one.latent_ids_LK[:0],
            latent_weights_LK=one.latent_weights_LK[:0],
            latent_logprobs_LK=one.latent_logprobs_LK[:0],
            latent_log_mass_L=one.latent_log_mass_L[:0],
            token_ids_T=torch.cat([one.reading_L, one.token_ids_T]),
            token_logprobs_T=torch.cat([torch.zeros(3), one.token_logprobs_T]),
        )
        for one in latent
    ]
    advantages = [1.3, -0.7, 0.4, -1.9, 0.5, 0.8]
    config = replace(PUBLISHED, negative_latent_floor=UNBOUNDED)
    _, found, metrics = learn(model, latent, advantages, config)
    _, expected = plain_grpo(model, as_tokens, advantages, unclipped=3)
    assert metrics.latent_steps == 18
    assert 0.05 < metrics.clip_fraction < 0.9
    assert relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize("normalization", ["grpo", "bnpo", "dr_grpo"])
def test_micro_batches_add_up_to_the_batch(normalization: Any) -> None:
    model, reference = moved(tiny(dtype=torch.float64), 0.03), tiny(dtype=torch.float64, seed=4)
    rollouts = mixed_batch()
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3], dtype=torch.float64)
    config = ObjectiveConfig(beta=0.1, normalization=normalization)
    loss, expected, metrics = learn(model, rollouts, advantages.tolist(), config, reference)
    weights_B = step_weights(steps_of(rollouts), config)
    parts, tallies = 0.0, []
    for pick in (slice(0, 1), slice(1, 4), slice(4, 7)):
        replayed = replay(take_apart(model), rollouts[pick], None, take_apart(reference))
        part, tally = objective(replayed, advantages[pick], weights_B[pick], config)
        backward(part)
        parts += float(part.detach())
        tallies.append(tally)
    assert parts == pytest.approx(loss, rel=1e-6)
    assert relative_difference(gradients(model), expected) < 1e-5  # rotary angles and norms are float32 in the model
    together = (tallies[0] + tallies[1] + tallies[2]).metrics()
    assert together.token_steps == metrics.token_steps == sum(one.answer_length for one in rollouts)
    assert together.mean_ratio == pytest.approx(metrics.mean_ratio, rel=1e-6)
    assert together.reference_kl == pytest.approx(metrics.reference_kl, rel=1e-6)


def test_normalisations_weigh_steps_as_they_say() -> None:
    lengths = [4, 10, 0]
    grpo = step_weights(lengths, ObjectiveConfig())
    bnpo = step_weights(lengths, ObjectiveConfig(normalization="bnpo"))
    dr_grpo = step_weights(lengths, ObjectiveConfig(normalization="dr_grpo", max_steps=20))
    assert grpo.tolist() == pytest.approx([1 / 12, 1 / 30, 1 / 3])
    assert bnpo.tolist() == pytest.approx([1 / 14] * 3)
    assert dr_grpo.tolist() == pytest.approx([1 / 60] * 3)


BASE = replace(PUBLISHED, beta=0.05, negative_latent_floor=-30.0)
START = replace(BASE, old_logprobs="start", off_policy="step", dual_clip=3.0)
EFFECTS: dict[str, ObjectiveConfig] = {
    "beta": replace(BASE, beta=0.2),
    "clip_low": replace(BASE, clip_low=0.9),
    "clip_high": replace(BASE, clip_high=2.0),
    "normalization": replace(BASE, normalization="bnpo"),
    "dr_grpo": replace(BASE, normalization="dr_grpo"),
    "latent_gradient": replace(BASE, latent_gradient=False),
    "latent_scale": replace(BASE, latent_scale=3.0),
    "negative_latent_floor": replace(BASE, negative_latent_floor=-2.0),
    "old_logprobs": replace(BASE, old_logprobs="none"),
    "old_logprobs_start": START,
    "dual_clip": replace(BASE, dual_clip=1.3),
}
OFF_POLICY_EFFECTS: dict[str, ObjectiveConfig] = {
    "off_policy": replace(START, off_policy="rollout"),
    "max_weight": replace(START, max_weight=1.0),
    "step": replace(START, latent_off_policy="step"),
    "density": replace(START, latent_off_policy="density"),
    "omit": replace(START, latent_off_policy="omit"),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_every_setting_reaches_loss_and_gradient(name: str) -> None:
    model, reference = moved(tiny(), 0.03), tiny(seed=4)
    rollouts = group(tiny(), 6, Sampling(latent_length=2), [5, 6, 7], 9)
    advantages = [1.3, -0.7, 0.4, -1.9, 0.5, 0.8]
    loss, found, _ = learn(model, rollouts, advantages, BASE, reference)
    other_loss, other, _ = learn(model, rollouts, advantages, EFFECTS[name], reference)
    assert abs(other_loss - loss) > 1e-3
    assert relative_difference(other, found) > 1e-2


@pytest.mark.parametrize("name", OFF_POLICY_EFFECTS)
def test_every_off_policy_setting_reaches_loss_and_gradient(name: str) -> None:
    model, reference = moved(tiny(), 0.03), tiny(seed=4)
    rollouts = group(tiny(), 6, Sampling(latent_length=2), [5, 6, 7], 9)
    advantages = [1.3, -0.7, 0.4, -1.9, 0.5, 0.8]
    loss, found, metrics = learn(model, rollouts, advantages, START, reference)
    other_loss, other, changed = learn(model, rollouts, advantages, OFF_POLICY_EFFECTS[name], reference)
    assert metrics.truncated_fraction > 0
    assert abs(other_loss - loss) > 1e-3
    assert relative_difference(other, found) > 1e-2
    assert (changed.mean_weight, changed.latent_mean_weight) != (metrics.mean_weight, metrics.latent_mean_weight)


def test_only_dr_grpo_leaves_advantages_undivided() -> None:
    assert [divides_advantages(one) for one in ("grpo", "bnpo", "dr_grpo")] == [True, True, False]


def test_max_steps_scales_dr_grpo() -> None:
    model, rollouts = moved(tiny(), 0.03), group(tiny(), 2, Sampling(latent_length=2), [5, 6, 7], 9)
    short, long = (ObjectiveConfig(normalization="dr_grpo", max_steps=steps) for steps in (10, 20))
    loss, _, _ = learn(model, rollouts, [1.0, -0.5], short)
    half, _, _ = learn(model, rollouts, [1.0, -0.5], long)
    assert half == pytest.approx(loss / 2, rel=1e-6)


def test_beta_is_a_pull_towards_the_reference() -> None:
    """With every advantage 0, only the KL is left: its value is beta times the metric, a step along it lowers it."""
    model, reference = moved(tiny(), 0.02), tiny()
    rollouts = group(tiny(), 4, Sampling(latent_length=3), [5, 6, 7], 9)
    config = ObjectiveConfig(beta=0.3, normalization="bnpo")
    loss, found, metrics = learn(model, rollouts, [0.0] * 4, config, reference)
    assert metrics.reference_kl > 1e-3
    assert loss == pytest.approx(0.3 * metrics.reference_kl, rel=1e-4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.sub_(1e-3 * found[name])
    assert learn(model, rollouts, [0.0] * 4, config, reference)[2].reference_kl < metrics.reference_kl


def test_the_kl_counts_on_latent_steps_too() -> None:
    model, reference = moved(tiny(), 0.02), tiny()
    only_latents = [
        replace(one, token_ids_T=one.token_ids_T[:0], token_logprobs_T=one.token_logprobs_T[:0])
        for one in group(tiny(), 4, Sampling(latent_length=3), [5, 6, 7], 9)
    ]
    loss, found, metrics = learn(model, only_latents, [0.0] * 4, ObjectiveConfig(beta=0.3), reference)
    assert metrics.token_steps == 0
    assert loss > 1e-3
    assert max(float(one.norm()) for one in found.values()) > 1e-3


def test_the_latent_gradient_can_be_switched_off_alone() -> None:
    """Off: the gradient is what the token steps give, at the weights they had before."""
    model = moved(tiny(dtype=torch.float64), 0.03)
    rollouts = group(tiny(), 4, Sampling(latent_length=3), [5, 6, 7], 9)
    advantages = [1.0, -1.0, 0.5, -0.5]
    _, off, _ = learn(model, rollouts, advantages, replace(PUBLISHED, latent_gradient=False))
    replayed = replay(take_apart(model), rollouts)
    ratio_BT = (replayed.token_logprobs_BT - replayed.recorded_logprobs_BT).exp()
    pull_B = torch.tensor(advantages, dtype=torch.float64)[:, None]
    surrogate_BT = torch.minimum(ratio_BT * pull_B, ratio_BT.clamp(0.8, 1.2) * pull_B)
    weights_B = torch.tensor([1 / (4 * steps) for steps in steps_of(rollouts)], dtype=torch.float64)
    surrogate_BT = torch.where(replayed.token_mask_BT, surrogate_BT, 0.0)
    backward(-(weights_B[:, None] * surrogate_BT).sum())
    assert relative_difference(off, gradients(model)) < 1e-9


def test_a_negative_latent_below_the_floor_pushes_no_further() -> None:
    """Against the sum written out: only A < 0 is bounded, and the count is of the candidates left out."""
    model = moved(tiny(dtype=torch.float64), 0.03)
    rollouts = group(tiny(), 2, Sampling(latent_length=3), [5, 6, 7], 3)
    advantages, floor = [1.0, -1.0], -3.0
    loss, _, metrics = learn(model, rollouts, advantages, replace(PUBLISHED, negative_latent_floor=floor))
    with torch.no_grad():
        replayed = replay(take_apart(model), rollouts)
    expected, skipped, negative = 0.0, 0, 0
    for row, advantage in enumerate(advantages):
        for weight, logprob in zip(
            replayed.latent_weights_BLK[row].flatten().tolist(),
            replayed.latent_logprobs_BLK[row].flatten().tolist(),
            strict=True,
        ):
            negative += advantage < 0 and weight > 0
            if advantage < 0 and weight > 0 and logprob < floor:
                skipped += 1
                continue
            expected -= advantage * weight * logprob / (2 * 3)
    assert 0 < skipped < negative
    assert (metrics.skipped_negative_latents, metrics.negative_latents) == (skipped, negative)
    assert loss == pytest.approx(expected, rel=1e-9)
    _, found, _ = learn(model, rollouts, [1.0, 0.5], ObjectiveConfig(negative_latent_floor=floor))
    _, unbounded, metrics = learn(model, rollouts, [1.0, 0.5], ObjectiveConfig(negative_latent_floor=UNBOUNDED))
    assert metrics.skipped_negative_latents == 0
    assert relative_difference(found, unbounded) == 0.0


def test_missing_old_logprobs_mean_ratio_one() -> None:
    model = moved(tiny(), 0.05)
    rollouts = group(tiny(), 3, Sampling(latent_length=1), [5, 6, 7], 8)
    unknown = [replace(one, token_logprobs_T=torch.full_like(one.token_logprobs_T, torch.nan)) for one in rollouts]
    advantages = [1.0, -1.0, 0.5]
    loss, found, metrics = learn(model, unknown, advantages, PUBLISHED)
    ignored_loss, ignored, _ = learn(model, rollouts, advantages, ObjectiveConfig(old_logprobs="none"))
    _, recorded, with_ratio = learn(model, rollouts, advantages, PUBLISHED)
    assert (metrics.mean_ratio, metrics.clip_fraction, metrics.sampler_kl) == (1.0, 0.0, 0.0)
    assert loss == ignored_loss
    assert relative_difference(found, ignored) == 0.0
    assert with_ratio.sampler_kl > 0.01
    assert relative_difference(recorded, found) > 0.01


def test_on_policy_the_ratio_is_one_and_nothing_is_clipped() -> None:
    model = tiny()
    rollouts = mixed_batch()
    _, _, metrics = learn(model, rollouts, [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3], ObjectiveConfig())
    assert metrics.mean_ratio == pytest.approx(1.0, abs=1e-5)
    assert metrics.clip_fraction == 0.0
    assert metrics.sampler_kl == pytest.approx(0.0, abs=1e-6)
    assert metrics.token_entropy > 0.1
    assert metrics.latent_step_entropy > 0.1


@pytest.mark.parametrize("off_policy", get_args(OffPolicy))
@pytest.mark.parametrize("way", get_args(LatentOffPolicy))
def test_on_policy_every_way_is_the_published_objective(off_policy: Any, way: Any) -> None:
    model, advantages = tiny(), [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3]
    config = ObjectiveConfig(off_policy=off_policy, latent_off_policy=way)
    loss, found, _ = learn(model, mixed_batch(), advantages, config)
    published_loss, published, _ = learn(model, mixed_batch(), advantages, PUBLISHED)
    assert loss == pytest.approx(published_loss, rel=1e-4, abs=1e-5)
    assert relative_difference(found, published) < 1e-4


def test_a_stale_token_cannot_make_the_loss_infinite() -> None:
    model = tiny()
    stale = [
        replace(one, token_logprobs_T=torch.full_like(one.token_logprobs_T, -500.0))
        for one in group(model, 2, Sampling(), [5, 6], 5)
    ]
    loss, found, _ = learn(model, stale, [1.0, -1.0], ObjectiveConfig())
    assert torch.isfinite(torch.tensor(loss))
    assert all(bool(one.isfinite().all()) for one in found.values())


def test_k3_estimates_the_kl() -> None:
    """Averaged over the sampler's distribution it is the KL, exactly."""
    generator = torch.Generator().manual_seed(0)
    p_V, q_V = (torch.randn(11, generator=generator).double().log_softmax(-1) for _ in range(2))
    assert float((p_V.exp() * k3(p_V, q_V)).sum()) == pytest.approx(float((p_V.exp() * (p_V - q_V)).sum()), rel=1e-12)
    assert float(k3(p_V, q_V).min()) >= 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": -0.1},
        {"beta": float("nan")},
        {"clip_low": 1.5},
        {"clip_high": -0.1},
        {"normalization": "mean"},
        {"max_steps": 0},
        {"negative_latent_floor": 0.0},
        {"latent_scale": -1.0},
        {"old_logprobs": "guessed"},
        {"max_weight": 0.9},
        {"max_weight": float("nan")},
        {"dual_clip": 1.0},
        {"off_policy": "guessed"},
        {"latent_off_policy": "guessed"},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ObjectiveConfig(**wrong)
