"""One cell: every method learns and is examined, and the two ways of answering and learning agree."""

from pathlib import Path

import pytest
import torch

from benchmarks.learning.methods import REAL
from benchmarks.learning.real.budget import Cell, exam_of
from benchmarks.learning.real.cell import run, shares
from benchmarks.learning.real.ways import ByEngine, BySampler, Way, drawn_by_engine, way_of
from tests.benchmarks.learning.real.letters import BUDGET, Letters
from training.models.policy import Policy, fingerprint, load_policy
from training.tasks.splits import Split
from worker.offline.answers import Mark

FAMILY = Letters("letters", ())
PROBLEMS = FAMILY.problems(Split.TRAIN, 3, 0)


def load(base: Path, dtype: torch.dtype = torch.float32) -> Policy:
    return load_policy(base, version=0, dtype=dtype, device="cpu")


@pytest.mark.parametrize("name", REAL)
def test_every_method_learns_and_is_examined_by_both_inferences(base: Path, name: str) -> None:
    told: list[str] = []
    found = run(Cell(str(base), REAL[name], FAMILY, 1, BUDGET), told.append)
    assert (found["method"], found["family"], found["seed"]) == (name, "letters", 1)
    assert [one["answers"] for one in found["updates"]] == [16, 16]
    assert sum(one["signal_share"] for one in found["updates"]) > 0
    assert {len(of) for of in found["test"].values()} == {3}
    assert (found["test"]["own"] == found["test"]["token"]) is (name == "grpo")
    assert [line.partition(",")[0] for line in told[:2]] == ["update 1/2", "update 2/2"]
    again = run(Cell(str(base), REAL[name], FAMILY, 1, BUDGET), told.append)
    assert again["test"] == found["test"]
    assert [one["solved"] for one in again["updates"]] == [one["solved"] for one in found["updates"]]


def test_the_base_learns_nothing_and_methods_that_infer_alike_share_its_exam(base: Path) -> None:
    exams = {name: exam_of(str(base), method, FAMILY, BUDGET) for name, method in REAL.items()}
    assert exams["lepo"] == exams["lepo_noise_only"]
    assert len(set(exams.values())) == len(REAL) - 1
    found = run(exams["lepo"], lambda _: None)
    assert found["updates"] == []
    assert list(found["test"]) == ["own"]


@pytest.mark.parametrize("name", [name for name, one in REAL.items() if drawn_by_engine(one)])
def test_the_sampler_answers_as_the_engine_does(base: Path, name: str) -> None:
    policy, seeds = load(base, torch.float64), [5, 6, 7]
    ways = ByEngine(REAL[name], BUDGET), BySampler(REAL[name], BUDGET)
    engine, sampler = (way.answer(policy, PROBLEMS, seeds) for way in ways)
    assert [[one.text for one in group] for group in engine] == [[one.text for one in group] for group in sampler]
    assert engine[0][0].rollout.placed == sampler[0][0].rollout.placed


@pytest.mark.parametrize("name", REAL)
def test_a_method_learns_where_answers_differ_in_worth(base: Path, name: str) -> None:
    policy, way = load(base), way_of(REAL[name], BUDGET)
    before = fingerprint(policy.model)
    answers = [one for group in way.answer(policy, PROBLEMS, [5, 6, 7]) for one in group]
    pulls = [1.0 if index % 2 else -1.0 for index in range(len(answers))]
    assert way.learn(policy, answers, [0.0] * len(answers))["without_signal"] == len(answers)
    assert fingerprint(policy.model) == before
    assert way.learn(policy, answers, pulls)["without_signal"] == 0
    assert fingerprint(policy.model) != before


@pytest.mark.parametrize("name", ["multiplex", "lepo"])
def test_the_bench_learns_as_the_learner_does(base: Path, name: str) -> None:
    """Micro-batches of the learner's size, against its own; then both take one step."""
    policies, method = [load(base), load(base)], REAL[name]
    ways: list[Way] = [ByEngine(method, BUDGET), BySampler(method, BUDGET)]
    for policy, way in zip(policies, ways, strict=True):
        answers = [one for group in BySampler(method, BUDGET).answer(policy, PROBLEMS, [5, 6, 7]) for one in group]
        way.learn(policy, answers, [1.0 if index % 3 else -2.0 for index in range(len(answers))])
    moved, expected = (dict(one.model.named_parameters()) for one in policies)
    unmoved = dict(load(base).model.named_parameters())
    for key, one in moved.items():
        assert not torch.equal(one, unmoved[key])
        torch.testing.assert_close(one - unmoved[key], expected[key] - unmoved[key], rtol=0.05, atol=2e-5)


def test_an_answer_without_a_grade_is_an_error_of_the_bench() -> None:
    assert shares([[Mark("graded", 1.0, ""), Mark("graded", 0.0, "")]]) == [0.5]
    with pytest.raises(RuntimeError, match="no grade: too slow"):
        shares([[Mark("failed", None, "too slow")]])
