"""The resident policy: going on from memory and going on after a restart are the same, bit for bit."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.job_settings import of_job
from app.settings import Settings
from tests.worker.world import CREATED, World
from training.models.checkpoint import MANIFEST, load_tensors, publish, verify
from training.models.policy import fingerprint
from training.models.seal import BadCheckpoint
from training.optimization.health import UpdateRejected
from training.rollout import Rollout
from worker.resident import Resident, Source, update_config

ADVANTAGES = [1.0, -1.0, 0.5, -0.5]


@pytest.fixture
def rollouts(world: World) -> list[Rollout]:
    return [finished.rollout for _, finished in world.ask(["a question"], choices=4)]


@pytest.fixture
def base(world: World) -> Source:
    row = world.serving()
    return Source(row.version, row.path)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_restart_goes_on_where_the_process_left_off(
    world: World, rollouts: list[Rollout], base: Source, dtype: str, rank: int, tmp_path: Path
) -> None:
    settings = world.with_settings(dtype=dtype, max_kl=100, lora_rank=rank).settings
    config = update_config(settings)
    stayed, restarted = Resident(settings), Resident(settings)

    learner = stayed.learner(base, base, config)
    learner.update(rollouts, ADVANTAGES)
    first = stayed.policy(base)
    path = publish(
        first,
        tmp_path,
        version=1,
        parent_version=0,
        training={},
        created=CREATED,
        training_state=learner.state(),
        beside=stayed.beside,
    )
    stayed.became(1)
    second = Source(1, str(path))
    restarted.learner(second, base, config)
    assert fingerprint(restarted.policy(second).model) == verify(path).fingerprint

    for resident in (stayed, restarted):
        resident.learner(second, base, config).update(rollouts, ADVANTAGES)
    assert stayed.learner(second, base, config) is learner
    assert stayed.learner(second, base, config).updates == restarted.learner(second, base, config).updates == 2
    assert fingerprint(stayed.policy(second).model) == fingerprint(restarted.policy(second).model)


def by_adapters(world: World, rollouts: list[Rollout], base: Source, directory: Path) -> tuple[Resident, Source]:
    """Learn once by adapters of rank 2, and publish."""
    resident = Resident(world.with_settings(lora_rank=2, max_kl=100, learning_rate=0.01).settings)
    learner = resident.learner(base, base, update_config(world.settings))
    learner.update(rollouts, ADVANTAGES)
    path = publish(
        resident.policy(base),
        directory,
        version=1,
        parent_version=0,
        training={},
        created=CREATED,
        training_state=learner.state(),
        beside=resident.beside,
    )
    return resident, Source(1, str(path))


def test_adapters_learn_and_the_policy_follows(
    world: World, rollouts: list[Rollout], base: Source, tmp_path: Path
) -> None:
    before = load_tensors(Path(base.path))
    resident, made = by_adapters(world, rollouts, base, tmp_path)
    after, adapters = load_tensors(Path(made.path)), load_file(Path(made.path) / "adapter/adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    product = adapters[f"base_model.model.{name}.lora_B.weight"] @ adapters[f"base_model.model.{name}.lora_A.weight"]
    assert product.abs().max() > 0
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + 16.0 * product)
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    assert not any("lora" in one for one, _ in resident.policy(base).model.named_parameters())


@pytest.mark.parametrize("why", ["another rank", "another alpha", "first weights gone", "made by full fine-tuning"])
def test_adapters_that_cannot_go_on_begin_anew_on_the_versions_weights(
    world: World, rollouts: list[Rollout], base: Source, why: str, tmp_path: Path
) -> None:
    wishes: dict[str, Any] = {"lora_rank": 2}
    base = Source(0, str(shutil.copytree(base.path, tmp_path / "base")))
    _, made = by_adapters(world, rollouts, base, tmp_path)
    match why:
        case "another rank":
            wishes["lora_rank"] = 3
        case "another alpha":
            wishes["lora_alpha"] = 8.0
        case "first weights gone":
            shutil.rmtree(base.path)
        case _:
            made = base
    resident = Resident(world.with_settings(**wishes).settings)
    learner = resident.learner(made, base, update_config(world.with_settings(max_kl=100).settings))
    start = load_tensors(Path(made.path))
    assert learner.updates == 0
    assert all(torch.equal(one, start[name]) for name, one in resident.policy(made).model.named_parameters())
    learner.update(rollouts, ADVANTAGES)
    assert any(not torch.equal(one, start[name]) for name, one in resident.policy(made).model.named_parameters())


def test_full_fine_tuning_goes_on_from_what_adapters_made_without_their_optimizer(
    world: World, rollouts: list[Rollout], base: Source, tmp_path: Path
) -> None:
    _, made = by_adapters(world, rollouts, base, tmp_path)
    free = world.with_settings(max_kl=100).settings
    learner = Resident(free).learner(made, base, update_config(free))
    assert learner.updates == 0
    assert learner.update(rollouts, ADVANTAGES).gradient_norm > 0


def test_a_job_with_settings_of_its_own_keeps_the_optimizers_state(
    world: World, rollouts: list[Rollout], base: Source
) -> None:
    resident = Resident(world.settings)
    resident.learner(base, base, update_config(world.settings)).update(rollouts, ADVANTAGES)
    before = resident.learner(base, base, update_config(world.settings)).state()
    slower = resident.learner(base, base, update_config(world.with_settings(learning_rate=1e-5).settings))
    assert slower.config.optimizer.learning_rate == 1e-5
    after = slower.state()
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_another_version_is_read_anew_and_a_damaged_one_is_refused(world: World, base: Source, tmp_path: Path) -> None:
    resident = Resident(world.settings)
    policy = resident.policy(base)
    assert resident.policy(base) is policy
    resident.drop()
    assert resident.policy(base) is not policy
    path = publish(policy, tmp_path, version=1, parent_version=0, training={}, created=CREATED)
    (path / "config.json").write_text("{}")
    with pytest.raises(BadCheckpoint):
        resident.policy(Source(1, str(path)))


def test_a_version_whose_seal_is_gone_is_refused_and_a_base_model_needs_none(
    world: World, base: Source, tmp_path: Path
) -> None:
    resident = Resident(world.settings)
    path = publish(resident.policy(base), tmp_path, version=1, parent_version=0, training={}, created=CREATED)
    (path / MANIFEST).unlink()
    assert resident.policy(Source(0, str(path))).version == 0
    with pytest.raises(BadCheckpoint, match="has no manifest"):
        resident.policy(Source(1, str(path)))


def test_the_kl_term_has_the_first_checkpoint_as_its_reference(
    world: World, rollouts: list[Rollout], base: Source
) -> None:
    settings = world.with_settings(kl_beta=0.5, max_kl=100).settings
    resident = Resident(settings)
    learner = resident.learner(base, base, update_config(settings))
    first = learner.update(rollouts, ADVANTAGES)
    second = learner.update(rollouts, ADVANTAGES)
    assert first.objective.reference_kl == pytest.approx(0.0, abs=1e-6)
    assert second.objective.reference_kl > 1e-6


@pytest.mark.parametrize(
    ("changes", "where", "value"),
    [
        ({"learning_rate": 0.5}, ("optimizer", "learning_rate"), 0.5),
        ({"adam_beta2": 0.5}, ("optimizer", "beta2"), 0.5),
        ({"warmup_updates": 7}, ("optimizer", "warmup_updates"), 7),
        ({"max_grad_norm": 7.0}, ("optimizer", "max_grad_norm"), 7.0),
        ({"weight_decay": 0.7}, ("optimizer", "weight_decay"), 0.7),
        ({"kl_beta": 0.7}, ("objective", "beta"), 0.7),
        ({"clip_low": 0.07}, ("objective", "clip_low"), 0.07),
        ({"clip_high": 0.07}, ("objective", "clip_high"), 0.07),
        ({"normalization": "bnpo"}, ("objective", "normalization"), "bnpo"),
        ({"latent_gradient": False}, ("objective", "latent_gradient"), False),
        ({"latent_temperature": "sampling"}, ("replay", "latent_temperature"), "sampling"),
        ({"negative_latent_floor": -7.0}, ("objective", "negative_latent_floor"), -7.0),
        ({"max_kl": 0.07}, ("health", "max_kl"), 0.07),
        ({"min_entropy": 0.07}, ("health", "min_entropy"), 0.07),
        ({"max_gradient_norm": 0.7}, ("health", "explosion_norm"), 0.7),
        ({"min_mean_tokens": 7.0}, ("health", "min_mean_tokens"), 7.0),
        ({"max_mean_tokens": 7.0}, ("health", "max_mean_tokens"), 7.0),
    ],
)
def test_every_setting_of_the_update_reaches_it(
    changes: dict[str, object], where: tuple[str, str], value: object
) -> None:
    config = update_config(Settings.model_validate(changes))
    part = getattr(config, where[0])
    assert getattr(part, where[1]) == value
    default = getattr(update_config(Settings.model_validate({})), where[0])
    assert replace(part, **{where[1]: getattr(default, where[1])}) == default


@pytest.mark.parametrize(("wish", "positions"), [(0, 16_384), (128, 128)])
def test_the_log_says_what_an_update_takes_and_the_report_how_it_was_cut(
    world: World, rollouts: list[Rollout], base: Source, wish: int, positions: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = world.with_settings(micro_batch_tokens=wish).settings
    resident = Resident(settings)
    with caplog.at_level("INFO", logger="worker.resident"):
        learner = resident.learner(base, base, update_config(settings))
    [told] = [one.message for one in caplog.records if one.message.startswith("memory of an update: weights")]
    assert f"activations of {max(positions, settings.max_length):,} positions" in told
    assert "copies to go back to" not in told
    assert learner.update(rollouts, ADVANTAGES).micro_batch_positions == positions


def test_what_an_update_failed_on_is_of_no_more_use_and_nothing_was_copied_for_it(
    world: World, rollouts: list[Rollout], base: Source
) -> None:
    settings = world.with_settings(max_kl=1e-9, learning_rate=0.1).settings
    resident = Resident(settings)
    learner = resident.learner(base, base, update_config(settings))
    with pytest.raises(UpdateRejected):
        learner.update(rollouts, ADVANTAGES)
    with pytest.raises(RuntimeError, match="load the policy again"):
        learner.update(rollouts, ADVANTAGES)
    resident.drop()
    again = resident.learner(base, base, update_config(world.with_settings(max_kl=100).settings))
    assert again is not learner
    assert again.update(rollouts, ADVANTAGES).optimizer_steps == 1


def test_activation_checkpointing_follows_the_job_on_the_resident_model(
    world: World, rollouts: list[Rollout], base: Source
) -> None:
    resident = Resident(world.settings)
    calls: list[int] = []
    for wish in (False, True, False):
        settings = of_job(world.settings, {"activation_checkpointing": wish, "learning_rate": 1e-5})
        learner = resident.learner(base, base, update_config(settings))
        seen: list[object] = []
        layer = learner.model.get_submodule("model.layers.0.mlp")
        hook = layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(None))
        learner.update(rollouts, ADVANTAGES)
        hook.remove()
        calls.append(len(seen))
    assert calls[1] > calls[0], "the backward pass ran no layer again"
    assert calls[2] == calls[0], "the next job, without the setting, still recomputes"
