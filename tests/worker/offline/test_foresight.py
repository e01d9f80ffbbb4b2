"""What a run will take is said before its model is loaded, and what cannot fit is refused with what would."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from app.cli import build
from app.errors import BadRequest
from app.models.learning import plan_of
from app.models.outline import made, outline
from tests.app.families import families
from training.distributed.ranks import ALONE, Ranks
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from worker.offline.foresight import foresee, learning_by
from worker.offline.recipe import SMALL
from worker.offline.train import Around

CPU = torch.device("cpu")


def around(told: list[str], ranks: Ranks = ALONE) -> Around:
    def ignore(*_: object) -> None:
        return

    return Around("cpu", ranks, ignore, ignore, told.append, threading.Event())


def test_a_plan_is_told(model_dir: Path) -> None:
    told: list[str] = []
    foresee(str(model_dir), SMALL, 300, around(told), lambda _: 10 * 10**9)
    update, answering = told
    assert update.startswith("memory of an update: weights 0.")
    for words in ("gradients", "moments", "copies to go back to", "activations of 16,384 positions", "10.00 GB free"):
        assert words in update
    assert answering.startswith("memory of answering: keys and values up to ")


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"kl_beta": 0.1}, True),
        ({"lora_rank": 2}, False),
        ({"activation_checkpointing": True}, False),
        ({"micro_batch_positions": 64}, False),
        ({"micro_batch_positions": 32_768}, True),
        ({"max_new": 4000}, False),  # its attention keeps no scores
    ],
)
def test_a_value_of_the_recipe_changes_what_is_planned(change: Mapping[str, Any], more: bool) -> None:
    config = families()["llama"]
    config.num_hidden_layers = 12
    found = made(config, held=None, files="", template=None)
    changed, usual = (
        plan_of(found, learning_by(recipe, 100, CPU), 10**12) for recipe in (replace(SMALL, **change), SMALL)
    )
    assert (changed.most > usual.most) == more
    assert ("max_new" in change) == (changed.most == usual.most)


def test_copies_to_go_back_to_are_no_load_of_an_accelerator() -> None:
    assert learning_by(SMALL, 100, CPU).undo
    assert not learning_by(SMALL, 100, torch.device("cuda:0")).undo


def test_bfloat16_holds_more_and_computes_in_less(model_dir: Path) -> None:
    found = outline(str(model_dir), None)
    half, usual = (plan_of(found, learning_by(one, 100, CPU), 0) for one in (replace(SMALL, dtype="bfloat16"), SMALL))
    assert half.held.masters > usual.held.masters == 0
    assert half.activations < usual.activations


def test_what_cannot_fit_is_refused_with_what_would(model_dir: Path) -> None:
    told: list[str] = []
    held = plan_of(outline(str(model_dir), None), learning_by(replace(SMALL, micro_batch_positions=64), 64, CPU), 0)
    with pytest.raises(BadRequest) as caught:
        foresee(str(model_dir), SMALL, 0, around(told), lambda _: held.most - 1)
    assert "--lora-rank 16 (" in caught.value.message
    foresee(str(model_dir), SMALL, 0, around(told), lambda _: held.most)
    with pytest.raises(BadRequest, match="a smaller model, or more memory"):
        foresee(str(model_dir), SMALL, 0, around(told), lambda _: 0)


def test_several_processes_and_models_that_are_not_here_are_left_to_loading(model_dir: Path, tmp_path: Path) -> None:
    told: list[str] = []
    foresee(str(model_dir), SMALL, 0, around(told, Ranks(0, 2)), lambda _: 0)
    foresee(str(tmp_path / "nowhere"), SMALL, 0, around(told), lambda _: 0)
    assert told == []


def test_the_command_tells_and_refuses_and_leaves_no_directory(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = {"type": "string_check", "reference": "a", "operation": "ilike"}
    write_problems(tmp_path / "data.jsonl", [Problem(f"question {i}", "a", grader, "", 0) for i in range(30)])
    command = ["train", "--data", str(tmp_path / "data.jsonl"), "--model", str(model_dir), "--preset", "small"]
    monkeypatch.setattr("worker.offline.start.foresee", partial(foresee, free=lambda _: 1000))
    options = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(build(), [*command, *options])
    assert result.exit_code == 1
    assert "memory of an update: weights" in result.output
    assert "an update takes more memory than there is" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
