"""Recipes: the presets say what is published, every value is an option, and each reaches what it is for."""

import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from click.testing import CliRunner

from app.cli import build
from worker.offline.recipe import PAPER, PRESETS, SMALL, option_names, recipe_for
from worker.offline.train import asking_of, update_config


def test_the_paper_is_the_paper() -> None:
    assert (PAPER.group, PAPER.learning_rate, PAPER.beta1, PAPER.beta2, PAPER.weight_decay) == (8, 1e-6, 0.9, 0.99, 0.1)
    assert (PAPER.schedule, PAPER.warmup_share, PAPER.max_grad_norm, PAPER.dtype) == ("cosine", 0.03, 1.0, "bfloat16")
    assert (PAPER.clip, PAPER.latent_length, PAPER.top_k, PAPER.top_p, PAPER.max_new) == (0.2, 64, 30, 0.95, 2048)


@pytest.mark.parametrize(
    ("model", "latents"),
    [
        ("Qwen/Qwen2.5-3B-Instruct", (64, 0.3)),
        ("Qwen/Qwen2.5-7B", (64, 0.5)),
        ("meta-llama/Llama-3.2-3B-Instruct", (32, 0.5)),
        ("some/other", (64, 0.5)),
    ],
)
def test_the_papers_latents_go_by_the_model(model: str, latents: tuple[int, float]) -> None:
    recipe = recipe_for("paper", model, {})
    assert (recipe.latent_length, recipe.tau) == latents
    assert recipe_for("paper", model, {"tau": 0.4}).tau == 0.4
    assert recipe_for("small", model, {}) == SMALL


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("learning_rate", 1e-4, "optimizer.learning_rate"),
        ("beta1", 0.8, "optimizer.beta1"),
        ("beta2", 0.95, "optimizer.beta2"),
        ("weight_decay", 0.5, "optimizer.weight_decay"),
        ("max_grad_norm", 0.3, "optimizer.max_grad_norm"),
        ("clip", 0.1, "objective.clip_low"),
        ("clip", 0.1, "objective.clip_high"),
        ("kl_beta", 0.01, "objective.beta"),
        ("normalization", "bnpo", "objective.normalization"),
        ("latent_temperature", "sampling", "replay.latent_temperature"),
        ("max_new", 50, "objective.max_steps"),
        ("max_kl", 0.2, "health.max_kl"),
        ("activation_checkpointing", True, "activation_checkpointing"),
        ("micro_batch_positions", 512, "micro_batch_positions"),
        ("seed", 3, "seed"),
    ],
)
def test_a_value_reaches_the_update(name: str, value: Any, path: str) -> None:
    found: Any = asdict(update_config(replace(SMALL, **{name: value}), 60))
    for part in path.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize("name", ["latent_length", "tau", "draws", "temperature", "top_k", "top_p"])
def test_a_value_reaches_the_sampler(name: str) -> None:
    value: Any = {"latent_length": 3, "tau": 0.4, "draws": 4, "temperature": 0.7, "top_k": 9, "top_p": 0.8}[name]
    assert getattr(asking_of(replace(SMALL, **{name: value}), 2).sampling, name) == value
    assert (asking_of(SMALL, 2).max_new, asking_of(SMALL, 2).choices, asking_of(SMALL, 2).slots) == (40, 2, 32)


def test_the_schedule_spans_the_run() -> None:
    cosine = update_config(PAPER, 200).optimizer
    assert (cosine.warmup_updates, cosine.decay_updates) == (6, 200)
    assert update_config(SMALL, 200).optimizer.decay_updates == 0


def test_every_value_is_an_option() -> None:
    output = CliRunner().invoke(build(), ["train", "--help"]).output
    assert {name for name, _, _ in option_names()} == set(asdict(SMALL))
    assert all(re.search(rf"--{name.replace('_', '-')}[ /\n]", output) for name in asdict(SMALL))
    assert set(PRESETS) == {"paper", "small"}


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": 0},
        {"group": 1},
        {"micro_batch_positions": -1},
        {"warmup_share": 2.0},
        {"seed": 2000},
        {"max_new": 4},
        {"grader_timeout": 0.0},
    ],
)
def test_a_value_out_of_range_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SMALL, **change)


def test_latent_steps_may_grow_from_none_and_tau_with_them() -> None:
    recipe = replace(SMALL, latent_length=4, tau=0.5, tau_start=0.1, latent_warmup=0.5)
    grown = [recipe.at(update, 20) for update in range(20)]
    assert [one.latent_length for one in grown] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] + [4] * 10
    assert [round(one.tau, 2) for one in grown[::5]] == [0.1, 0.3, 0.5, 0.5]
    assert replace(recipe, latent_warmup=0.0).at(0, 20).latent_length == 4


@pytest.mark.parametrize("change", [{"latent_warmup": 1.5}, {"tau_start": 0.0}])
def test_a_warm_up_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SMALL, **change)
