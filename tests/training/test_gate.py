"""The gate's rule: who is shown to be worse is refused, who is shown to be no worse passes, the rest is asked more."""

import math

import numpy as np
import pytest

from training.statistics.gate import Judgement, judge, reach
from training.statistics.levels import Measured, Round, measure

MARGIN = 0.05


def outcomes(right: int, total: int) -> tuple[float, ...]:
    return (1.0,) * right + (0.0,) * (total - right)


def seen(*rounds: dict[int, tuple[float, ...]]) -> list[Measured]:
    read = (measure(Round(("q",) * max(map(len, one.values())), one), {}) for one in rounds)
    return [one for one in read if one is not None]


def pair(before: int, after: int, total: int = 200) -> list[Measured]:
    """Answers of version 1 and its candidate 2, which gained or lost some and kept the rest."""
    return seen({1: outcomes(before, total), 2: outcomes(after, total)})


@pytest.mark.parametrize(
    ("before", "after", "decision"),
    [
        (100, 100, "pass"),
        (100, 140, "pass"),
        (100, 98, "pass"),  # within the margin, surely
        (200, 200, "pass"),
        (100, 92, "undecided"),
        (100, 80, "refuse"),
        (200, 188, "refuse"),
        (0, 0, "pass"),  # that nothing could be lost is the caller's to see
    ],
)
def test_the_rule_for_a_pair(before: int, after: int, decision: str) -> None:
    judged = judge(pair(before, after), 2, 1, None, margin=MARGIN)
    assert judged.decision == decision, judged
    [one] = judged.comparisons
    assert one.difference == pytest.approx((after - before) / 200)
    assert (one.role, one.version) == ("incumbent", 1)
    assert one.low < one.difference < one.high


def test_the_last_look_decides() -> None:
    few = seen({1: outcomes(20, 40), 2: outcomes(20, 40)}), seen({1: outcomes(20, 40), 2: outcomes(18, 40)})
    for judged, decision in zip(few, ("pass", "refuse"), strict=True):
        assert judge(judged, 2, 1, None, margin=0.04).decision == "undecided"
        assert judge(judged, 2, 1, None, margin=0.04, final=True).decision == decision


def test_margin_and_alpha_have_their_effect() -> None:
    assert judge(pair(100, 96), 2, 1, None, margin=0.08).decision == "pass"
    assert judge(pair(100, 90), 2, 1, None, margin=MARGIN, alpha=0.5).decision == "refuse"
    assert judge(pair(100, 90), 2, 1, None, margin=MARGIN, alpha=0.001).decision == "undecided"


def test_a_candidate_as_good_as_an_incumbent_that_fell_below_the_base_is_refused() -> None:
    fallen = seen(
        {0: outcomes(700, 1000)},
        {0: outcomes(280, 400), 1: outcomes(250, 400)},
        {1: outcomes(125, 200), 2: outcomes(125, 200)},
    )
    judged = judge(fallen, 2, 1, 0, margin=MARGIN)
    assert judged.behind
    assert (judged.decision, judged.better) == ("refuse", 0)
    as_best = judge(fallen, 2, 1, None, margin=MARGIN)
    assert (as_best.decision, as_best.better) == ("refuse", 0), "the base is the best so far as well"
    held = seen(
        {0: outcomes(700, 1000)},
        {0: outcomes(280, 400), 1: outcomes(280, 400)},
        {1: outcomes(140, 200), 2: outcomes(140, 200)},
    )
    judged = judge(held, 2, 1, 0, margin=MARGIN)
    assert not judged.behind
    assert (judged.decision, judged.better) == ("pass", None)


def test_the_best_is_a_forebear_that_is_shown_to_be_better() -> None:
    risen = {0: outcomes(100, 400), 1: outcomes(300, 400)}
    fallen = {1: outcomes(300, 400), 2: outcomes(260, 400)}
    judged = judge(seen(risen, fallen, {2: outcomes(130, 200), 3: outcomes(130, 200)}), 3, 2, 0, margin=MARGIN)
    assert [(one.role, one.version) for one in judged.comparisons] == [("incumbent", 2), ("base", 0), ("best", 1)]
    assert (judged.decision, judged.better) == ("refuse", 1)
    level = {1: outcomes(300, 400), 2: outcomes(299, 400)}
    judged = judge(seen(risen, level, {2: outcomes(150, 200), 3: outcomes(150, 200)}), 3, 2, 0, margin=MARGIN)
    assert [one.role for one in judged.comparisons] == ["incumbent", "base"]
    assert judged.decision == "pass"


def test_the_bound_holds_at_every_look() -> None:
    """Means of normal values, looked at after every tenth of 4000: a one-sided bound at 10% fails in at most 10%."""
    rng, runs = np.random.default_rng(0), 400
    mean_RN = np.cumsum(rng.standard_normal((runs, 4000)), -1) / np.arange(1, 4001)
    looks = np.arange(10, 4000, 10)
    bound_L = np.array([reach(0.3 / math.sqrt(n), 0.1, MARGIN) for n in looks])
    failed_R = (0.3 * mean_RN[:, looks - 1] > bound_L).any(-1)
    assert 0.01 < failed_R.mean() <= 0.1
    assert reach(0.0, 0.1, MARGIN) == 0.0


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": 1.0}, {"alpha": 0.0}, {"margin": float("nan")}])
def test_mistakes_are_named(wrong: dict[str, float]) -> None:
    def call(margin: float = MARGIN, alpha: float = 0.05) -> Judgement:
        return judge(pair(1, 1), 2, 1, None, margin=margin, alpha=alpha)

    with pytest.raises(ValueError, match="margin and alpha"):
        call(**wrong)
