"""`lepo bench gate`: simulated policies are as good as they are said to be, and the figures are of the runs."""

import json

import numpy as np
import pytest

from app.settings import Settings
from benchmarks.gate.command import BOUNDS, Plan, canary_figures, gate_figures, measure, quantile, share_figures
from benchmarks.gate.policies import lineage_of
from benchmarks.gate.trial import CanaryRun, Course, canary, completions, course
from benchmarks.report import judged
from training.statistics.sequential import differences_of
from worker.gate.evaluation import make_plan


def test_a_policy_is_as_good_as_it_is_said_to_be_and_as_noisy_as_the_demos() -> None:
    lineage = lineage_of(0.725, 200, 0.0, 5)
    lineage.learn(1, 0, -0.02)
    plan = make_plan("much", lineage.questions.questions, [], 40_000, {})
    old, new = (np.array(lineage.ask(version, plan).graded) for version in (0, 1))
    assert old.mean() == pytest.approx(0.725, abs=0.01)
    assert (new - old).mean() == pytest.approx(-0.02, abs=0.005)
    assert 0.05 < (new - old).var() < 0.08  # the demo: 0.058 at 0.705, 0.054 at 0.748
    assert lineage.ask(0, plan) == lineage.ask(0, plan)
    assert lineage.answers == 4 * 40_000


def test_a_course_follows_the_gate() -> None:
    one = course(0.6, [0.2, -0.5, 0.1], 3, Settings())
    assert one.promoted == (True, False, True)
    assert one.end == one.peak == pytest.approx(0.9)
    assert one.answers >= 6 * 60
    assert course(0.6, [0.2, -0.5, 0.1], 3, Settings()) == one


def test_a_canary_counts_grades_as_they_arrive() -> None:
    arrivals = [False, False, True, True, False, True]
    assert completions(arrivals) == [3, 5]
    assert len(differences_of([(one, 0.5) for one in arrivals])) == 2
    worse = canary(0.9, 0.8, 0.5, 400, 0.05, 0.05, 1)
    assert (worse.decision, worse.alarmed) == ("worse", True)
    assert worse.of_canary < worse.grades < 400
    equal = canary(0.7, 0.0, 0.5, 30, 0.05, 0.05, 1)
    assert (equal.decision, equal.grades) == ("undecided", 30)


def test_figures_are_of_the_runs_and_every_bound_is_judged() -> None:
    down, up, level = (
        Course(0.7, 0.64, 0.7, (True, False), 10),
        Course(0.4, 0.5, 0.5, (True, True), 10),
        Course(0.7, 0.7, 0.7, (False, True), 30),
    )
    courses = {
        "losing": [down] * 10,
        "gaining": [up],
        "equal": [level, up],
        "equal_at_0.95": [up],
        "gaining_then_losing": [down],
    }
    runs = {fall: [CanaryRun("worse", 100, 10, fall != "0")] for fall in ("0", "0.05", "0.1", "0.2")}
    figures = {**gate_figures(courses), **canary_figures(runs)}
    assert figures["losing_2_points_after_20"] == pytest.approx(6.0)
    assert figures["gaining_2_promoted_share"] == 1.0
    assert figures["equal_refused_share_over_20_looks"] == 0.25
    assert figures["equal_runs_with_any_refusal"] == 0.5
    assert figures["answers_per_look"]["equal"] == 10.0
    assert figures["canary_detects"]["10_points"]["canary_grades_median"] == 10
    assert {row["key"]: row["met"] for row in judged(figures, BOUNDS)} == {
        "losing_2_points_after_20": False,
        "gaining_2_promoted_share": True,
        "equal_refused_share_over_20_looks": False,
        "canary_false_alarms": True,
    }


def test_a_quantile_is_a_value_that_was_seen() -> None:
    values = [float(value) for value in range(1, 21)]
    assert (quantile(values, 0.95), quantile(values, 0.5), quantile([3.0], 0.95)) == (19.0, 10.0, 3.0)


def test_the_command_measures_what_its_bounds_ask() -> None:
    report = measure(Plan(runs=1, canaries=3, grades=1000))
    assert {row["key"] for row in report["bounds"]} == {bound.key for bound in BOUNDS}
    assert len(report["raw"]["losing"]) == 1
    passed, end = report["raw"]["losing"][0].split()
    assert float(end) >= 0.725 - 0.02 * passed.count("+") - 1e-9, "or higher: the best may serve again"
    assert json.dumps(report, allow_nan=False)
    assert set(report["canary_by_share"]) == {"0.1", "0.06", "0.05", "0.03"}


def test_a_smaller_share_shows_a_bad_policy_to_fewer_and_keeps_a_good_one_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.gate.command.LONGEST", 8000)
    plan = Plan(runs=10, canaries=1)
    tenth, twentieth = (share_figures(share, plan, lambda _: None) for share in (0.1, 0.05))
    assert tenth["fallen_50"]["found_worse"] == tenth["risen_10"]["passed"] == 1.0
    assert twentieth["fallen_50"]["met_share_p95"] < tenth["fallen_50"]["met_share_p95"]
    assert twentieth["risen_10"]["grades_median"] > tenth["risen_10"]["grades_median"]
    assert twentieth["equal"]["passed"] < 1.0, "there was no time for it"
