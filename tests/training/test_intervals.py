"""The bootstrap's interval of a mean."""

import random

import pytest

from training.statistics.intervals import bootstrap_interval


def test_the_interval_is_the_known_one_for_a_normal_mean() -> None:
    rng = random.Random(2)
    values = [rng.gauss(0.3, 1.0) for _ in range(400)]
    mean = sum(values) / 400
    error = (sum((value - mean) ** 2 for value in values) / 400) ** 0.5 / 20
    low, high = bootstrap_interval(values, confidence=0.95, seed=0)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    assert bootstrap_interval([2.5] * 7) == (2.5, 2.5)


def test_confidence_widens_and_a_seed_repeats() -> None:
    rng = random.Random(1)
    values = [rng.random() for _ in range(80)]
    wide, narrow = bootstrap_interval(values, confidence=0.99), bootstrap_interval(values, confidence=0.8)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=3)


def test_a_large_set_is_drawn_in_pieces() -> None:
    rng = random.Random(3)
    values = [rng.random() for _ in range(30_000)]
    low, high = bootstrap_interval(values, resamples=300)
    assert low < sum(values) / 30_000 < high


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0], confidence=1.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([1.0], resamples=0)
