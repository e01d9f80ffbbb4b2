"""A held-out file that cannot be used is refused before anything depends on it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import BadRequest
from app.held_out import require_held_out
from app.settings import Settings
from training.tasks.gym import GymSource, make_problems
from training.tasks.splits import Split
from worker.gate.evaluation_set import read_evaluation_set

GRADER = {"type": "string_check", "operation": "eq", "reference": "5"}
LINE = json.dumps({"prompt": "2 + 3", "grader": GRADER})


def test_what_the_exam_reads_is_let_through(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "heldout.jsonl"
    asked = [{"role": "user", "content": "2 + 4"}]
    file.write_text(f"{LINE}\n\n{json.dumps({'messages': asked, 'grader': GRADER})}\nbeyond the size, never read\n")
    require_held_out(Settings(heldout=file, heldout_size=2))
    assert len(read_evaluation_set(file, 2, tokenizer, 0.0).questions) == 2
    require_held_out(Settings(heldout=None))


def test_a_dataset_of_reasoning_gym_is_held_out_too(tokenizer: Any) -> None:
    """Of the validation split, and only as many as are read; the gate gets the same whenever it asks."""
    named = Path("reasoning_gym:chain_sum:seed=1,size=5000")
    require_held_out(Settings(heldout=named, heldout_size=30))
    held = read_evaluation_set(named, 30, tokenizer, 0.2)
    assert len(held.questions) + len(held.sealed) == 30
    assert held.sealed
    assert held == read_evaluation_set(named, 30, tokenizer, 0.2)
    validation = {problem.prompt for problem in make_problems(GymSource("chain_sum", "{}", 30, 1, Split.VALIDATION))}
    assert {question.said for question in held.questions.values()} <= validation


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("reasoning_gym:chain_sun", "choose one of ab"),
        ("reasoning_gym:chain_sum:terms=3", "choose from min_terms"),
        ("reasoning_gym:chain_sum:size", "is no key=value"),
    ],
)
def test_a_dataset_that_is_none_is_refused(source: str, word: str) -> None:
    with pytest.raises(BadRequest, match=f"LEPO_HELDOUT: .*{word}"):
        require_held_out(Settings(heldout=Path(source)))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (f"{LINE}\nnot json\n", ":2 is not a prompt"),
        (json.dumps({"prompt": "2 + 3"}), ":1 is not a prompt"),
        (json.dumps({"prompt": "2 + 3", "grader": {"type": "oracle"}}), ":1 is not a prompt"),
        (json.dumps({"prompt": "", "grader": GRADER}), ":1 asks nothing"),
        (json.dumps([LINE]), ":1 is not a prompt"),
        (json.dumps(LINE), ":1 is not a prompt"),
        (b"\xff\xfe".decode("latin-1"), ":1 is not a prompt"),
    ],
)
def test_what_no_exam_can_be_made_of_is_not(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "heldout.jsonl"
    file.write_text(text)
    with pytest.raises(BadRequest, match=word):
        require_held_out(Settings(heldout=file))


@pytest.mark.parametrize("kind", ["missing", "a folder", "binary"])
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "heldout.jsonl"
    if kind == "a folder":  # what an engine makes of a mount whose source is not there
        file.mkdir()
    elif kind == "binary":
        file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest, match="LEPO_HELDOUT"):
        require_held_out(Settings(heldout=file))


@pytest.mark.parametrize("command", ["serve", "worker", "up"])
def test_server_and_worker_do_not_start_on_a_missing_file(tmp_path: Path, command: str) -> None:
    missing = tmp_path / "nowhere.jsonl"
    addresses = {"LEPO_DATABASE_URL": "postgresql://lepo@127.0.0.1:1/lepo", "LEPO_REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", command],
        env={**os.environ, **addresses, "LEPO_HELDOUT": str(missing), "LEPO_VAR_DIR": str(tmp_path / "var")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"LEPO_HELDOUT={missing} cannot be read: No such file or directory")
