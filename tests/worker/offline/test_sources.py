"""Sources: files of ours, known data sets in files, directories and the hub's cache, and no hub at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import BadRequest
from training.tasks.families import generate
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from training.tasks.splits import Split
from worker.offline.sources import read_source, require_apart

ROW = json.dumps({"question": "How many?", "answer": "#### 5"}) + "\n"


def test_a_file_of_ours(tmp_path: Path) -> None:
    problems = generate("chained_arithmetic", Split.TEST, 3, seed=0)
    write_problems(tmp_path / "mine.jsonl", problems)
    assert read_source(str(tmp_path / "mine.jsonl")) == problems


def test_a_known_data_set_in_a_file_and_in_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "main" / "test.jsonl"
    file.parent.mkdir()
    file.write_text(ROW)
    [problem] = read_source(f"gsm8k:{file}")
    assert (problem.prompt, problem.answer) == ("How many?", "5")
    assert read_source(f"gsm8k:test:{tmp_path}") == [problem]
    with pytest.raises(BadRequest, match="no train files"):
        read_source(f"gsm8k:train:{tmp_path}")


def test_problems_of_reasoning_gym_are_of_the_callers_split_unless_they_name_one() -> None:
    source = "reasoning_gym:chain_sum:size=20"
    read = {split: read_source(source, split) for split in Split}
    require_apart(read[Split.TRAIN], read[Split.VALIDATION], "validation")
    require_apart(read[Split.TRAIN], read[Split.TEST], "test")
    assert read_source(source) == read[Split.TRAIN]
    assert read_source(f"{source},split=test", Split.VALIDATION) == read[Split.TEST]
    with pytest.raises(BadRequest, match="choose one of ab, acre"):
        read_source("reasoning_gym:chain_sun")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing.jsonl", "no file at 'missing.jsonl': give a .jsonl file"),
        ("gsm8k", "gsm8k:train, gsm8k:test"),
        ("aime24:test", "names neither a file nor a split"),
    ],
)
def test_a_source_that_is_none_says_what_to_give(source: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_source(source)
    assert says in str(caught.value)


def test_an_empty_file_and_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n")
    with pytest.raises(BadRequest, match="holds no problems"):
        read_source(str(path))
    path.write_text('{"prompt": "p"}\n')
    with pytest.raises(BadRequest, match=r"mine\.jsonl:1: answer must be"):
        read_source(str(path))


def test_the_hub_offline_is_its_cache_or_a_clear_error(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--openai--gsm8k" / "snapshots" / ("ab" * 20)
    (snapshot / "main").mkdir(parents=True)
    (snapshot / "main" / "test-00000-of-00001.jsonl").write_text(ROW)
    refs = tmp_path / "datasets--openai--gsm8k" / "refs"
    refs.mkdir()
    (refs / "main").write_text("ab" * 20)
    program = (
        "from worker.offline.sources import read_source\n"
        "from app.errors import BadRequest\n"
        "print(read_source('gsm8k:test')[0].answer)\n"
        "try:\n    read_source('amc23:test')\n"
        "except BadRequest as error:\n    print(error)\n"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    answer, error = done.stdout.splitlines()
    assert answer == "5"
    assert "cannot get math-ai/amc23 from the hub" in error
    assert "give amc23:FILE" in error


def test_what_was_learned_from_is_not_measured_on() -> None:
    learned = [Problem("What is  Two plus two?", "4", {}, "", 0)]
    asked = [Problem("what is two plus two?", "4", {}, "", 0), Problem("And three?", "3", {}, "", 0)]
    with pytest.raises(BadRequest, match=r"1 problems of the test set are in the training data too \('what is two"):
        require_apart(learned, asked, "the test set")
    require_apart(learned, asked[1:], "the test set")
