"""`lepo bench update` on a shape of milliseconds: both ways give one gradient, and the figures are of the runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from benchmarks.shapes import build_model
from benchmarks.update.command import BOUNDS, command, gradient_error
from benchmarks.update.gradient import WAYS
from benchmarks.update.load import LOADS, advantages_of, rollouts_of

LOAD = LOADS["micro"]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    ran = CliRunner().invoke(command, ["--preset", "micro", "--threads", "1", "--json"])
    assert ran.exit_code == 0, ran.output
    read: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return read


def test_both_ways_give_the_same_loss_and_gradient_in_their_own_processes(report: dict[str, Any]) -> None:
    assert 0 < report["gradient_error"] < 1e-4
    assert report["loss_error"] < 1e-6


def test_the_ratios_are_those_of_the_runs(report: dict[str, Any]) -> None:
    seconds = {way: [one["seconds"] for one in runs] for way, runs in report["raw"]["runs"].items()}
    assert {len(each) for each in seconds.values()} == {LOAD.repeats}
    pairs = [slow / fast for slow, fast in zip(seconds["straightforward"], seconds["ours"], strict=True)]
    assert min(pairs) * 0.99 <= report["speedup"] <= max(pairs) * 1.01
    assert {one["key"] for one in report["bounds"]} == {bound.key for bound in BOUNDS}


def test_in_float64_the_two_ways_agree_to_rounding() -> None:
    gradients, losses = [], []
    for way in ("ours", "straightforward"):
        model = build_model(LOAD.shape, 0, torch.float64, "cpu").requires_grad_(requires_grad=True)
        losses.append(WAYS[way](model, rollouts_of(LOAD), LOAD))
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, mine in gradients[0].items():
        torch.testing.assert_close(mine, gradients[1][name], rtol=1e-4, atol=1e-7)


def test_a_difference_of_gradients_is_found_and_weighed(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.0, 4.0]), "b": torch.zeros(2)}, tmp_path / "mine")
    save_file({"a": torch.tensor([1.0, 5.0]), "b": torch.zeros(2)}, tmp_path / "other")
    assert gradient_error(tmp_path / "mine", tmp_path / "other") == pytest.approx(0.2)
    save_file({"a": torch.tensor([1.0, 4.0])}, tmp_path / "less")
    with pytest.raises(ValueError, match=r"other parameters: \['b'\]"):
        gradient_error(tmp_path / "mine", tmp_path / "less")


def test_rollouts_follow_the_load() -> None:
    rollouts = rollouts_of(LOAD)
    assert len(rollouts) == LOAD.rollouts
    assert all(LOAD.answers[0] <= one.answer_length <= LOAD.answers[1] for one in rollouts)
    assert all(one.latent_length == LOAD.latents for one in rollouts)
    assert [one.token_ids_T.tolist() for one in rollouts] == [one.token_ids_T.tolist() for one in rollouts_of(LOAD)]
    assert sum(advantages_of(LOAD.rollouts)) == 0


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    ran = CliRunner().invoke(command, ["--preset", "micro", "--device", "cuda:99"])
    assert ran.exit_code == 2
    assert "cuda:99" in ran.output
