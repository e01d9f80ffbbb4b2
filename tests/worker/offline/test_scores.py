"""Scores: pass@k is unbiased, intervals are where they belong, and what has no grade is never wrong."""

import itertools
import math

import pytest

from training.statistics.intervals import wilson
from worker.offline.answers import Mark
from worker.offline.scores import Marked, pass_at_k, score

RIGHT, WRONG = Mark("graded", 1.0, ""), Mark("graded", 0.0, "")
NO_GRADE, FAILED = Mark("no_grade", None, "too long"), Mark("failed", None, "broken reference")


@pytest.mark.parametrize(("right", "total", "k"), [(0, 5, 3), (1, 5, 3), (2, 6, 2), (5, 5, 1), (3, 8, 8), (4, 5, 2)])
def test_pass_at_k_is_the_mean_over_all_choices_of_k(right: int, total: int, k: int) -> None:
    chosen = list(itertools.combinations([True] * right + [False] * (total - right), k))
    assert pass_at_k(right, total, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_pass_at_k_needs_k_answers() -> None:
    with pytest.raises(ValueError, match="k 9 of 8"):
        pass_at_k(1, 8, 9)


def test_wilson_solves_its_equation_and_keeps_a_width_at_the_ends() -> None:
    low, high = wilson(39, 100)
    for end in (low, high):
        assert abs(0.39 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 100))
    assert wilson(0, 10)[0] == 0.0
    assert wilson(0, 10)[1] > 0.2
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_the_three_states_are_counted_apart() -> None:
    marked = [
        Marked("a", RIGHT, (RIGHT, WRONG, NO_GRADE)),
        Marked("a", FAILED, (FAILED, FAILED, FAILED)),
        Marked("b", WRONG, (WRONG, WRONG, WRONG)),
    ]
    everything, a, b = score(marked, k=2)
    assert (everything.family, a.family, b.family) == ("all", "a", "b")
    assert everything.average is not None
    assert (everything.average.value, everything.average.problems) == (0.25, 2)
    assert everything.passed is not None
    assert (everything.passed.value, everything.passed.problems) == (0.5, 2)
    assert everything.greedy is not None
    assert (everything.greedy.value, everything.greedy.problems) == (0.5, 2)
    assert (everything.answers, everything.no_grade, everything.failed) == (12, 1, 4)
    assert (a.no_grade, a.failed, b.no_grade, b.failed) == (1, 4, 0, 0)


def test_nothing_graded_is_no_share() -> None:
    [only] = score([Marked("", None, (FAILED, NO_GRADE))], k=2)
    assert (only.greedy, only.average, only.passed) == (None, None, None)
    [fewer] = score([Marked("", None, (RIGHT, NO_GRADE))], k=2)
    assert fewer.average is not None
    assert fewer.passed is None


def test_intervals_hold_their_share() -> None:
    marked = [Marked("", None, (RIGHT,) * right + (WRONG,) * (8 - right)) for right in range(9)]
    [only] = score(marked, k=4)
    for one in (only.average, only.passed):
        assert one is not None
        assert 0.0 < one.low < one.value < one.high < 1.0
