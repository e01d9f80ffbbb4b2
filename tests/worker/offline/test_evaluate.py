"""`lepo eval`: by the real engine on a tiny model, and by the command on the demo model."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from app.cli import build
from app.errors import BadRequest
from training.models.policy import load_policy
from training.sampling import Sampling
from training.tasks.families import generate
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from training.tasks.splits import Split
from worker.offline.answers import Asking, mark
from worker.offline.eval_command import part_of
from worker.offline.evaluate import PORTION, evaluate
from worker.offline.models import open_model

LETTER = {"type": "string_check", "reference": "a", "operation": "ilike"}
BROKEN = {"type": "math", "reference": "\\frac{1}{"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_problems(tmp_path / "test.jsonl", generate("chained_arithmetic", Split.TEST, 6, seed=0))
    return tmp_path / "test.jsonl"


def lepo_eval(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(build(), ["eval", "--threads", "1", "--device", "cpu", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout if result.exit_code == 0 else result.output


def test_an_answer_does_not_depend_on_slots_or_portions(model_dir: Path) -> None:
    policy = load_policy(model_dir, version=0, dtype=torch.float32, device="cpu")
    problems = [Problem(f"question {index}", "a", LETTER, "", 0) for index in range(PORTION + 3)]
    asking = Asking(Sampling(latent_length=2, top_k=8, seed=3), max_new=6, choices=2, slots=32)
    whole = evaluate(policy, problems, asking)
    few = Asking(Sampling(latent_length=2, top_k=8, seed=3 + PORTION), max_new=6, choices=2, slots=2)
    rest = evaluate(policy, problems[PORTION:], few)
    assert whole[PORTION:] == rest
    assert len({text for one in whole for text, _ in one.sampled}) > 10
    assert all(one.greedy is not None and len(one.sampled) == 2 for one in whole)


def test_progress_counts_every_answer_and_can_end_it(model_dir: Path) -> None:
    policy = load_policy(model_dir, version=0, dtype=torch.float32, device="cpu")
    problems = [Problem(f"question {index}", "a", LETTER, "", 0) for index in range(5)]
    asking = Asking(Sampling(latent_length=0, top_k=8), max_new=4, choices=3, slots=4)
    told: list[int] = []
    evaluate(policy, problems, asking, progress=told.append)
    assert sum(told) == 5 * (3 + 1)

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluate(policy, problems, asking, progress=stop)


def test_marks_keep_the_three_states_apart() -> None:
    states = [
        mark(Problem("p", "a", grader, "", 0), [text], 10.0)[0].state
        for grader, text in ((LETTER, "a"), (BROKEN, "1"), ({"type": "math", "reference": "1"}, "1" * 30_000))
    ]
    assert states == ["graded", "failed", "no_grade"]


def test_a_problem_too_long_says_so(model_dir: Path) -> None:
    policy = load_policy(model_dir, version=0, dtype=torch.float32, device="cpu")
    asking = Asking(Sampling(latent_length=0, top_k=8), max_new=40, choices=1, slots=4)
    with pytest.raises(BadRequest, match="the longest prompt has 100 tokens; see --max-new"):
        evaluate(policy, [Problem("x" * 100, "a", LETTER, "", 0)], asking)


def test_the_command_prints_json_and_writes_records(data: Path, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    code, output = lepo_eval(
        *("--data", str(data), "--model", "demo", "--k", "2", "--samples", "3", "--max-new", "24", "--json"),
        *("--latent-length", "0", "--latent-length", "4", "--records", str(records)),
    )
    assert code == 0
    printed = json.loads(output)
    assert [(one["latent_length"], one["family"], one["problems"]) for one in printed["scores"]] == [
        (0, "all", 6),
        (4, "all", 6),
    ]
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    for one in printed["scores"]:
        mine = [row for row in rows if row["latent_length"] == one["latent_length"]]
        right = [said["value"] for row in mine for said in row["sampled"]]
        assert len(right) == 6 * 3
        assert one["average"]["value"] == pytest.approx(sum(right) / len(right))
        assert one["greedy"]["value"] == pytest.approx(sum(row["greedy"]["value"] for row in mine) / 6)


def test_the_command_prints_a_table(data: Path) -> None:
    code, output = lepo_eval("--data", str(data), "--model", "demo", "--k", "1", "--max-new", "24", "--limit", "2")
    assert code == 0
    assert "pass@1" in output
    assert "2 all" in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--samples", "3"], "--samples 3 is less than --k 8"),
        (["--max-new", "4"], "leaves no token after 4 latent steps"),
        (["--tau", "0"], "tau must be in"),
        (["--draws", "65"], "draws must be in"),
        (["--model", "/no/such/model"], "no model directory at '/no/such/model'"),
        (["--data", "nowhere.jsonl"], "no file at 'nowhere.jsonl'"),
    ],
)
def test_mistakes_are_told(arguments: list[str], says: str, data: Path) -> None:
    code, output = lepo_eval("--data", str(data), "--model", "demo", *arguments)
    assert code != 0
    assert says in " ".join(output.split())


def test_the_command_refuses_what_was_learned_from(data: Path) -> None:
    code, output = lepo_eval("--data", str(data), "--model", "demo", "--against", str(data))
    assert code == 1
    assert "6 problems of" in output
    assert "are in the training data too" in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_no_gpu_says_so() -> None:
    with pytest.raises(BadRequest, match="0 CUDA devices are visible"):
        open_model("demo", version=0, dtype="float32", device="cuda")


def test_exported_problems_are_those_of_the_family(tmp_path: Path) -> None:
    out = tmp_path / "test.jsonl"
    arguments = ["export", "chained_arithmetic", "--split", "test", "--count", "5", "--out", str(out)]
    result = CliRunner().invoke(build(), arguments)
    assert result.exit_code == 0
    assert len(out.read_text().splitlines()) == 5
    assert CliRunner().invoke(build(), [*arguments[:-1], "-"]).output == out.read_text(), (
        "out of a container, by a pipe"
    )
    assert "unknown task family 'chess'" in CliRunner().invoke(build(), ["export", "chess", "--out", str(out)]).output


def test_a_held_out_file_can_be_asked_by_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = generate("chained_arithmetic", Split.VALIDATION, 60, seed=0)
    monkeypatch.setenv("LEPO_HELDOUT_SEALED", "0.4")
    sealed, rest = part_of(problems, "sealed"), part_of(problems, "open")
    assert 10 < len(sealed) < 40
    assert sorted(one.prompt for one in (*sealed, *rest)) == sorted(one.prompt for one in problems)
    path = tmp_path / "held.jsonl"
    write_problems(path, problems)
    options = ["--data", str(path), "--model", "demo", "--k", "1", "--no-greedy", "--max-new", "6", "--part", "sealed"]
    code, said = lepo_eval(*options, "--json")
    assert code == 0, said
    assert json.loads(said.splitlines()[-1])["scores"][0]["problems"] == len(sealed)
    monkeypatch.setenv("LEPO_HELDOUT_SEALED", "0")
    assert part_of(problems, "sealed") == []
