"""A look of the gate: who is asked what, until when, and in which words it ends. The policies are simulated."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from app.settings import Settings
from benchmarks.gate.policies import Lineage, lineage_of
from worker.gate.evaluation import EvaluationPlan, Scores, detail_of
from worker.gate.evaluation_set import Question, evaluation_set
from worker.gate.look import GateResult, Look, Vitals, no_questions, recorded_of, rounds_of


def gate_of(**wishes: Any) -> Settings:
    return Settings.model_validate(wishes)


def look_at(lineage: Lineage, change: float, settings: Settings, name: str = "a look", **more: Any) -> GateResult:
    """Send one candidate of the base to the gate."""
    lineage.learn(1, 0, change)
    look = Look(settings, lineage.questions, [], name, 1, 0)
    return look.examine(lineage.ask(0, look.first), lineage.ask, **more)


def test_a_clear_case_is_decided_by_one_part_and_a_doubtful_one_is_asked_more() -> None:
    lineage = lineage_of(0.7, 200, 0.2, 1)
    half = (len(lineage.questions.questions) + 1) // 2
    better = look_at(lineage, 0.2, gate_of())
    assert (better.decision, better.figures["asked"]) == ("pass", {"candidate": half, "incumbent": half, "again": {}})
    assert better.words.startswith("the gate passed the candidate: +0.")
    worse = look_at(lineage_of(0.7, 200, 0.2, 1), -0.3, gate_of())
    assert (worse.decision, worse.figures["asked"]["candidate"]) == ("refuse", half)
    assert "against version 0, which serves" in worse.words
    doubtful = look_at(lineage_of(0.7, 200, 0.2, 1), -0.03, gate_of())
    assert doubtful.figures["asked"]["candidate"] > half
    assert [version for version, _ in doubtful.scores] == [1, 0]
    assert {len(scores.outcomes) for _, scores in doubtful.scores} == {doubtful.figures["asked"]["candidate"]}


def test_answers_and_seconds_end_a_look() -> None:
    wishes: dict[str, Any] = {"gate_alpha": 1e-6, "gate_margin": 0.01}
    most = look_at(lineage_of(0.7, 200, 0.2, 1), 0.0, gate_of(**wishes, gate_answers=300))
    assert most.figures["asked"]["candidate"] == 300
    ticks = itertools.count()
    hurried = look_at(
        lineage_of(0.7, 200, 0.2, 1), 0.0, gate_of(**wishes, gate_seconds=2), clock=lambda: float(next(ticks))
    )
    assert hurried.figures["asked"]["candidate"] < 300
    assert {most.decision, hurried.decision} <= {"pass", "refuse"}


def test_margin_and_alpha_have_their_effect() -> None:
    asked = {
        margin: look_at(lineage_of(0.7, 200, 0.2, 1), 0.0, gate_of(gate_margin=margin)).figures["asked"]["candidate"]
        for margin in (0.02, 0.2)
    }
    assert asked[0.02] > asked[0.2]
    eager, slow = (
        look_at(lineage_of(0.7, 200, 0.2, 4), -0.08, gate_of(gate_alpha=alpha, gate_margin=0.03)).figures["asked"]
        for alpha in (0.4, 1e-6)
    )
    assert eager["candidate"] < slow["candidate"]


def test_the_base_is_asked_anew_where_it_is_known_too_little() -> None:
    lineage = lineage_of(0.7, 200, 0.2, 2)
    lineage.learn(1, 0, -0.02)
    lineage.learn(2, 1, 0.0)
    settings = gate_of()
    first = Look(settings, lineage.questions, [], "one", 1, 0)
    recorded = list(first.examine(lineage.ask(0, first.first), lineage.ask).scores)
    second = Look(settings, lineage.questions, recorded, "two", 2, 1)
    result = second.examine(lineage.ask(1, second.first), lineage.ask)
    assert result.figures["asked"]["again"].keys() == {"0"}
    assert set(result.figures["beside"]) == {"incumbent", "base"}
    of_base = result.of(0)
    assert of_base is not None
    assert len(of_base.outcomes) == result.figures["asked"]["again"]["0"]
    assert result.of(9) is None
    asked_before = {item.seed for _, scores in recorded for item in scores.plan.items}
    asked_now = {item.seed for _, scores in result.scores for item in scores.plan.items}
    assert not asked_before & asked_now, "seeds are never used twice"


def test_the_best_is_asked_anew_before_its_luck_refuses_anybody() -> None:
    lineage = lineage_of(0.6, 200, 0.2, 2)
    lineage.learn(1, 0, 0.1)
    lineage.learn(2, 1, 0.0)
    lineage.learn(3, 2, 0.0)
    settings = gate_of()
    first = Look(settings, lineage.questions, [], "one", 2, 1).plan(400)
    lucky = Scores(first, (1.0,) * 400)  # version 1 is said to have had everything right
    recorded = [(1, lucky), (2, lineage.ask(2, first))]
    decided = []
    for reachable in ((0, 1, 2), ()):
        look = Look(settings, lineage.questions, recorded, "two", 3, 2, 0, reachable)
        result = look.examine(lineage.ask(2, look.first), lineage.ask)
        decided.append((result.decision, "1" in result.figures["asked"]["again"]))
        assert result.better == (1 if reachable else None), "what cannot be loaded cannot serve"
        assert result.figures["beside"]["best"]["version"] == 1
    assert decided == [("refuse", True), ("refuse", False)], "so much luck is no luck; but it was asked"


def test_two_looks_ask_all_questions_and_never_a_sealed_one() -> None:
    lineage = lineage_of(0.7, 100, 0.3, 3)
    settings = gate_of()
    first = Look(settings, lineage.questions, [], "one", 1, 0)
    recorded = [(0, lineage.ask(0, first.first))]
    second = Look(settings, lineage.questions, recorded, "two", 1, 0)
    asked = {item.question for item in (*first.first.items, *second.first.items)}
    assert asked == set(lineage.questions.questions)
    assert not asked & set(lineage.questions.sealed)


def test_small_losses_add_up() -> None:
    """Each candidate loses 2 points, and soon none is promoted any more; those that gain are. The bench counts it."""
    from benchmarks.gate.trial import course

    ends = [course(0.725, [-0.02] * 10, seed, gate_of()) for seed in range(2)]
    assert max(one.start - one.end for one in ends) < 0.07
    assert all(not all(one.promoted) for one in ends)
    up = course(0.5, [0.02] * 8, 1, gate_of())
    assert sum(up.promoted) >= 7


def test_evaluations_of_other_conditions_or_questions_are_not_compared() -> None:
    lineage = lineage_of(0.7, 60, 0.0, 4)
    look = Look(gate_of(), lineage.questions, [], "one", 1, 0)
    scores = lineage.ask(0, look.first)
    other = replace(scores, plan=replace(scores.plan, conditions={"max_new": 1}))
    assert Look(gate_of(), lineage.questions, [(0, scores), (0, other)], "two", 1, 0).earlier == [(0, scores)]
    half = evaluation_set(
        [one for key, one in lineage.questions.questions.items() if key != scores.plan.items[0].question], 0
    )
    [kept] = rounds_of([(0, scores)], half)
    assert kept.items == tuple(item.question for item in scores.plan.items[1:])
    assert kept.outcomes[0] == scores.outcomes[1:]
    assert recorded_of([(3, detail_of(scores)), (4, None), (5, {"plan": "of another release"})]) == [(3, scores)]


@pytest.mark.parametrize(("choice", "decision"), [("hold", "hold"), ("promote", "pass")])
def test_without_questions_the_operator_chooses_and_hears_how_to_give_some(choice: str, decision: str) -> None:
    result = no_questions(gate_of(gate_no_signal=choice))
    assert result.decision == decision
    assert ("LEPO_HELDOUT" in result.words and '"grader"' in result.words) is (decision == "hold")
    assert "LEPO_GATE_NO_SIGNAL=promote" in result.words


def always(outcome: float | None, tokens: int = 5) -> Any:
    def ask(version: int, plan: EvaluationPlan) -> Scores:
        return Scores(plan, (outcome,) * len(plan.items), (tokens,) * len(plan.items))

    return ask


def few_questions(count: int = 6) -> Any:
    return evaluation_set([Question(f"q {index}", (index,), {}) for index in range(count)], 0.2)


@pytest.mark.parametrize(
    ("outcome", "decision"),
    [
        (0.0, "hold"),  # a collapse would have looked the same
        (None, "hold"),
        (1.0, "pass"),  # a collapse would have been seen
    ],
)
def test_a_gate_that_sees_nothing_holds(outcome: float | None, decision: str) -> None:
    look = Look(gate_of(gate_seconds=0), few_questions(), [], "one", 1, 0)
    result = look.examine(always(outcome)(0, look.first), always(outcome))
    assert result.decision == decision, result.words
    chosen = Look(gate_of(gate_no_signal="promote"), few_questions(), [], "one", 1, 0)
    assert chosen.examine(always(outcome)(0, look.first), always(outcome)).decision == "pass"


def test_what_rises_from_nothing_passes() -> None:
    look = Look(gate_of(), few_questions(60), [], "one", 1, 0)
    assert look.examine(always(0.0)(0, look.first), always(1.0)).decision == "pass"


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [(20, 3, "3 tokens long"), (20, 100, "100 tokens long"), (20, 0, "100% of the candidate's answers are empty")],
)
def test_a_collapse_of_length_is_refused(before: int, after: int, word: str) -> None:
    look = Look(gate_of(), few_questions(), [], "one", 1, 0)
    result = look.examine(always(1.0, before)(0, look.first), always(1.0, after))
    assert result.decision == "refuse"
    assert word in result.words
    lenient = Look(gate_of(gate_collapse=0.0), few_questions(), [], "one", 1, 0)
    allowed = lenient.examine(always(1.0, before)(0, look.first), always(1.0, after))
    assert allowed.decision == "pass"


def test_a_collapse_of_entropy_is_refused() -> None:
    look = Look(gate_of(), few_questions(), [], "one", 1, 0)
    before = always(1.0)(0, look.first)
    assert look.examine(before, always(1.0), Vitals(0.8, 0.1)).decision == "refuse"
    assert look.examine(before, always(1.0), Vitals(0.8, 0.4)).decision == "pass"
