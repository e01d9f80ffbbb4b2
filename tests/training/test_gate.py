"""The gate's rule, case by case, and how often it errs, by simulation."""

import random

import pytest

from training.gate import Verdict, bootstrap_interval, judge

MARGIN = 0.05


def outcomes(right: int, total: int) -> list[bool]:
    return [True] * right + [False] * (total - right)


@pytest.mark.parametrize(
    ("before", "after", "decision"),
    [
        ([], [], "no_signal"),
        (outcomes(0, 200), outcomes(0, 200), "no_signal"),  # a collapse would have looked the same
        (outcomes(2, 200), outcomes(2, 200), "no_signal"),  # nearly so: losing both would have passed
        (outcomes(2, 200), outcomes(1, 200), "no_signal"),
        (outcomes(0, 200), outcomes(1, 200), "promote"),  # nothing could be lost, something was won
        (outcomes(200, 200), outcomes(200, 200), "promote"),  # a fall would have shown
        (outcomes(100, 200), outcomes(100, 200), "promote"),  # the same
        (outcomes(100, 200), outcomes(140, 200), "promote"),
        (outcomes(100, 200), outcomes(98, 200), "promote"),  # within the noise and the margin
        (outcomes(100, 200), outcomes(88, 200), "reject"),  # both
        (outcomes(20, 200), outcomes(12, 200), "reject"),  # the interval alone: eight lost and none won
        ([True, False] * 10, [False, True] * 9 + [False, False], "promote"),  # the point is at the margin, not below
        ([True, False] * 10, [False, True] * 8 + [False] * 4, "reject"),  # the point alone: it fell by a tenth
        ([True], [True], "promote"),
        ([True], [False], "reject"),
    ],
)
def test_the_rule(before: list[bool], after: list[bool], decision: str) -> None:
    verdict = judge(before, after, MARGIN)
    assert verdict.decision == decision, verdict
    assert verdict.n == len(before)
    if before:
        assert verdict.before == sum(before) / len(before)
        assert verdict.after == sum(after) / len(after)
        assert verdict.difference == pytest.approx(verdict.after - verdict.before)
        assert verdict.low <= verdict.difference <= verdict.high


def test_pairing_matters() -> None:
    """The same two means: a loss that no gain offsets is significant, the same loss among many changes is not."""
    lost = judge(outcomes(108, 200), outcomes(100, 200), MARGIN)
    shuffled = judge(outcomes(108, 200), outcomes(100, 200)[::-1], MARGIN)
    assert lost.difference == shuffled.difference
    assert (lost.decision, shuffled.decision) == ("reject", "promote")
    assert shuffled.low < lost.low < lost.high < 0 < shuffled.high


def test_graded_scores_and_another_floor() -> None:
    assert judge([0.2, 0.9, 0.5] * 20, [0.1, 0.7, 0.4] * 20, MARGIN).decision == "reject"
    assert judge([-1.0] * 50, [-1.0] * 50, MARGIN, floor=-1.0).decision == "no_signal"
    assert judge([0.0] * 50, [0.0] * 50, MARGIN, floor=-1.0).decision == "promote"


def test_each_setting_has_its_effect() -> None:
    before, after = [True, False] * 100, [True, False] * 88 + [False, True] * 6 + [False] * 12
    assert judge(before, after, 0.02).decision == "reject"
    assert judge(before, after, 0.05).decision == "promote"
    assert judge(before, after, 0.05, confidence=0.5).decision == "reject"
    wide, narrow = judge(before, after, MARGIN, confidence=0.99), judge(before, after, MARGIN, confidence=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_verdict_can_be_repeated() -> None:
    rng = random.Random(1)
    before, after = ([rng.random() for _ in range(80)] for _ in range(2))
    first: Verdict = judge(before, after, MARGIN, seed=3)
    assert judge(before, after, MARGIN, seed=3) == first
    assert judge(before, after, MARGIN, seed=4).low != first.low


def test_the_interval_is_the_known_one_for_a_normal_mean() -> None:
    rng = random.Random(2)
    values = [rng.gauss(0.3, 1.0) for _ in range(400)]
    mean = sum(values) / 400
    error = (sum((value - mean) ** 2 for value in values) / 400) ** 0.5 / 20
    low, high = bootstrap_interval(values, confidence=0.95, seed=0)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    assert bootstrap_interval([2.5] * 7) == (2.5, 2.5)


def test_a_large_set_is_drawn_in_pieces() -> None:
    rng = random.Random(3)
    values = [rng.random() for _ in range(30_000)]
    low, high = bootstrap_interval(values, resamples=300)
    assert low < sum(values) / 30_000 < high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([True], [], 0.1), "pair up"),
        (([True], [True], -0.1), "margin"),
        (([True], [True], float("nan")), "margin"),
        (([float("nan")], [True], 0.1), "finite"),
        (([True], [-0.5], 0.1), "floor"),
    ],
)
def test_mistakes_are_named(arguments: tuple[list[float], list[float], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(*arguments)


def test_mistakes_of_the_interval_are_named() -> None:
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0], confidence=1.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([1.0], resamples=0)


def rejected(drop: float, margin: float, runs: int = 150, prompts: int = 200) -> float:
    """Share of simulated updates that are rejected, when sampled accuracy truly fell by `drop`.

    Prompts are easy or hard (success probability Beta(1/2, 1/2), mean 1/2); each policy answers each prompt once.
    """
    rng, count = random.Random(17), 0
    for run in range(runs):
        chances = [rng.betavariate(0.5, 0.5) for _ in range(prompts)]
        before = [rng.random() < chance for chance in chances]
        after = [rng.random() < chance * (1 - 2 * drop) for chance in chances]
        count += judge(before, after, margin, seed=run, resamples=500).decision == "reject"
    return count / runs


def test_operating_characteristics_at_200_prompts() -> None:
    """False alarms on an equal policy, and detection of a 10-point drop; measured over 300 runs: 6%, 92%, 3%, 76%."""
    assert rejected(0.0, margin=0.05) < 0.12
    assert rejected(0.1, margin=0.05) > 0.85
    assert rejected(0.0, margin=0.10) < 0.06
    assert rejected(0.1, margin=0.10) > 0.65
