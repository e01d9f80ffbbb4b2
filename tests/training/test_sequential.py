"""Tests that may be looked at after every value: their errors are counted over all looks, by simulation."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.statistics.sequential import (
    ConfidenceSequence,
    decide,
    differences_of,
    first_crossing,
    first_decision,
    log_wealth,
)

LOOKS = 10_000


def bernoulli(mean: float, runs: int, looks: int = LOOKS, seed: int = 0) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random((runs, looks)) < mean).astype(np.float64)


@pytest.mark.parametrize(
    ("name", "mean"), [("coin", 0.5), ("rare", 0.05), ("common", 0.95), ("smooth", 0.5), ("drifting noise", 0.5)]
)
def test_a_mean_is_missed_at_any_of_10000_looks_with_alpha_at_most(name: str, mean: float) -> None:
    runs, alpha = 50, 0.1
    values_RN = bernoulli(mean, runs, seed=3)
    if name == "smooth":
        values_RN = np.random.default_rng(4).random((runs, LOOKS))
    if name == "drifting noise":  # the spread changes as it goes, the mean does not
        spread_N = 0.5 * np.abs(np.sin(np.arange(LOOKS) / 500))
        values_RN = 0.5 + spread_N * (2 * bernoulli(0.5, runs, seed=5) - 1)
    limit = np.log(2 / alpha)
    missed_R = (log_wealth(values_RN, mean) >= limit).any(-1) | (log_wealth(1 - values_RN, 1 - mean) >= limit).any(-1)
    assert missed_R.mean() <= alpha  # of 200 runs, 0.035 at most
    assert (log_wealth(values_RN[:10], mean - 0.04) >= limit).any(-1).mean() > 0.8, "a wrong mean is found out"


def test_the_interval_holds_the_mean_and_closes_in() -> None:
    values = tuple(bernoulli(0.3, 1, 2000)[0].tolist())
    sequence = ConfidenceSequence(values, 0.05, low=0.0)
    ends = [sequence.interval(look) for look in (0, 10, 100, 1000, 2000)]
    assert ends[0] == (0.0, 1.0)
    assert all(low <= 0.3 <= high for low, high in ends)
    widths = [high - low for low, high in ends]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.08
    assert sequence.interval() == sequence.interval(2000)


def test_the_interval_is_what_the_wealth_says() -> None:
    values = bernoulli(0.6, 1, 300)[0]
    low, high = ConfidenceSequence(tuple(values.tolist()), 0.1, low=0.0).interval()
    limit = np.log(2 / 0.1)
    assert log_wealth(values, low - 1e-6).max() >= limit > log_wealth(values, low + 1e-6).max()
    assert log_wealth(1 - values, 1 - high - 1e-6).max() >= limit > log_wealth(1 - values, 1 - high + 1e-6).max()


def test_values_may_have_any_range() -> None:
    values = tuple((2 * bernoulli(0.7, 1, 500)[0] - 1).tolist())
    low, high = ConfidenceSequence(values).interval()
    scaled = ConfidenceSequence(tuple((value + 1) / 2 for value in values), low=0.0).interval()
    assert (low, high) == pytest.approx((2 * scaled[0] - 1, 2 * scaled[1] - 1))


def streams(new: float, old: float, share: float, grades: int, seed: int) -> list[tuple[bool, float]]:
    rng = np.random.default_rng(seed)
    is_new = rng.random(grades) < share
    return [(bool(one), float(rng.random() < (new if one else old))) for one in is_new]


def test_equal_policies_are_seldom_called_worse_however_often_one_looks() -> None:
    alarms = 0
    for seed in range(150):
        differences = np.array(differences_of(streams(0.7, 0.7, 0.2, 3000, seed)))
        alarms += int(first_crossing((1 - differences) / 2, 0.5, 0.05) < len(differences))
    assert alarms / 150 <= 0.05


@pytest.mark.parametrize(("new", "decision"), [(0.5, "worse"), (0.9, "better"), (0.7, "not_worse")])
def test_what_is_so_is_said_in_the_end(new: float, decision: str) -> None:
    said = [str(decide(differences_of(streams(new, 0.7, 0.5, 5000, seed)), 0.1, 0.05)) for seed in range(20)]
    assert said.count(decision) >= 18


def test_little_says_nothing_and_what_is_decided_stays() -> None:
    assert decide([], 0.05, 0.05) == "undecided"
    assert decide([-1.0] * 3, 0.05, 0.05) == "undecided"
    differences = [-1.0] * 40
    pairs, decision = first_decision(differences, 0.05, 0.05)
    assert decision == "worse"
    assert first_decision(differences[:pairs], 0.05, 0.05) == (pairs, "worse")
    assert decide(differences[: pairs - 1], 0.05, 0.05) == "undecided"
    assert decide(differences + [1.0] * 1000, 0.05, 0.05) == "worse"


def test_margin_and_alpha_have_their_effect() -> None:
    equal = [0.5, -0.5] * 60
    assert decide(equal, 0.3, 0.05) == "not_worse"
    assert decide(equal, 0.02, 0.05) == "undecided"
    falling = differences_of(streams(0.5, 0.7, 0.5, 400, 1))
    assert first_decision(falling, 0.05, 0.3)[0] < first_decision(falling, 0.05, 0.001)[0]


def test_a_pair_is_of_one_moment() -> None:
    arrivals = [(False, 1.0), (False, 0.0), (True, 1.0), (True, 0.0), (True, 1.0), (False, 0.0), (True, 1.0)]
    assert differences_of(arrivals) == [0.5, 0.5]


def test_a_day_that_gets_harder_is_no_fall() -> None:
    """What users ask changes for both policies; the share of traffic changes too."""
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(60):
        time = np.linspace(0, 1, 4000)
        is_new = rng.random(4000) < 0.05 + 0.4 * time
        reward = rng.random(4000) < 0.9 - 0.6 * time
        differences = differences_of((bool(one), float(right)) for one, right in zip(is_new, reward, strict=True))
        alarms += decide(differences, 0.05, 0.05) == "worse"
    assert alarms <= 3


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="values must be in"):
        decide([1.5], 0.05, 0.05)
    with pytest.raises(ValueError, match="margin"):
        decide([0.5], 0.0, 0.05)
    with pytest.raises(ValueError, match="alpha"):
        decide([0.5], 0.05, 1.0)
    with pytest.raises(ValueError, match="alpha"):
        ConfidenceSequence((), alpha=0.0)
    with pytest.raises(ValueError, match="low must be below high"):
        ConfidenceSequence((), low=1.0)
    with pytest.raises(ValueError, match="values must be in"):
        ConfidenceSequence((float("nan"),))
