"""Evaluations: a plan goes round all questions with new seeds, and a policy answers one plan always the same way."""

from collections import Counter
from pathlib import Path

import pytest

from app.settings import Settings
from tests.worker.world import World, write_heldout
from worker.gate.evaluation import (
    EvaluationPlan,
    Item,
    Scores,
    conditions_of,
    detail_of,
    evaluate,
    make_plan,
    question_request,
    read_scores,
    sampling_of,
)
from worker.gate.evaluation_set import EvaluationSet, Question, read_evaluation_set

NE = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne"}
BROKEN = {"type": "math", "reference": "\\frac{1}{"}
KEYS = [f"q{index}" for index in range(10)]


def plan_for(questions: EvaluationSet, settings: Settings, size: int, name: str = "a look") -> EvaluationPlan:
    return make_plan(name, questions.questions, [], size, conditions_of(settings))


def test_plans_go_round_all_questions_before_one_comes_again() -> None:
    asked: list[list[str]] = []
    for look in range(10):
        plan = make_plan(f"look {look}", KEYS, asked, 4, {})
        asked.append([item.question for item in plan.items])
    counts = Counter(key for keys in asked for key in keys)
    assert set(counts.values()) == {4}
    assert set(KEYS) == set(asked[0]) | set(asked[1]) | set(asked[2][:2])
    assert len({tuple(keys) for keys in asked}) == 10


def test_a_new_question_is_asked_in_the_round_that_is_under_way() -> None:
    asked = [KEYS[:6]]
    assert "new" in [item.question for item in make_plan("look", [*KEYS, "new"], asked, 5, {}).items]


def test_every_plan_has_seeds_of_its_own_and_a_longer_one_begins_with_a_shorter() -> None:
    one, other, longer = (
        make_plan("a", KEYS, [], 8, {}),
        make_plan("b", KEYS, [], 8, {}),
        make_plan("a", KEYS, [], 25, {}),
    )
    assert longer.items[:8] == one.items
    assert longer.after(8).items == longer.items[8:]
    seeds = [item.seed for item in (*other.items, *longer.items)]
    assert len(set(seeds)) == len(seeds)
    assert Counter(item.question for item in longer.items).most_common(1)[0][1] == 3


def test_scores_go_on_and_are_read_as_they_are_written() -> None:
    plan = EvaluationPlan("a look", (Item("x", 1), Item("y", 2), Item("x", 3)), {"max_new": 4})
    first, rest = Scores(EvaluationPlan("a look", plan.items[:1], plan.conditions), (1.0,), (7,)), plan.after(1)
    scores = first + Scores(rest, (None, 0.0), (5, 0))
    assert scores == Scores(plan, (1.0, None, 0.0), (7, 5, 0))
    assert (scores.graded, scores.correct) == ([1.0, 0.0], 1)
    assert read_scores(detail_of(scores)) == scores
    assert read_scores(None) is read_scores({"outcomes": [1.0]}) is None


def test_a_failed_grader_scores_nothing_and_never_zero(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", ["one", "two"], NE)
    broken = write_heldout(tmp_path / "broken.jsonl", ["three"], BROKEN)
    held.write_text(held.read_text() + broken.read_text())
    policy = world.policy()
    questions = read_evaluation_set(held, 9, policy.tokenizer)
    scores = evaluate(policy, questions, plan_for(questions, world.settings, 3), world.settings)
    said = {
        questions.questions[item.question].said: one
        for item, one in zip(scores.plan.items, scores.outcomes, strict=True)
    }
    assert said == {"one": 1.0, "two": 1.0, "three": None}


def test_the_same_policy_answers_the_same_plan_the_same_way(world: World, tmp_path: Path) -> None:
    letter = {"type": "string_check", "reference": "a", "operation": "ilike"}
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(40)], letter)
    policy = world.policy()
    questions = read_evaluation_set(held, 40, policy.tokenizer)
    plan = plan_for(questions, world.settings, 40)
    first = evaluate(policy, questions, plan, world.settings)
    few_slots = world.with_settings(slots=3).settings
    assert evaluate(policy, questions, plan, few_slots) == first
    assert 0 < first.correct < 40
    assert 0 < max(first.tokens) <= world.settings.max_completion_tokens
    other = evaluate(policy, questions, plan_for(questions, world.settings, 40, "another look"), world.settings)
    assert other.outcomes != first.outcomes


def test_progress_can_end_an_evaluation(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", ["one", "two"], NE)
    policy = world.policy()
    questions = read_evaluation_set(held, 9, policy.tokenizer)

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluate(policy, questions, plan_for(questions, world.settings, 2), world.settings, stop)


def test_an_evaluation_asks_as_a_client_does_who_sets_nothing() -> None:
    sampling = sampling_of(Settings(latent_draws=4, latent_tau=0.7))
    assert (sampling.draws, sampling.tau) == (4, 0.7)


def test_a_question_too_long_for_the_engine_is_named() -> None:
    question = Question("long winded", tuple(range(63)), NE)
    with pytest.raises(ValueError, match="'long winded' has 63 tokens"):
        question_request(question, 2, Settings(max_length=64, latent_length=4))
