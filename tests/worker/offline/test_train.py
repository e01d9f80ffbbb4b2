"""`lepo train` as a process: it rises, it is killed and goes on to the very same weights, Ctrl-C ends it cleanly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from app.cli import build
from tests.patience import PATIENCE_S
from training.models.checkpoint import load_tensors, load_training_state, verify
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem

# Graded by a letter that a random model writes now and then.
VOWELS = {"type": "string_check", "reference": "a", "operation": "ilike"}
BROKEN = {"type": "math", "reference": "\\frac{1}{"}
SHORT = ("--prompts", "3", "--group", "4", "--max-new", "8", "--latent-length", "2", "--validation-samples", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_problems(tmp_path / "data.jsonl", [Problem(f"question {i}", "a", VOWELS, "", 0) for i in range(30)])
    return tmp_path / "data.jsonl"


def arguments(data: Path, model: Path, out: Path, *more: str) -> list[str]:
    common = ["--preset", "small", "--device", "cpu", "--threads", "1", "--seed", "1", *SHORT]
    return ["train", "--data", str(data), "--model", str(model), "--out", str(out), *common, *more]


def start(*command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
    )


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    return output


def metrics(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(out: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Wait until the run has learned `step` updates."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(row["step"] >= step for row in metrics(out)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def same_run(one: Path, other: Path, version: str) -> None:
    """Assert that two runs ended with the same bits and told the same story."""
    for load in (load_tensors, load_training_state):
        left, right = load(one / "checkpoints" / version), load(other / "checkpoints" / version)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert metrics(one) == metrics(other)


def test_killed_and_resumed_is_the_same_as_uninterrupted(data: Path, model_dir: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    plan = ("--updates", "12", "--every", "4", "--schedule", "cosine", "--warmup-share", "0.2")
    process = start(*arguments(data, model_dir, broken, *plan))
    wait_for(broken, 6, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (broken / "checkpoints" / "v00000012").exists()
    output = finish(start("train", "--resume", "--out", str(broken), "--device", "cpu", "--threads", "1"))
    assert "12 of 12 updates" in output
    finish(start(*arguments(data, model_dir, whole, *plan)))
    same_run(whole, broken, "v00000012")
    before = load_tensors(model_dir)
    assert any(
        not torch.equal(before[name], one) for name, one in load_tensors(whole / "checkpoints/v00000012").items()
    )


def test_problems_of_reasoning_gym_are_learned_from_and_validated_on(model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sources = ("--validation", "reasoning_gym:chain_sum:size=10")
    finish(start(*arguments(Path("reasoning_gym:chain_sum:size=20"), model_dir, out, *sources, "--updates", "2")))
    rows = metrics(out)
    assert [row["problems"] for row in rows if row["kind"] == "validation"] == [10, 10]
    assert [(row["answers"], row["failed"]) for row in rows if row["kind"] == "update"] == [(12, 0), (12, 0)]


def test_ctrl_c_ends_with_a_checkpoint_and_the_run_goes_on(data: Path, model_dir: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    plan = ("--updates", "9", "--every", "50")
    process = start(*arguments(data, model_dir, out, *plan))
    wait_for(out, 2, process)
    process.send_signal(signal.SIGINT)
    output = finish(process, 130)
    assert f"stopped; go on with: lepo train --resume --out {out}" in output
    newest = max((out / "checkpoints").glob("v*"))
    step = verify(newest).version
    assert 2 <= step < 9
    assert metrics(out)[-1]["step"] == step
    finish(start("train", "--resume", "--out", str(out), "--device", "cpu", "--threads", "1"))
    finish(start(*arguments(data, model_dir, whole, *plan)))
    same_run(whole, out, "v00000009")


def test_adapters_are_published_merged_and_apart_and_a_killed_run_goes_on(
    data: Path, model_dir: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    plan = ("--updates", "6", "--every", "2", "--lora-rank", "2", "--learning-rate", "0.01", "--max-kl", "10")
    process = start(*arguments(data, model_dir, broken, *plan))
    wait_for(broken, 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start("train", "--resume", "--out", str(broken), "--device", "cpu", "--threads", "1"))
    finish(start(*arguments(data, model_dir, whole, *plan)))
    same_run(whole, broken, "v00000006")
    made = whole / "checkpoints" / "v00000006"
    assert "adapter/adapter_model.safetensors" in verify(made).files
    adapters = load_file(made / "adapter" / "adapter_model.safetensors")
    before, after = load_tensors(model_dir), load_tensors(made)
    assert before.keys() == after.keys()
    name = "model.layers.0.mlp.up_proj"
    product = adapters[f"base_model.model.{name}.lora_B.weight"] @ adapters[f"base_model.model.{name}.lora_A.weight"]
    assert product.abs().max() > 0
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + 16.0 * product)
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])


@pytest.mark.parametrize("overlong", ["learn", "mask"])
def test_answers_that_were_cut_short_teach_by_the_recipe(
    data: Path, model_dir: Path, tmp_path: Path, overlong: str
) -> None:
    out = tmp_path / "run"
    finish(start(*arguments(data, model_dir, out, "--updates", "1", "--every", "9", "--overlong", overlong)))
    [update] = [row for row in metrics(out) if row["kind"] == "update"]
    assert update["answers"] == 12
    taught = update.get("rollouts", 0)  # none where all were cut short
    assert taught == 12 if overlong == "learn" else taught < 12


def test_the_best_and_the_newest_are_kept(data: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(start(*arguments(data, model_dir, out, "--updates", "5", "--every", "1")))
    values = [row["value"] for row in metrics(out) if row["kind"] == "validation"]
    assert len(values) == 6
    best = values.index(max(values))
    kept = {path.name for path in (out / "checkpoints").iterdir()}
    assert kept == {f"v{best:08d}", "v00000005"}
    place = verify(out / "checkpoints" / "v00000005").training["place"]
    assert place == {"step": 5, "validated": 5, "best": {"step": best, "accuracy": max(values)}}


def test_graders_that_fail_teach_nothing_and_are_counted(model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    write_problems(path, [Problem(f"question {i}", "1", BROKEN, "", 0) for i in range(4)])
    output = finish(start(*arguments(path, model_dir, tmp_path / "run", "--updates", "1", "--every", "1")))
    assert "no answer was graded" in output
    [update] = [row for row in metrics(tmp_path / "run") if row["kind"] == "update"]
    assert (update["reward"], update["failed"], update["answers"]) == (None, 12, 12)
    before, after = load_tensors(model_dir), load_tensors(tmp_path / "run/checkpoints/v00000001")
    assert all(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "/no/such/model"], "no model directory at '/no/such/model'"),
        (["--data", "nowhere.jsonl"], "no file at 'nowhere.jsonl'"),
        (["--tau", "0"], "tau must be in"),
        (["--clip", "-1"], "clip_low must be in"),
        (["--group", "1"], "group must be 2 or more"),
        (["--resume"], "give only --out with it"),
    ],
)
def test_mistakes_are_told_and_leave_no_directory(
    more: list[str], says: str, data: Path, model_dir: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(build(), arguments(data, model_dir, tmp_path / "run", *more))
    assert result.exit_code != 0
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_and_one_without_a_run(data: Path, model_dir: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(build(), arguments(data, model_dir, tmp_path))
    assert "is not empty: give another --out" in " ".join(result.output.split())
    result = CliRunner().invoke(build(), ["train", "--resume", "--out", str(tmp_path)])
    assert "nothing to resume in" in result.output


def test_validation_must_not_be_in_the_data(data: Path, model_dir: Path, tmp_path: Path) -> None:
    more = ("--validation", str(data))
    result = CliRunner().invoke(build(), arguments(data, model_dir, tmp_path / "run", *more))
    assert result.exit_code == 1
    assert "30 problems of" in result.output


def test_changed_data_does_not_go_on(data: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(start(*arguments(data, model_dir, out, "--updates", "1")))
    write_problems(data, [Problem(f"other {i}", "a", VOWELS, "", 0) for i in range(30)])
    result = CliRunner().invoke(build(), ["train", "--resume", "--out", str(out), "--device", "cpu"])
    assert "is not what this run began with" in " ".join(result.output.split())
