"""Levels of versions: pairs make differences sure, chains and levels come together, and the errors are true."""

import numpy as np
import pytest

from training.statistics.levels import Levels, Measured, Round, difficulty, measure


def measured(*rounds: Round) -> list[Measured]:
    return [one for one in (measure(each, {}) for each in rounds) if one is not None]


def test_a_pair_differs_by_what_it_differs_in() -> None:
    old, new = (1.0, 0.0) * 20, (1.0, 0.0) * 18 + (0.0, 0.0) * 2
    found = Levels(measured(Round(("q",) * 40, {1: old, 2: new}))).difference(2, 1)
    assert found.estimate == pytest.approx(-0.05)
    apart = Levels(measured(Round(("q",) * 40, {1: old}), Round(("q",) * 40, {2: new}))).difference(2, 1)
    assert apart.estimate == pytest.approx(-0.05)
    assert found.error < 0.5 * apart.error


def test_questions_that_are_known_to_be_hard_are_no_fall() -> None:
    easy, hard = Round(("e",) * 50, {0: (1.0,) * 40 + (0.0,) * 10}), Round(("h",) * 50, {1: (0.0,) * 40 + (1.0,) * 10})
    both = Round(("e", "h") * 100, {0: (1.0, 0.0) * 80 + (0.0, 1.0) * 20})
    known = difficulty([both])
    assert known["e"] == pytest.approx(-known["h"])
    assert known["e"] == pytest.approx(0.3, abs=0.01)
    naive = Levels(measured(easy, hard)).difference(1, 0)
    aware = Levels([one for one in (measure(each, known) for each in (easy, hard)) if one]).difference(1, 0)
    assert naive.estimate == pytest.approx(-0.6)
    assert abs(aware.estimate) < 0.02


def test_an_answer_nobody_could_grade_counts_for_nobody() -> None:
    old, new = (1.0, None, 0.0, 1.0), (0.0, 1.0, None, 1.0)
    found = Levels(measured(Round(("q",) * 4, {1: old, 2: new})))
    assert found.versions == [1, 2]
    assert found.difference(2, 1).estimate == pytest.approx(0.0, abs=0.2)
    assert measure(Round(("q",) * 3, {1: (None, 1.0, None)}), {}) is None
    with pytest.raises(ValueError, match="measured is empty"):
        Levels([])


def test_a_version_asked_less_is_paired_with_what_it_was_asked() -> None:
    old = (1.0, 0.0) * 50
    found = Levels(measured(Round(("q",) * 100, {1: old, 2: old[:40]}))).difference(2, 1)
    assert found.estimate == pytest.approx(0.0)
    assert 0 < found.error < 0.07


def test_a_few_equal_answers_are_not_certain() -> None:
    few = Levels(measured(Round(("q",) * 5, {1: (1.0,) * 5, 2: (1.0,) * 5}))).difference(2, 1)
    many = Levels(measured(Round(("q",) * 500, {1: (1.0,) * 500, 2: (1.0,) * 500}))).difference(2, 1)
    assert few.estimate == many.estimate == 0.0
    assert few.error > 0.1
    assert many.error < 0.01


def test_small_losses_add_up_along_a_chain_and_the_error_is_true() -> None:
    """Four versions, each 3 points below the one before: the whole fall is seen, with an error as large as it says."""
    rng, scores = np.random.default_rng(7), []
    for _ in range(200):
        rounds = [Round(("q",) * 400, {0: tuple((rng.random(400) < 0.7).astype(float))})]
        for version in range(1, 5):
            noise = rng.random(150)
            own = np.where(rng.random(150) < 0.8, noise, rng.random(150))
            levels = 0.7 - 0.03 * (version - 1), 0.7 - 0.03 * version
            outcomes = {version - 1: tuple((noise < levels[0]).astype(float)), version: tuple((own < levels[1]) * 1.0)}
            rounds.append(Round(("q",) * 150, outcomes))
        found = Levels(measured(*rounds)).difference(4, 0)
        scores.append((found.estimate + 0.12) / found.error)
    assert abs(np.mean(scores)) < 0.2
    assert 0.85 < np.std(scores) < 1.2
