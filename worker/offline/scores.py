"""What marks add up to: greedy, avg@k and pass@k, each with a 95% interval, whole and by family.

An answer without a grade, or whose grader failed, is counted as that and left out of every share: it is not wrong.
A problem with fewer than k graded answers is left out of pass@k. Plain arithmetic; leaves out asking and grading.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.statistics.intervals import bootstrap_interval, wilson
from worker.offline.answers import Mark


@dataclass(frozen=True, slots=True)
class Marked:
    """The marks of one problem."""

    family: str  # "" for none
    greedy: Mark | None  # of the one answer at temperature 0; None where it was not asked for
    sampled: tuple[Mark, ...]  # n of them


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its 95% interval."""

    value: float  # in [0, 1]
    low: float
    high: float
    problems: int  # it rests on, > 0


@dataclass(frozen=True, slots=True)
class Score:
    """How a set of problems was answered."""

    family: str  # "all" for every problem
    problems: int
    greedy: Estimate | None  # None where no problem could be counted
    average: Estimate | None  # avg@k: share of right answers, mean over problems
    passed: Estimate | None  # pass@k: chance that one of k answers is right, mean over problems
    answers: int  # sampled and greedy
    no_grade: int  # answers the grader has no opinion on
    failed: int  # answers whose grader failed


def score(marked: Sequence[Marked], k: int) -> list[Score]:
    """Score all problems, then each family where there are several."""
    families = sorted({one.family for one in marked})
    parts = [("all", list(marked))]
    if len(families) > 1:
        parts += [(family or "none", [one for one in marked if one.family == family]) for family in families]
    return [_score(family, part, k) for family, part in parts]


def pass_at_k(right: int, total: int, k: int) -> float:
    """Chance that k of the answers, drawn without replacement, hold a right one: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al., arXiv:2107.03374, equation 1.

    Raises:
        ValueError: fewer than k answers.

    """
    if not 1 <= k <= total:
        raise ValueError(f"pass@k needs 1 <= k <= answers, got k {k} of {total}")
    return 1.0 - math.comb(total - right, k) / math.comb(total, k)


def _score(family: str, marked: Sequence[Marked], k: int) -> Score:
    graded = [[mark.right for mark in one.sampled if mark.state == "graded"] for one in marked]
    every = [mark for one in marked for mark in (*one.sampled, *([one.greedy] if one.greedy else []))]
    states = Counter(mark.state for mark in every)
    return Score(
        family=family,
        problems=len(marked),
        greedy=_share(one.greedy for one in marked),
        average=_mean([sum(rights) / len(rights) for rights in graded if rights]),
        passed=_mean([pass_at_k(sum(rights), len(rights), k) for rights in graded if len(rights) >= k]),
        answers=len(every),
        no_grade=states["no_grade"],
        failed=states["failed"],
    )


def _share(marks: Iterable[Mark | None]) -> Estimate | None:
    """Share of right answers, one per problem, with Wilson's interval."""
    counted = [mark.right for mark in marks if mark is not None and mark.state == "graded"]
    if not counted:
        return None
    return Estimate(sum(counted) / len(counted), *wilson(sum(counted), len(counted)), len(counted))


def _mean(values: Sequence[float]) -> Estimate | None:
    """Mean over problems, with the bootstrap interval over problems."""
    if not values:
        return None
    return Estimate(math.fsum(values) / len(values), *bootstrap_interval(values), len(values))
