"""`lepo make-demo-model` makes the model it is asked for, measures one that is there, and says what does not go."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from app.commands.make_demo_model import command


def test_the_bench_model_is_made_with_its_card_and_measured_again_unchanged(tmp_path: Path) -> None:
    arguments = ["--model", "bench", "--out", str(tmp_path), "--problems", "1", "--seed", "3"]
    made = CliRunner().invoke(command, [*arguments, "--steps", "1"])
    assert made.exit_code == 0, made.output
    assert "graph_path, 4 latent steps" in made.output
    weights, card = (tmp_path / "model.safetensors").read_bytes(), (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "`lepo make-demo-model --model bench --seed 3` in 1 steps" in card
    assert card.count("| countdown | ") == 3  # the example and two latent lengths
    (tmp_path / "README.md").unlink()
    measured = CliRunner().invoke(command, [*arguments, "--measure-only"])
    assert measured.exit_code == 0, measured.output
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    rows = [line for line in card.splitlines() if "±" in line]
    again = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert [line for line in again.splitlines() if "±" in line] == rows


@pytest.mark.parametrize(("model", "says"), [("bench", "holds no model"), ("demo", "goes with --model bench")])
def test_what_cannot_be_measured_is_refused(tmp_path: Path, model: str, says: str) -> None:
    result = CliRunner().invoke(command, ["--model", model, "--out", str(tmp_path), "--measure-only"])
    assert result.exit_code == 2
    assert says in result.output
