"""The update by argument: accumulation is exact, a refused step leaves no trace, a restart goes on, and it learns."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from training.advantage import group_advantages
from training.memory.footprint import LEAST_POSITIONS, MOST_POSITIONS
from training.models.head import take_apart
from training.objective import ObjectiveConfig
from training.optimization.batches import micro_batches, minibatches
from training.optimization.health import HealthConfig, UpdateCancelled, UpdateRejected
from training.optimization.optimizer import OptimizerConfig
from training.replay import ReplayConfig
from training.rollout import Rollout
from training.sample import sample
from training.sampling import Sampling, Target
from training.update import Learner, UpdateConfig

from .rollouts import group, mixed_batch, moved, policy_of, relative_difference, tiny

FAST = OptimizerConfig(learning_rate=1e-3)
FREE = HealthConfig(max_kl=math.inf, explosion_norm=math.inf)
ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3]


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def everything(learner: Learner) -> dict[str, Tensor]:
    """Weights and training state."""
    return weights(learner.model) | learner.state()


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(one, theirs[name]) for name, one in ours.items())


def after_update(config: UpdateConfig, rollouts: list[Rollout], advantages: list[float]) -> dict[str, Tensor]:
    learner = Learner(tiny(dtype=torch.float64), config, tiny(seed=4, dtype=torch.float64))
    learner.update(rollouts, advantages)
    return weights(learner.model)


def test_accumulated_micro_batches_take_the_step_of_one_big_batch() -> None:
    rollouts = mixed_batch()
    config = UpdateConfig(optimizer=FAST, objective=ObjectiveConfig(beta=0.1, normalization="bnpo"), health=FREE)
    start = weights(tiny(dtype=torch.float64))
    steps = []
    for positions in (16_384, 30, 1):
        told: list[tuple[int, int]] = []
        bucketed = replace(config, micro_batch_positions=positions)
        learner = Learner(tiny(dtype=torch.float64), bucketed, tiny(seed=4, dtype=torch.float64))
        report = learner.update(rollouts, ADVANTAGES, progress=lambda *now, told=told: told.append(now))
        assert told == [(done, report.micro_batches) for done in range(1, report.micro_batches + 1)]
        steps.append((report, {name: one - start[name] for name, one in weights(learner.model).items()}))
    (whole, expected), *others = steps
    assert (whole.micro_batches, others[-1][0].micro_batches) == (1, 7)
    assert (others[-1][0].padding_share, whole.padding_share > 0.2) == (0.0, True)
    for report, step in others:
        assert report.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-6)
        assert report.loss == pytest.approx(whole.loss, rel=1e-6)
        assert relative_difference(step, expected) < 1e-4  # Adam's first step is a sign: tiny gradients are magnified


def test_gradients_of_bfloat16_add_up_in_float32() -> None:
    """Seven micro-batches or one: the first moment, a tenth of the clipped gradient, differs by one rounding each."""
    rollouts = mixed_batch(dtype=torch.bfloat16)
    moments = []
    for positions in (16_384, 1):
        config = UpdateConfig(optimizer=FAST, health=FREE, micro_batch_positions=positions)
        learner = Learner(tiny(dtype=torch.bfloat16), config)
        learner.update(rollouts, ADVANTAGES)
        moments.append({name: one for name, one in learner.state().items() if name.startswith("exp_avg.")})
        assert all(one.dtype == torch.float32 for one in moments[-1].values())
    assert relative_difference(*moments) < 0.05


def test_a_rollout_without_signal_is_not_run_and_changes_nothing() -> None:
    rollouts = mixed_batch()
    some = [1.0, 0.0, 0.5, 0.0, 0.0, -2.0, 0.3]
    learner = Learner(tiny(), UpdateConfig(optimizer=FAST, health=FREE))
    report = learner.update(rollouts, some)
    assert (report.rollouts, report.without_signal) == (7, 3)
    assert report.objective.token_steps == sum(rollouts[index].answer_length for index in (0, 2, 5, 6))
    # a beta too small to matter runs them all, with the same outcome
    everyone = UpdateConfig(optimizer=FAST, health=FREE, objective=ObjectiveConfig(beta=1e-12))
    other = Learner(tiny(), everyone, tiny(seed=4))
    assert other.update(rollouts, some).objective.token_steps == sum(one.answer_length for one in rollouts)
    gap = max(float((one - weights(other.model)[name]).abs().max()) for name, one in weights(learner.model).items())
    assert gap < 1e-5


def test_a_batch_without_signal_moves_nothing() -> None:
    """Neither momentum of the batch before, nor weight decay; weights, moments and the count stay bit for bit."""
    rollouts = mixed_batch()
    learner = Learner(
        tiny(), UpdateConfig(optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=0.1), health=FREE)
    )
    learner.update(rollouts, ADVANTAGES)
    before = everything(learner)
    report = learner.update(rollouts, [0.0] * 7)
    assert (report.loss, report.gradient_norm, report.micro_batches, report.optimizer_steps) == (0.0, 0.0, 0, 0)
    assert report.kl == 0.0
    assert same(everything(learner), before)
    assert learner.updates == 1


def test_a_batch_whose_every_weight_is_zero_moves_nothing() -> None:
    """Only latent steps, of another policy, with their weights omitted: advantages alone are no signal."""
    sampler = moved(tiny(), 0.05)
    rollouts = group(sampler, 4, Sampling(latent_length=3, tau=0.5), [5, 6, 7], 3)
    assert not any(rollout.answer_length for rollout in rollouts)
    moves = {}
    for way in ("omit", "step"):
        objective = ObjectiveConfig(off_policy="step", latent_off_policy=way)
        learner = Learner(tiny(), UpdateConfig(optimizer=FAST, health=FREE, objective=objective))
        learner.update(mixed_batch(), ADVANTAGES)
        before = everything(learner)
        report = learner.update(rollouts, [1.0, -1.0, 0.5, -0.5])
        moves[way] = (report.optimizer_steps, same(everything(learner), before))
    assert moves == {"omit": (0, True), "step": (1, False)}


PUBLISHED = ObjectiveConfig(beta=0.05, old_logprobs="recorded")
BASE = UpdateConfig(
    optimizer=FAST,
    health=FREE,
    objective=PUBLISHED,
    seed=1,
)
EFFECTS: dict[str, UpdateConfig] = {
    "beta": replace(BASE, objective=replace(PUBLISHED, beta=5.0)),
    "clip_low": replace(BASE, objective=replace(PUBLISHED, clip_low=0.9)),
    "clip_high": replace(BASE, objective=replace(PUBLISHED, clip_high=2.0)),
    "normalization": replace(BASE, objective=replace(PUBLISHED, normalization="bnpo")),
    "latent_gradient": replace(BASE, objective=replace(PUBLISHED, latent_gradient=False)),
    "negative_latent_floor": replace(BASE, objective=replace(PUBLISHED, negative_latent_floor=-2.0)),
    "embedding_gradient": replace(BASE, replay=ReplayConfig(embedding_gradient=True)),
    "latent_temperature": replace(BASE, replay=ReplayConfig(latent_temperature="sampling")),
    "learning_rate": replace(BASE, optimizer=replace(FAST, learning_rate=2e-3)),
    "warmup_updates": replace(BASE, optimizer=replace(FAST, warmup_updates=4)),
    "weight_decay": replace(BASE, optimizer=replace(FAST, weight_decay=50.0)),
    "epochs": replace(BASE, epochs=2),
    "minibatches": replace(BASE, minibatches=2),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_every_setting_reaches_the_weights(name: str) -> None:
    sampler = moved(tiny(), 0.03)  # off policy, so that the clip is at work
    rollouts = group(sampler, 7, Sampling(latent_length=2, temperature=1.3, top_p=1.0), [5, 6, 7], 9)
    start = weights(tiny(dtype=torch.float64))
    base, other = (after_update(config, rollouts, ADVANTAGES) for config in (BASE, EFFECTS[name]))
    steps = [{key: one - start[key] for key, one in end.items()} for end in (base, other)]
    assert relative_difference(steps[1], steps[0]) > 0.02


START = UpdateConfig(optimizer=FAST, health=FREE)
STEPS = ObjectiveConfig(off_policy="step")
OFF_POLICY_EFFECTS: dict[str, UpdateConfig] = {
    "old_logprobs": replace(START, objective=ObjectiveConfig(old_logprobs="recorded")),
    "off_policy": replace(START, objective=STEPS),
    "max_weight": replace(START, objective=replace(STEPS, max_weight=1.0)),
    "latent_off_policy": replace(START, objective=ObjectiveConfig(latent_off_policy="omit")),
    "target": replace(START, target=Target(0.8)),
}


@pytest.mark.parametrize("name", OFF_POLICY_EFFECTS)
def test_every_off_policy_setting_reaches_the_weights(name: str) -> None:
    rollouts = group(moved(tiny(), 0.03), 7, Sampling(latent_length=2, temperature=1.3, top_p=1.0), [5, 6, 7], 9)
    start = weights(tiny(dtype=torch.float64))
    first = replace(START, objective=STEPS) if name == "max_weight" else START
    base, other = (after_update(config, rollouts, ADVANTAGES) for config in (first, OFF_POLICY_EFFECTS[name]))
    steps = [{key: one - start[key] for key, one in end.items()} for end in (base, other)]
    assert relative_difference(steps[1], steps[0]) > 0.02


def gradient_norm(rollouts: list[Rollout], advantages: list[float], config: UpdateConfig) -> float:
    return Learner(tiny(), replace(config, health=FREE)).update(rollouts, advantages).gradient_norm


@pytest.mark.parametrize("seed", range(4))
def test_one_cold_answer_among_seven_is_not_the_update(seed: int) -> None:
    """An answer at temperature 0.01 to 0.2 teaches about the target: its gradient is not divided by its temperature."""
    asked = Sampling(latent_length=2, seed=100 * seed)
    warm = group(tiny(), 8, asked, [5, 6, 7], 9)
    on_target = gradient_norm(warm, [*ADVANTAGES, -0.3], replace(START, target=Target()))
    own = gradient_norm(warm, [*ADVANTAGES, -0.3], START)
    assert on_target == pytest.approx(own, rel=1e-6), "asked as the target asks, nothing changes"
    for temperature in (0.01, 0.05, 0.2):
        cold = group(tiny(), 1, replace(asked, temperature=temperature, seed=7), [5, 6, 7], 9)
        mixed = gradient_norm([*warm[:7], *cold], [*ADVANTAGES, -0.3], replace(START, target=Target()))
        assert mixed < 1.5 * on_target


@pytest.mark.parametrize("off_policy", ["rollout", "step"])
def test_a_token_of_long_ago_weighs_no_more_than_the_bound(off_policy: Any) -> None:
    """With A < 0 its published ratio has no bound: one such token was the whole batch."""
    fresh = group(tiny(), 4, Sampling(), [5, 6, 7], 9)
    late = [replace(one, token_logprobs_T=one.token_logprobs_T - 15.0) for one in fresh]
    pulls, ours = [-1.0, -0.5, -0.7, -0.2], replace(START, objective=ObjectiveConfig(off_policy=off_policy))
    norm, late_norm = gradient_norm(fresh, pulls, ours), gradient_norm(late, pulls, ours)
    most = 1.0 if off_policy == "rollout" else STEPS.max_weight
    assert late_norm == pytest.approx(most * norm, rel=1e-4)
    published = replace(START, objective=ObjectiveConfig(old_logprobs="recorded", dual_clip=math.inf))
    assert gradient_norm(late, pulls, published) > 1e6 * norm
    assert gradient_norm(late, pulls, replace(START, objective=ObjectiveConfig(old_logprobs="recorded"))) == 0.0


def test_what_the_policy_would_no_longer_say_is_not_pushed_down_for_ever() -> None:
    """As a wrong answer becomes unlikely its weight goes to 0; a right one keeps the weight 1."""
    fresh = group(tiny(), 4, Sampling(), [5, 6, 7], 9)
    unlikely = [replace(one, token_logprobs_T=one.token_logprobs_T + 2.0) for one in fresh]
    down, up = [-1.0, -0.5, -0.7, -0.2], [1.0, 0.5, 0.7, 0.2]
    assert gradient_norm(unlikely, down, START) < 1e-3 * gradient_norm(fresh, down, START)
    assert gradient_norm(unlikely, up, START) == pytest.approx(gradient_norm(fresh, up, START), rel=1e-5)


@pytest.mark.parametrize("reuse", [{"epochs": 3}, {"minibatches": 3}])
def test_reused_fresh_batches_learn_as_published(reuse: dict[str, Any]) -> None:
    """With fresh tokens the start of the update is what drew them: PPO's clip, to the last step."""
    rollouts = group(tiny(dtype=torch.float64), 7, Sampling(temperature=1.3, top_p=1.0), [5, 6, 7], 9)
    quick = replace(FAST, learning_rate=1e-2)
    ends, reports = [], []
    for old in ("start", "recorded"):
        config = replace(START, optimizer=quick, objective=ObjectiveConfig(old_logprobs=old), **reuse)
        learner = Learner(tiny(dtype=torch.float64), config)
        reports.append(learner.update(rollouts, ADVANTAGES))
        ends.append(weights(learner.model))
    assert min(one.objective.clip_fraction for one in reports) > 0.05, "the clip must have been at work"
    before = weights(tiny(dtype=torch.float64))
    steps = [{name: one - before[name] for name, one in end.items()} for end in ends]
    assert relative_difference(*steps) < 1e-2  # recorded in float32, and Adam magnifies


def test_reused_late_batches_are_clipped_against_the_start() -> None:
    """The first step clips nothing however late the batch is; later ones clip what moved within this update."""
    rollouts = group(moved(tiny(), 0.05), 7, Sampling(), [5, 6, 7], 9)
    once = Learner(tiny(), START).update(rollouts, ADVANTAGES)
    assert once.objective.clip_fraction == 0.0
    assert abs(once.objective.mean_ratio - 1) > 0.05
    quick = replace(START, optimizer=replace(FAST, learning_rate=1e-2), epochs=2)
    assert Learner(tiny(), quick).update(rollouts, ADVANTAGES).objective.clip_fraction > 0.05


def test_a_micro_batch_without_a_gradient_is_no_error() -> None:
    """Latent steps alone with their gradient off, and a rollout without any step, beside one that learns."""
    [full] = group(tiny(), 1, Sampling(latent_length=3), [5, 6, 7], 8)
    only_latents = replace(
        full,
        token_ids_T=full.token_ids_T[:0],
        token_logprobs_T=full.token_logprobs_T[:0],
        token_log_mass_T=full.token_log_mass_T[:0],
    )
    empty = replace(
        only_latents,
        latent_ids_LK=full.latent_ids_LK[:0],
        latent_weights_LK=full.latent_weights_LK[:0],
        latent_logprobs_LK=full.latent_logprobs_LK[:0],
        latent_log_mass_L=full.latent_log_mass_L[:0],
    )
    tokens_only = replace(START, objective=ObjectiveConfig(latent_gradient=False), micro_batch_positions=1)
    learner = Learner(tiny(), tokens_only)
    assert learner.update([full, only_latents, empty], [1.0, -1.0, 0.5]).optimizer_steps == 1
    assert learner.update([only_latents, empty], [-1.0, 0.5]).optimizer_steps == 0


def test_clipping_the_gradient_bounds_it() -> None:
    """AdamW forgets the scale of a first gradient, so the bound is seen in its moment: 0.1 of the clipped gradient."""
    rollouts = mixed_batch()
    learner = Learner(tiny(), UpdateConfig(optimizer=replace(FAST, max_grad_norm=0.5), health=FREE))
    report = learner.update(rollouts, ADVANTAGES)
    moments = [value for name, value in learner.state().items() if name.startswith("exp_avg.")]
    assert report.gradient_norm > 0.5
    assert float(torch.stack([one.norm() for one in moments]).norm()) == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_the_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_updates=4, decay_updates=12)
    rates = [config.rate(update) for update in range(14)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.5)
    assert rates[12:] == pytest.approx([0.0, 0.0])
    assert OptimizerConfig(learning_rate=1.0).rate(10**6) == 1.0
    learner = Learner(tiny(), UpdateConfig(optimizer=replace(FAST, warmup_updates=2), health=FREE))
    rollouts = mixed_batch()
    assert [learner.update(rollouts, ADVANTAGES).learning_rate for _ in range(3)] == [5e-4, 1e-3, 1e-3]
    assert learner.updates == 3


def rejecting(kind: str) -> tuple[UpdateConfig, list[float]]:
    """Settings under which the update must be refused."""
    config = UpdateConfig(optimizer=OptimizerConfig(learning_rate=0.05))
    bounds: dict[str, HealthConfig] = {
        "policy_moved_too_far": HealthConfig(max_kl=1e-3),
        "entropy_collapsed": HealthConfig(max_kl=math.inf, min_entropy=100.0),
        "gradient_exploded": HealthConfig(explosion_norm=1e-6),
        "loss_not_finite": HealthConfig(),
        "length_out_of_bounds": HealthConfig(min_mean_tokens=1e3, max_mean_tokens=1e4),
    }
    advantages = [*ADVANTAGES[:-1], math.nan] if kind == "loss_not_finite" else ADVANTAGES
    return replace(config, health=bounds[kind], minibatches=2), advantages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind",
    ["policy_moved_too_far", "entropy_collapsed", "gradient_exploded", "loss_not_finite", "length_out_of_bounds"],
)
@pytest.mark.parametrize("fresh", [True, False])
def test_a_rejected_update_leaves_no_trace(kind: str, dtype: torch.dtype, fresh: bool) -> None:
    """Bit for bit, weights, moments and counters, and the learner goes on as if nothing had been."""
    model = tiny(dtype=dtype)
    rollouts = mixed_batch(dtype=dtype)
    config, advantages = rejecting(kind)
    learner, twin = Learner(model, config), Learner(tiny(dtype=dtype), replace(config, health=FREE))
    if not fresh:
        twin.update(rollouts, ADVANTAGES)
        learner.model.load_state_dict(twin.model.state_dict())
        learner = Learner(learner.model, config)
        learner.restore(twin.state())
    before = everything(learner)
    with pytest.raises(UpdateRejected) as caught:
        learner.update(rollouts, advantages)
    assert caught.value.diagnosis["reason"] == kind
    assert same(everything(learner), before)
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    learner.config = replace(config, health=FREE)
    learner.update(rollouts, ADVANTAGES)
    twin.update(rollouts, ADVANTAGES)
    assert same(everything(learner), everything(twin))


def test_infinite_gradients_are_rejected() -> None:
    """The loss is sound, the backward pass overflows."""
    learner = Learner(tiny(), UpdateConfig(optimizer=FAST))
    parameter = next(learner.model.parameters())
    handle = parameter.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
    before = everything(learner)
    with pytest.raises(UpdateRejected) as caught:
        learner.update(mixed_batch(), ADVANTAGES)
    handle.remove()
    assert caught.value.diagnosis["reason"] == "gradient_not_finite"
    assert same(everything(learner), before)


def test_a_cancelled_update_leaves_no_trace() -> None:
    learner = Learner(tiny(), UpdateConfig(optimizer=FAST, health=FREE, micro_batch_positions=1, minibatches=3))
    rollouts = mixed_batch()
    learner.update(rollouts, ADVANTAGES)
    before, done = everything(learner), []
    with pytest.raises(UpdateCancelled, match="5 of 7"):
        learner.update(rollouts, ADVANTAGES, progress=lambda now, _: done.append(now), cancelled=lambda: len(done) >= 5)
    assert done == [1, 2, 3, 4, 5], "two optimizer steps had been taken when it was cancelled"
    assert same(everything(learner), before)


def test_an_error_in_the_middle_leaves_no_trace() -> None:
    learner = Learner(tiny(), UpdateConfig(optimizer=FAST, health=FREE, micro_batch_positions=1, minibatches=3))
    rollouts = mixed_batch()
    before = everything(learner)

    def fail(now: int, _: int) -> None:
        if now == 4:
            raise MemoryError

    with pytest.raises(MemoryError):
        learner.update(rollouts, ADVANTAGES, progress=fail)
    assert same(everything(learner), before)


def test_without_undo_no_copy_is_made_and_a_failed_update_spoils_the_learner() -> None:
    learner = Learner(tiny(), UpdateConfig(optimizer=FAST, undo=False))
    rollouts = mixed_batch()
    learner.update(rollouts, ADVANTAGES)
    before = everything(learner)
    with pytest.raises(UpdateCancelled):  # before a step was taken: nothing was done
        learner.update(rollouts, ADVANTAGES, cancelled=lambda: True)
    assert same(everything(learner), before)
    learner.config = replace(learner.config, health=HealthConfig(max_kl=1e-9))
    held: list[object] = []
    take = learner._optimizer.step

    def step(rate: float, *, undoable: bool = True) -> None:
        take(rate, undoable=undoable)
        held.append(learner._optimizer._before)

    learner._optimizer.step = step  # type: ignore[method-assign]
    with pytest.raises(UpdateRejected):
        learner.update(rollouts, ADVANTAGES)
    assert held == [None]
    for use in (lambda: learner.update(rollouts, ADVANTAGES), lambda: learner.measure(rollouts)):
        with pytest.raises(RuntimeError, match="was not taken back"):
            use()


def test_an_undo_that_fails_spoils_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out once more: weights are neither the new nor the old ones."""
    learner = Learner(tiny(), UpdateConfig(optimizer=FAST, health=HealthConfig(max_kl=1e-9)))

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(learner._optimizer, "undo", fail)
    with pytest.raises(MemoryError):
        learner.update(mixed_batch(), ADVANTAGES)
    with pytest.raises(RuntimeError, match="was not taken back"):
        learner.update(mixed_batch(), ADVANTAGES)


def test_micro_batches_are_sized_by_the_free_memory_and_change_no_step() -> None:
    rollouts, left = group(tiny(), 24, Sampling(latent_length=2), [5, 6, 7], 9), [2**40]
    advantages = [1.0, -1.0] * 12
    runs = []
    for free in (2**40, 0):
        left[0] = free
        learner = Learner(tiny(), UpdateConfig(optimizer=FAST, health=FREE), free=lambda _: left[0])
        assert learner.plan(12).free == free
        report = learner.update(rollouts, advantages)
        assert report.micro_batch_positions == (MOST_POSITIONS if free else LEAST_POSITIONS)
        moments = {name: one for name, one in learner.state().items() if name.startswith("exp_avg.")}
        runs.append((report, moments))
    (whole, expected), (cut, moments) = runs
    assert (whole.micro_batches, cut.micro_batches) == (1, 4)  # rollouts of one prompt share rows of up to 64
    assert cut.loss == pytest.approx(whole.loss, rel=1e-5)
    assert relative_difference(moments, expected) < 1e-4
    number = Learner(tiny(), UpdateConfig(health=FREE, micro_batch_positions=100), free=lambda _: 0)
    assert number.update(rollouts, advantages).micro_batch_positions == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restarted_learner_goes_on_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    config = UpdateConfig(optimizer=replace(FAST, warmup_updates=5), health=FREE)
    rollouts = mixed_batch(dtype=dtype)
    first = Learner(tiny(dtype=dtype), config)
    first.update(rollouts, ADVANTAGES)
    save_file(first.state(), tmp_path / "training_state.safetensors")
    reloaded = tiny(dtype=dtype)
    reloaded.load_state_dict(first.model.state_dict())
    second = Learner(reloaded, config)
    second.restore(load_file(tmp_path / "training_state.safetensors"))
    assert second.updates == 1
    for learner in (first, second):
        learner.update(rollouts, ADVANTAGES)
    assert same(everything(first), everything(second))


def test_a_state_of_another_model_is_refused_whole() -> None:
    config = UpdateConfig(optimizer=FAST, health=FREE)
    rollouts = mixed_batch()
    donor = Learner(tiny(), config)
    donor.update(rollouts, ADVANTAGES)
    half = Learner(tiny(dtype=torch.bfloat16), config)
    half.update(mixed_batch(dtype=torch.bfloat16), ADVANTAGES)
    learner = Learner(tiny(), config)
    before = everything(learner)
    cut = {name: value[:1] if value.ndim else value for name, value in donor.state().items()}
    for strange, message in (
        ({}, "updates"),
        (Learner(tiny("llama"), config).state() | {"exp_avg.no.such": torch.zeros(1)}, "another model"),
        (cut, "another model"),
        (half.state(), "another dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.restore(strange)
        assert same(everything(learner), before)
    elsewhere = Learner(moved(tiny(dtype=torch.bfloat16), 0.1), config)
    with pytest.raises(ValueError, match="other weights"):
        elsewhere.restore(half.state())


def test_float32_masters_keep_steps_that_bfloat16_would_lose() -> None:
    """Ten steps of 1e-5 move no bfloat16 weight of size 1 by themselves; the masters add them up."""
    config = UpdateConfig(optimizer=OptimizerConfig(learning_rate=1e-5, weight_decay=0.0), health=FREE)
    model = tiny(dtype=torch.bfloat16)
    rollouts = mixed_batch(dtype=torch.bfloat16)
    learner = Learner(model, config)
    start = {name: one.float() for name, one in weights(model).items()}
    for _ in range(10):
        learner.update(rollouts, ADVANTAGES)
    masters = {name.removeprefix("master."): one for name, one in learner.state().items() if "master." in name}
    name = "model.layers.0.mlp.up_proj.weight"
    travelled = (masters[name] - start[name]).abs()
    assert float(travelled.mean()) > 3e-5
    assert float(travelled.max()) < 1.2e-4
    assert all(torch.equal(masters[key].bfloat16(), one) for key, one in weights(model).items())
    assert float((weights(model)[name].float() == start[name]).double().mean()) > 0.8


def test_activation_checkpointing_changes_no_step() -> None:
    rollouts = mixed_batch()
    plain = UpdateConfig(optimizer=FAST, health=FREE)
    results = []
    for config in (plain, replace(plain, activation_checkpointing=True)):
        learner = Learner(tiny(), config)
        learner.update(rollouts, ADVANTAGES)
        results.append(weights(learner.model))
    assert same(*results)


def test_activation_checkpointing_recomputes_layers_and_leaves_dropout_off() -> None:
    calls = []
    for checkpointed in (False, True):
        config = UpdateConfig(optimizer=FAST, health=FREE, activation_checkpointing=checkpointed)
        learner = Learner(tiny(), config)
        inner = cast("Any", learner.model).model.layers[0].mlp
        seen: list[bool] = []
        inner.register_forward_pre_hook(lambda module, _, seen=seen: seen.append(module.training))
        learner.update(mixed_batch(), ADVANTAGES)
        assert not any(seen)
        calls.append(len(seen))
        assert not any(module.training for module in learner.model.modules()), "a policy that learns answers too"
    assert calls[1] == calls[0] + 1, "two looks and one step, whose layer ran twice"


def test_frozen_parameters_stay() -> None:
    model = tiny("llama")
    take_apart(model).embedding.weight.requires_grad = False
    before = weights(model)
    Learner(model, UpdateConfig(optimizer=FAST, health=FREE)).update(mixed_batch("llama"), ADVANTAGES)
    changed = {name for name, one in weights(model).items() if not torch.equal(one, before[name])}
    assert "model.embed_tokens.weight" not in changed
    assert "lm_head.weight" in changed
    with pytest.raises(ValueError, match="no trainable parameter"):
        Learner(model.requires_grad_(requires_grad=False))


def test_the_report_says_what_happened() -> None:
    rollouts = mixed_batch()
    learner = Learner(tiny(), UpdateConfig(optimizer=FAST, health=FREE, epochs=2, minibatches=3))
    report = learner.update(rollouts, ADVANTAGES)
    assert (report.optimizer_steps, report.micro_batches, report.rollouts) == (6, 6, 7)
    assert report.kl > 1e-4
    assert report.entropy_before != report.entropy_after
    assert report.traces.mean_latents == pytest.approx(15 / 7)
    assert report.objective.latent_steps == 2 * 15
    still = Learner(tiny(), UpdateConfig(optimizer=OptimizerConfig(learning_rate=1e-12, weight_decay=0.0)))
    quiet = still.update(rollouts, ADVANTAGES)
    assert quiet.kl == pytest.approx(0.0, abs=1e-9)
    assert quiet.entropy_before == pytest.approx(quiet.entropy_after)


@pytest.mark.parametrize(("rollouts", "advantages", "message"), [(0, 0, "at least one"), (3, 2, "one for each")])
def test_a_batch_that_does_not_add_up_is_refused(rollouts: int, advantages: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Learner(tiny()).update(mixed_batch()[:rollouts], ADVANTAGES[:advantages])


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="reference model"):
        Learner(tiny(), UpdateConfig(objective=ObjectiveConfig(beta=0.1)))
    with pytest.raises(ValueError, match="reuse rollouts"):
        UpdateConfig(epochs=2, objective=ObjectiveConfig(old_logprobs="none"))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"minibatches": 0}, {"micro_batch_positions": -1}, {"probe_rollouts": 0}]
)
def test_update_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UpdateConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0.0}, {"max_grad_norm": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"weight_decay": -1.0}],
)
def test_optimizer_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)


def test_buckets_hold_similar_lengths_within_the_budget() -> None:
    lengths = [3, 50, 7, 8, 49, 2, 120, 9]
    buckets = micro_batches(lengths, 100)
    assert sorted(index for bucket in buckets for index in bucket) == list(range(8))
    assert buckets[0] == [6], "a rollout beyond the budget goes alone, and first"
    assert all(len(bucket) * max(lengths[index] for index in bucket) <= 100 for bucket in buckets[1:])
    assert [1, 4] in buckets
    assert micro_batches([], 100) == []


def test_minibatches_split_everything_once() -> None:
    parts = minibatches(10, 3, seed=5)
    assert sorted(index for part in parts for index in part) == list(range(10))
    assert sorted(map(len, parts)) == [3, 3, 4]
    assert parts != minibatches(10, 3, seed=6)
    assert minibatches(2, 5, seed=0) in ([[0], [1]], [[1], [0]])


@pytest.mark.parametrize("latents", [0, 2])
def test_a_few_updates_teach_a_toy_reward(latents: int) -> None:
    """An even answer is paid for: a random model must come to give it, from its own samples alone."""
    policy = policy_of(tiny())
    config = UpdateConfig(optimizer=OptimizerConfig(learning_rate=1e-2), health=HealthConfig(max_kl=math.inf))
    learner = Learner(policy.model, config)

    def graded(seed: int, size: int) -> tuple[list[Rollout], Tensor]:
        settings = [Sampling(latent_length=latents, seed=seed + choice) for choice in range(size)]
        drawn = [sample(policy, prompt, one, latents + 1) for prompt in ([5, 6], [7, 8, 9], [10]) for one in settings]
        return drawn, torch.tensor([float(int(one.token_ids_T[0]) % 2 == 0) for one in drawn])

    before = float(graded(10_000, 16)[1].mean())
    for update in range(10):
        rollouts, rewards_B = graded(100 * update, 8)
        advantages_B = torch.cat([group_advantages(rewards_G) for rewards_G in rewards_B.view(3, 8)])
        learner.update(rollouts, advantages_B.tolist())
    assert before < 0.7
    assert float(graded(10_000, 16)[1].mean()) > 0.85
